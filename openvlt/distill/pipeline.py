"""Distillation: caption, reason, verify, cut, select, write. Every reply is on disk before it is used."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openvlt import distributed
from openvlt.data.rows.ids import check_unique_ids
from openvlt.data.rows.schema import problem_row
from openvlt.distill.run import DistillationRun, DistilledProblem, count_outcomes
from openvlt.distill.settings import Distillation
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.serving.protocol import describe_failures
from openvlt.storage.atomic import atomic_write
from openvlt.storage.own_files import sign_files
from openvlt.types import Problem


def run_distillation(
    settings: Distillation, vlm: VLM | None, problems: Sequence[Problem], *, folder: Path, seed: int
) -> dict[str, Any]:
    """Distils the problems and returns the counts.

    Writes into `folder` the ledgers of the stages, `traces.jsonl` (rows of data=jsonl plus `response`) and
    `images/`. Problems are taken one after the other, so that memory does not grow with their number. Raises
    UserError if no trace is left.
    """
    check_unique_ids(problems, "distillation")
    if distributed.is_main():
        folder.mkdir(parents=True, exist_ok=True)
    with DistillationRun(settings, vlm, folder, seed) as run:
        run.check_ledgers()
        if run.has_unanswered(problems):
            settings.check_servers()
        run.write_captions(problems)
        run.write_chains(problems)
        return {"problems": len(problems), **_write_traces(run, problems)}


def _write_traces(run: DistillationRun, problems: Sequence[Problem]) -> dict[str, Any]:
    """Writes `traces.jsonl`, whole or not at all; returns what was counted meanwhile."""
    counts: Counter[str] = Counter()
    traces = words = 0
    with (
        atomic_write(run.folder / "traces.jsonl") as aside,
        aside.open("w", encoding="utf-8", newline="\n") as lines,
    ):
        for distilled in count_outcomes(run.verify_and_select(problems), counts):
            for row in trace_rows(distilled, run.folder) if distilled.kept else ():
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            traces += len(distilled.kept)
            words += sum(len(response.split()) for response in distilled.kept)
        if not traces:
            raise UserError(_explain_no_trace(run, counts))
    sign_files(run.folder / "traces.jsonl")
    return {"traces": traces, "mean_words": words / traces, **counts}


def write_released_traces(problems: Sequence[Problem], folder: Path) -> dict[str, Any]:
    """Writes `traces.jsonl` of rows with a whole response, and returns the counts.

    Raises UserError for a row that has a bare answer only.
    """
    check_unique_ids(problems, "released traces")
    if bare := [problem.id for problem in problems if "reply" not in problem.meta]:
        raise UserError(
            f"{len(bare)} of {len(problems)} rows have a bare answer instead of a response, {bare[0]} first; "
            "traces end a conversation, or stand where the answer does, and have tags or a solution in words"
        )
    with (
        atomic_write(folder / "traces.jsonl") as aside,
        aside.open("w", encoding="utf-8", newline="\n") as lines,
    ):
        for problem in problems:
            row = problem_row(problem, folder) | {"response": problem.meta["reply"]}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    sign_files(folder / "traces.jsonl")
    words = sum(len(problem.meta["reply"].split()) for problem in problems)
    count = len(problems)
    return {"problems": count, "traces": count, "mean_words": words / max(1, count)}


def _explain_no_trace(run: DistillationRun, counts: Mapping[str, int]) -> str:
    """Why no trace is left, and what helps: where requests failed, the server's own words."""
    if run.usage.failed == run.usage.requests > 0:
        failed = f"{run.usage.failed} of {run.usage.requests} requests failed"
        causes = describe_failures(run.usage.failures)
        return f"distillation kept no trace: {failed}: {causes}; mend that, then resume={run.folder}"
    failed = f"; {run.usage.failed} requests failed: {describe_failures(run.usage.failures)}"
    return (
        f"distillation kept no trace (verdicts: {dict(counts)}{failed if run.usage.failed else ''}); "
        f"look at {run.folder / 'reason.jsonl'}, then use a better teacher, easier problems or more samples"
    )


def trace_rows(distilled: DistilledProblem, folder: Path) -> list[dict[str, Any]]:
    """One row per kept trace of a problem; its pictures are saved in `folder`."""
    row = problem_row(distilled.problem, folder)
    return [row | {"response": response} for response in distilled.kept]
