"""The stages over their files: each row is filed under problem and settings, so that whatever stops a run costs nothing twice."""

from __future__ import annotations

import contextlib
import functools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openvlt import distributed
from openvlt.data.prompts import question_text
from openvlt.distill.writers.base import Question
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.serving.protocol import Reply, Usage
from openvlt.storage.ledger import Ledger, content_key
from openvlt.storage.locks import lock_folder
from openvlt.types import Problem, Verdict
from openvlt.verify import verify_batch

if TYPE_CHECKING:
    from openvlt.distill.pipeline import Distillation

LEDGERS = ("caption", "reason", "verify", "cut", "select")
VERIFIED_AT_ONCE = 64  # problems
PROGRESS_EVERY_S = 60.0


@dataclass(frozen=True)
class Sample:
    """One chain and what became of it: `fate` is a verdict, or unfinished; `cut` what is left of a right one (None: dropped)."""

    number: int
    text: str
    outcome: str
    cut: str | None
    tokens: int

    @property
    def right(self) -> bool:
        return self.outcome == Verdict.CORRECT.value


@dataclass(frozen=True)
class Outcome:
    """All that is known of one problem: its caption (None: not needed, or not to be had), its chains, and the ones that are kept."""

    problem: Problem
    caption: str | None
    samples: tuple[Sample, ...]
    kept: tuple[str, ...]
    missing: int = 0


