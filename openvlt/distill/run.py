"""The stages of a distillation. Each has a ledger whose keys hold all that a row depends on.

So whatever stops a run, no call is repeated, and other settings repeat only the calls that they change.
"""

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
from typing import Any

from openvlt import distributed
from openvlt.data.prompts import conversation_text
from openvlt.distill.settings import Distillation
from openvlt.distill.writers.base import Question
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.serving.protocol import Reply, Usage, describe_failures
from openvlt.storage.jsonl import append_lines
from openvlt.storage.ledger import Ledger, content_key
from openvlt.storage.locks import lock_folder
from openvlt.types import Completion, Problem, Verdict
from openvlt.verify.completions import verify_completions

LEDGERS = ("caption", "reason", "verify", "cut", "select")
VERIFIED_AT_ONCE = 64  # problems
PROGRESS_EVERY_S = 60.0
FAILURES = "failures.jsonl"  # a row per request that failed
TOLD_AT_ONCE = 3  # causes


@dataclass(frozen=True)
class Chain:
    """A row of reason.jsonl: a chain as it was written, with its key."""

    key: str
    sample: int
    text: str
    finished: bool
    output_tokens: int


@dataclass(frozen=True)
class Sample:
    """A verified chain: `outcome` is a verdict's value or "unfinished", `cut` what is left of it, or None."""

    number: int
    text: str
    outcome: str
    cut: str | None
    tokens: int

    @property
    def correct(self) -> bool:
        """Whether the verdict is CORRECT."""
        return self.outcome == Verdict.CORRECT.value


@dataclass(frozen=True)
class DistilledProblem:
    """A problem with its chains and the traces that are kept; `missing` chains couldn't be had.

    `caption` is None where the writer of chains sees the image, or where no caption could be had.
    """

    problem: Problem
    caption: str | None
    samples: tuple[Sample, ...]
    kept: tuple[str, ...]
    missing: int = 0


