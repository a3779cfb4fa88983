"""Distillation: caption -> reason -> verify -> cut -> select -> write. What was answered is on disk before anything is decided about it."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvlt.data.sources.schema import check_unique_ids, problem_row
from openvlt.distill.run import DistillationRun, Outcome, count_outcomes
from openvlt.distill.writers.base import TextWriter
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.storage.jsonl import append_lines
from openvlt.types import Problem


@dataclass(frozen=True)
class Distillation:
    """`conf/distill/*.yaml`: `samples` chains per problem by `reason`, those with the right answer are cut, one is selected.

    With `caption`, that engine first describes each image (`describe` is its question) and `reason` reads the description; without,
    `reason` sees the image. `form(trace, choices)` brings a right chain into the form that is trained, `cut(trace)` may shorten or drop
    it (None), `select(traces, rng)` picks among a problem's distinct survivors.
    """

    reason: TextWriter
    cut: Callable[[str], str | None]
    select: Callable[[Sequence[str], random.Random], list[str]]
    caption: TextWriter | None = None
    describe: str = "Describe the image."
    form: Callable[[str, Sequence[str] | None], str] | None = None
    samples: int = 4
    workers: int = 0
    deadline_s: float = 5.0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError(f"distill.samples={self.samples}; ask for at least one chain per problem")
        if self.samples > 1 and not self.reason.random:
            raise UserError(
                f"distill.samples={self.samples} chains of a problem would all be the same, since distill.reason draws nothing at random; "
                "give it a temperature, or set distill.samples=1"
            )

    @property
    def local(self) -> bool:
        """Whether the run's own model writes anything."""
        return self.reason.local or (self.caption is not None and self.caption.local)

    def check_servers(self) -> None:
        """Raises UserError when a server is needed that nobody answers for: better now than after the captions."""
        for name, engine in (("caption", self.caption), ("reason", self.reason)):
            server = getattr(engine, "server", None)
            if server is not None and not server.reachable():
                urls = ", ".join(endpoint.url for endpoint in server.endpoints)
                where = f"distill.{name}.server.endpoints.urls=[http://<host>:<port>/v1]"
                raise UserError(f"no server answers at {urls}; start it, or correct the url: {where}")

    def run(self, vlm: VLM | None, problems: Sequence[Problem], *, folder: Path, seed: int) -> dict[str, Any]:
        """Writes the stages' ledgers, `traces.jsonl` (rows of data=jsonl plus `response`) and `images/`; returns the counts.

        Problems are taken one after the other, so that memory does not grow with their number. Raises UserError when not one trace
        survives.
        """
        check_unique_ids(problems, "distillation")
        folder.mkdir(parents=True, exist_ok=True)
        counts: Counter[str] = Counter()
        with DistillationRun(self, vlm, folder, seed) as work:
            work.captions(problems)
            work.chains(problems)
            traces, words = _write(count_outcomes(work.judge(problems), counts), folder)
        if not traces:
            raise UserError(
                f"distillation kept no trace (verdicts: {dict(counts)}); look at {folder / 'reason.jsonl'}, then use a better teacher, "
                "easier problems or more samples"
            )
        return {"problems": len(problems), "traces": traces, "mean_words": words / traces, **counts}


def _write(outcomes: Iterable[Outcome], folder: Path) -> tuple[int, int]:
    """`traces.jsonl`, whole or not at all; how many traces and words it has."""
    traces = words = 0
    aside = folder / ".traces.tmp"
    aside.unlink(missing_ok=True)
    for outcome in outcomes:
        if outcome.kept:
            append_lines(aside, trace_rows(outcome, folder))
            traces += len(outcome.kept)
            words += sum(len(response.split()) for response in outcome.kept)
    if traces:
        os.replace(aside, folder / "traces.jsonl")
    return traces, words


def trace_rows(outcome: Outcome, folder: Path) -> list[dict[str, Any]]:
    """The rows of an outcome's kept traces; its pictures are saved beside the file."""
    row = problem_row(outcome.problem, folder)
    return [row | {"response": response} for response in outcome.kept]