@dataclass
class DistillationRun:
    """One distillation of some problems in one folder: the ledgers of its stages, and what the calls took."""

    settings: Distillation
    vlm: VLM | None
    folder: Path
    seed: int
    usage: Usage = field(default_factory=Usage)

    def __enter__(self) -> DistillationRun:
        """Raises UserError when another process works in the folder."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock_folder(self.folder))
            except BlockingIOError:
                raise UserError(
                    f"another process is distilling in {self.folder}; wait for its end, or start a new run"
                ) from None
            self.files = {
                name: stack.enter_context(Ledger(self.folder / f"{name}.jsonl")) for name in LEDGERS
            }
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    # --- keys: what a row depends on ---------------------------------------------------------------------------------

    @functools.cached_property
    def _captioned_by(self) -> Any:
        return [self.settings.describe, self.settings.caption.signature(self.vlm)]

    @functools.cached_property
    def _reasoned_by(self) -> Any:
        return self.settings.reason.signature(self.vlm)

    def _caption_key(self, problem: Problem) -> str:
        return content_key("caption", self._captioned_by, self.seed, problem.id)

    def _chain_keys(self, problem: Problem, caption: str | None) -> list[str]:
        question = content_key(
            "reason", self._reasoned_by, self.seed, problem.id, question_text(problem), caption
        )
        return [content_key(question, sample) for sample in range(self.settings.samples)]

    # --- calls -------------------------------------------------------------------------------------------------------

    def captions(self, problems: Iterable[Problem]) -> None:
        """Every problem's caption, where the reasoner needs one."""
        if self.settings.caption is None:
            return
        ledger = self.files["caption"]

        def questions() -> Iterator[Question]:
            for problem in problems:
                if self._caption_key(problem) not in ledger:
                    yield Question(
                        replace(problem, question=self.settings.describe, choices=None), None, (0,)
                    )

        for question, _, reply in self._told(
            "caption", self.settings.caption.write(self.vlm, questions(), 1, self.seed, self.usage)
        ):
            if not reply.error:
                ledger.append(self._caption_key(question.problem), {"id": question.problem.id, **vars(reply)})

    def chains(self, problems: Iterable[Problem]) -> None:
        """`samples` chains per problem; a problem whose caption could not be had is left out."""
        ledger = self.files["reason"]

        def questions() -> Iterator[Question]:
            for problem in problems:
                there, caption = self.caption(problem)
                keys = self._chain_keys(problem, caption) if there else []
                if missing := tuple(number for number, key in enumerate(keys) if key not in ledger):
                    yield Question(problem, caption, missing)

        written = self.settings.reason.write(
            self.vlm, questions(), self.settings.samples, self.seed, self.usage
        )
        for question, sample, reply in self._told("reason", written):
            if not reply.error:
                key = self._chain_keys(question.problem, question.caption)[sample]
                ledger.append(key, {"id": question.problem.id, "sample": sample, **vars(reply)})

    def _told(
        self, stage: str, replies: Iterator[tuple[Question, int, Reply]]
    ) -> Iterator[tuple[Question, int, Reply]]:
        """The replies, with a line on how it goes once a minute and a last word on those that failed."""
        began, told, count, failed = time.monotonic(), time.monotonic(), 0, 0
        for question, sample, reply in replies:
            count, failed = count + 1, failed + bool(reply.error)
            if time.monotonic() - told > PROGRESS_EVERY_S:
                told = time.monotonic()
                rate, retries = count / (told - began), dict(self.usage.retries) or "none"
                print(
                    f"{stage}: {count} answers, {rate:.1f}/s, cost {self.usage.cost:.2f}, retries {retries}",
                    flush=True,
                )
            yield question, sample, reply
        if failed:
            print(
                f"{stage}: {failed} of {count} requests were not answered; `resume=` asks them again",
                flush=True,
            )

    def caption(self, problem: Problem) -> tuple[bool, str | None]:
        """Whether a chain can be asked for, and the caption to show (None: the writer sees the image)."""
        if self.settings.caption is None:
            return True, None
        row = self.files["caption"].get(self._caption_key(problem))
        return row is not None, None if row is None else row["text"].strip()

    # --- judging -----------------------------------------------------------------------------------------------------

    def judge(self, problems: Iterable[Problem]) -> Iterator[Outcome]:
        """Verifies, cuts and selects, some problems at a time, in order; what is filed already is read."""
        problems = iter(problems)
        while part := list(islice(problems, VERIFIED_AT_ONCE)):
            chains = [self._chains(problem) for problem in part]
            self._verify(
                [
                    (problem, key, row)
                    for problem, (_, rows) in zip(part, chains, strict=True)
                    for key, row in rows
                ]
            )
            for problem, (caption, rows) in zip(part, chains, strict=True):
                yield self._outcome(problem, caption, rows)

    def _chains(self, problem: Problem) -> tuple[str | None, list[tuple[str, dict[str, Any]]]]:
        there, caption = self.caption(problem)
        keys = self._chain_keys(problem, caption) if there else []
        rows = ((key, self.files["reason"].get(key)) for key in keys)
        return caption, [(key, row) for key, row in rows if row is not None]

    def _verify_key(self, problem: Problem, key: str) -> str:
        return content_key("verify", key, problem.answer, problem.choices, problem.answer_type)

    def _verify(self, chains: Sequence[tuple[Problem, str, dict[str, Any]]]) -> None:
        """Files a verdict for every finished chain that has none."""
        open_ones = [(p, self._verify_key(p, key), row) for p, key, row in chains if row["finished"]]
        open_ones = [(p, key, row) for p, key, row in open_ones if key not in self.files["verify"]]
        items = [
            {"gold": p.answer, "response": row["text"], "choices": p.choices, "answer_type": p.answer_type}
            for p, _, row in open_ones
        ]
        verdicts = distributed.broadcast(
            verify_batch(items, workers=self.settings.workers, deadline_s=self.settings.deadline_s)
        )
        for (problem, key, row), verdict in zip(open_ones, verdicts, strict=True):
            self.files["verify"].append(
                key, {"id": problem.id, "sample": row["sample"], "verdict": verdict.value}
            )

    def _outcome(
        self, problem: Problem, caption: str | None, rows: Sequence[tuple[str, dict[str, Any]]]
    ) -> Outcome:
        samples = tuple(self._sample(problem, key, row) for key, row in rows)
        left = list(dict.fromkeys(sample.cut for sample in samples if sample.cut is not None))
        among = ["select", self.seed, problem.id, left]
        kept = self._filed(
            "select", among, self.settings.select, problem, lambda: self._choose(problem, left)
        )
        return Outcome(problem, caption, samples, tuple(kept), self.settings.samples - len(rows))

    def _sample(self, problem: Problem, key: str, row: dict[str, Any]) -> Sample:
        fate = "unfinished"
        if row["finished"]:
            fate = self.files["verify"].get(self._verify_key(problem, key))["verdict"]
        cut = None
        if fate == Verdict.CORRECT.value:
            form = self.settings.form and function_name(self.settings.form)
            cut = self._filed(
                "cut",
                ["cut", key, form],
                self.settings.cut,
                problem,
                lambda: self._cut(row["text"], problem),
                row["sample"],
            )
        return Sample(row["sample"], row["text"], fate, cut, row["output_tokens"])

    def _cut(self, text: str, problem: Problem) -> str | None:
        return self.settings.cut(
            text if self.settings.form is None else self.settings.form(text, problem.choices)
        )

    def _choose(self, problem: Problem, left: list[str]) -> list[str]:
        return self.settings.select(left, random.Random(f"select|{self.seed}|{problem.id}")) if left else []

    def _filed(
        self,
        stage: str,
        key: list[Any],
        by: Callable[..., Any],
        problem: Problem,
        make: Callable[[], Any],
        sample: int = 0,
    ) -> Any:
        """What a stage makes of something, read where it is filed."""
        key = content_key(*key, function_name(by))
        row = self.files[stage].get(key)
        if row is None:
            row = {"id": problem.id, "sample": sample, "kept": make()}
            self.files[stage].append(key, row)
        return row["kept"]


def function_name(function: Callable[..., Any]) -> str:
    """A function or a `functools.partial` of one, with its settings, as text."""
    inner = getattr(function, "func", function)
    return f"{inner.__module__}.{inner.__qualname__}{sorted(getattr(function, 'keywords', {}).items())}"


def count_outcomes(outcomes: Iterable[Outcome], counts: Counter[str]) -> Iterator[Outcome]:
    """Passes outcomes on and counts fates, solved problems, and problems that the cut left nothing of."""
    for outcome in outcomes:
        counts.update(sample.outcome for sample in outcome.samples)
        solved = any(sample.right for sample in outcome.samples)
        counts["solved_problems"] += solved
        counts["dropped_by_cut"] += solved and not outcome.kept
        counts["missing"] += outcome.missing
        yield outcome