@dataclass
class DistillationRun:
    """One distillation in one folder, with the ledgers of its stages open; `usage` counts its calls."""

    settings: Distillation
    vlm: VLM | None
    folder: Path
    seed: int
    usage: Usage = field(default_factory=Usage)
    ledgers: dict[str, Ledger] = field(init=False)

    def __enter__(self) -> DistillationRun:
        """Raises UserError if another process works in the folder. All ranks enter together."""
        distributed.barrier()  # an earlier run's rows are all written
        with contextlib.ExitStack() as stack:
            try:
                if distributed.is_main():
                    stack.enter_context(lock_folder(self.folder))
            except BlockingIOError:
                raise UserError(
                    f"another process is distilling in {self.folder}; wait for its end, or start a new run"
                ) from None
            self.ledgers = {
                name: stack.enter_context(Ledger(self.folder / f"{name}.jsonl")) for name in LEDGERS
            }
            distributed.barrier()  # every rank has read the same rows
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    # --- keys: what a row depends on ------------------------------------------------------------------------

    @functools.cached_property
    def _caption_signature(self) -> Any:
        captioner = self.settings.caption
        assert captioner is not None
        return [self.settings.describe, captioner.signature(self.vlm)]

    @functools.cached_property
    def _chain_signature(self) -> Any:
        return self.settings.reason.signature(self.vlm)

    def _caption_key(self, problem: Problem) -> str:
        return content_key("caption", self._caption_signature, self.seed, problem.id)

    def _chain_keys(self, problem: Problem, caption: str | None) -> list[str]:
        question = content_key(
            "reason", self._chain_signature, self.seed, problem.id, conversation_text(problem), caption
        )
        return [content_key(question, sample) for sample in range(self.settings.samples)]

    def _verdict_key(self, problem: Problem, chain: Chain) -> str:
        return content_key("verify", chain.key, problem.answer, problem.choices, problem.answer_type)

    # --- what a resumed run finds ---------------------------------------------------------------------------

    def check_ledgers(self) -> None:
        """Raises UserError when answers that later rows were made from are gone: they would be asked anew."""
        chains, verdicts = len(self.ledgers["reason"]), len(self.ledgers["verify"])
        captions = len(self.ledgers["caption"]) if self.settings.caption is not None else chains
        lost = "caption" if chains and not captions else "reason" if verdicts and not chains else None
        if lost is not None:
            raise UserError(
                f"{self.folder / lost}.jsonl is missing or empty, though later stages used its answers; "
                "put it back, or start a new run"
            )

    def has_unanswered(self, problems: Iterable[Problem]) -> bool:
        """Whether a caption or a chain is still to be written."""
        for problem in problems:
            ready, caption = self._read_caption(problem)
            if not ready or any(
                key not in self.ledgers["reason"] for key in self._chain_keys(problem, caption)
            ):
                return True
        return False

    # --- calls ----------------------------------------------------------------------------------------------

    def write_captions(self, problems: Iterable[Problem]) -> None:
        """Writes the caption of every problem, if the writer of chains needs captions."""
        captioner, ledger = self.settings.caption, self.ledgers["caption"]
        if captioner is None:
            return

        def questions() -> Iterator[Question]:
            for problem in problems:
                if self._caption_key(problem) not in ledger:
                    asked = replace(problem, question=self.settings.describe, choices=None, turns=())
                    yield Question(asked, None, (0,))

        replies = captioner.write(self.vlm, questions(), 1, self.seed, self.usage)
        for question, _, reply in self._report_progress("caption", replies):
            if not reply.error:
                ledger.append(self._caption_key(question.problem), {"id": question.problem.id, **vars(reply)})

    def write_chains(self, problems: Iterable[Problem]) -> None:
        """Writes `samples` chains per problem; a problem whose caption couldn't be had is left out."""
        writer, ledger = self.settings.reason, self.ledgers["reason"]

        def questions() -> Iterator[Question]:
            for problem in problems:
                ready, caption = self._read_caption(problem)
                keys = self._chain_keys(problem, caption) if ready else []
                if missing := tuple(number for number, key in enumerate(keys) if key not in ledger):
                    yield Question(problem, caption, missing)

        replies = writer.write(self.vlm, questions(), self.settings.samples, self.seed, self.usage)
        for question, sample, reply in self._report_progress("reason", replies):
            if not reply.error:
                key = self._chain_keys(question.problem, question.caption)[sample]
                ledger.append(key, {"id": question.problem.id, "sample": sample, **vars(reply)})

    def _report_progress(
        self, stage: str, replies: Iterator[tuple[Question, int, Reply]]
    ) -> Iterator[tuple[Question, int, Reply]]:
        """Passes the replies on. Prints the rate once a minute, and why requests fail.

        A cause is told when it is met first, and all of them with their counts at the end. Every failure is
        kept in failures.jsonl.
        """
        began = reported = time.monotonic()
        tally = Usage()
        for question, sample, reply in replies:
            tally.count(reply)
            if reply.error:
                row = {"stage": stage, "id": question.problem.id, "sample": sample, "error": reply.error}
                append_lines(self.folder / FAILURES, [row])
                if tally.failures.get(reply.error) == 1 and len(tally.failures) <= TOLD_AT_ONCE:
                    print(f"{stage}: a request failed: {reply.error}", flush=True)
            if time.monotonic() - reported > PROGRESS_EVERY_S:
                reported = time.monotonic()
                rate, retries = tally.requests / (reported - began), dict(self.usage.retries) or "none"
                cost = f"cost {self.usage.cost:.2f}"
                print(
                    f"{stage}: {tally.requests} answers, {rate:.1f}/s, {cost}, retries {retries}", flush=True
                )
            yield question, sample, reply
        if tally.failed:
            print(
                f"{stage}: {tally.failed} of {tally.requests} requests failed: "
                f"{describe_failures(tally.failures)}; `resume=` asks them again",
                flush=True,
            )

    def _read_caption(self, problem: Problem) -> tuple[bool, str | None]:
        """Whether chains can be written, and the caption for them (None: the writer sees the image)."""
        if self.settings.caption is None:
            return True, None
        row = self.ledgers["caption"].get(self._caption_key(problem))
        return row is not None, None if row is None else row["text"].strip()

    # --- verdicts, cut and selection ------------------------------------------------------------------------

    def verify_and_select(self, problems: Iterable[Problem]) -> Iterator[DistilledProblem]:
        """Verifies, cuts and selects the chains of some problems at a time, in order.

        What the ledgers hold is read instead.
        """
        problems = iter(problems)
        while part := list(islice(problems, VERIFIED_AT_ONCE)):
            read = [(problem, *self._read_chains(problem)) for problem in part]
            self._verify([(problem, chain) for problem, _, chains in read for chain in chains])
            for problem, caption, chains in read:
                yield self._select(problem, caption, chains)

    def _read_chains(self, problem: Problem) -> tuple[str | None, list[Chain]]:
        ready, caption = self._read_caption(problem)
        keys = self._chain_keys(problem, caption) if ready else []
        rows = ((key, self.ledgers["reason"].get(key)) for key in keys)
        return caption, [
            Chain(key, row["sample"], row["text"], row["finished"], row["output_tokens"])
            for key, row in rows
            if row is not None
        ]

    def _verify(self, chains: Sequence[tuple[Problem, Chain]]) -> None:
        """Adds the verdicts that the ledger lacks; unfinished chains get none."""
        ledger = self.ledgers["verify"]
        keys = [self._verdict_key(problem, chain) for problem, chain in chains]
        unverified = [
            (problem, key, chain)
            for (problem, chain), key in zip(chains, keys, strict=True)
            if chain.finished and key not in ledger
        ]
        verdicts = verify_completions(
            [problem for problem, _, _ in unverified],
            [Completion((), chain.text, chain.finished) for _, _, chain in unverified],
            workers=self.settings.workers,
            deadline_s=self.settings.deadline_s,
        )
        for (problem, key, chain), verdict in zip(unverified, verdicts, strict=True):
            ledger.append(key, {"id": problem.id, "sample": chain.sample, "verdict": verdict.value})

    def _select(self, problem: Problem, caption: str | None, chains: Sequence[Chain]) -> DistilledProblem:
        samples = tuple(self._sample(problem, chain) for chain in chains)
        left = list(dict.fromkeys(sample.cut for sample in samples if sample.cut is not None))
        key = content_key("select", self.seed, problem.id, left, describe_function(self.settings.select))
        rng = random.Random(f"select|{self.seed}|{problem.id}")
        kept = self._load_or_make(
            "select", key, problem, 0, lambda: self.settings.select(left, rng) if left else []
        )
        return DistilledProblem(problem, caption, samples, tuple(kept), self.settings.samples - len(chains))

    def _sample(self, problem: Problem, chain: Chain) -> Sample:
        outcome, cut = "unfinished", None
        if chain.finished:
            row = self.ledgers["verify"].get(self._verdict_key(problem, chain))
            assert row is not None  # `_verify` came before
            outcome = row["verdict"]
        if outcome == Verdict.CORRECT.value:
            form = self.settings.form and describe_function(self.settings.form)
            key = content_key("cut", chain.key, form, describe_function(self.settings.cut))
            cut = self._load_or_make(
                "cut", key, problem, chain.sample, lambda: self._form_and_cut(problem, chain)
            )
        return Sample(chain.sample, chain.text, outcome, cut, chain.output_tokens)

    def _form_and_cut(self, problem: Problem, chain: Chain) -> str | None:
        form = self.settings.form
        return self.settings.cut(chain.text if form is None else form(chain.text, problem.choices))

    def _load_or_make(
        self, stage: str, key: str, problem: Problem, sample: int, make: Callable[[], Any]
    ) -> Any:
        """What the stage's ledger holds under this key; made and added where it isn't there."""
        row = self.ledgers[stage].get(key)
        if row is None:
            row = {"id": problem.id, "sample": sample, "kept": make()}
            self.ledgers[stage].append(key, row)
        return row["kept"]


def describe_function(function: Callable[..., Any]) -> str:
    """The name of a function, or of the one in a `functools.partial`, with its settings."""
    inner = getattr(function, "func", function)
    return f"{inner.__module__}.{inner.__qualname__}{sorted(getattr(function, 'keywords', {}).items())}"


def count_outcomes(problems: Iterable[DistilledProblem], counts: Counter[str]) -> Iterator[DistilledProblem]:
    """Passes the problems on; counts outcomes, missing chains, solved problems, those that a cut dropped."""
    for distilled in problems:
        counts.update(sample.outcome for sample in distilled.samples)
        solved = any(sample.correct for sample in distilled.samples)
        counts["solved_problems"] += solved
        counts["dropped_by_cut"] += solved and not distilled.kept
        counts["missing"] += distilled.missing
        yield distilled
