"""Held-out evaluation: one completion per problem of the data's own test split, graded by the verifier.

It asks and judges as a benchmark under the protocol `openvlt` does. Its problems come from a source and a
selection, and it leaves rows.jsonl, which a run's page reads.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvlt import distributed
from openvlt.benchmark.results.statistics import wilson
from openvlt.config.validate import check_not_negative, check_positive
from openvlt.data.prompts import PromptStyle
from openvlt.data.rows.ids import check_unique_ids
from openvlt.data.rows.schema import store_images
from openvlt.data.sources.base import Selection, Source
from openvlt.errors import UserError
from openvlt.findings import answer_findings
from openvlt.model.load import VLM
from openvlt.rollout.base import Generator, Sampling
from openvlt.rollout.batches import generate_in_batches
from openvlt.types import Completion, Problem, Verdict
from openvlt.verify.completions import explain_completion, verify_completions

ROWS_WITH_IMAGES = 60  # pictures in memory are written to disk for this many rows; files are always named


@dataclass(frozen=True)
class HeldoutEvaluation:
    """The settings of `evaluation:`: which problems, how to decode, `batch` problems at a time."""

    generator: Generator
    prompt: PromptStyle
    selection: Selection
    sampling: Sampling
    batch: int = 256
    workers: int = 0
    deadline_s: float = 5.0

    def __post_init__(self) -> None:
        check_positive(self, "evaluation", "batch", "deadline_s")
        check_not_negative(self, "evaluation", "workers")
        if self.sampling.n != 1:
            raise UserError(
                f"evaluation.sampling.n={self.sampling.n}; held-out problems are answered once, "
                "a benchmark takes samples=<n>"
            )

    def run(self, vlm: VLM, source: Source, *, seed: int, rows: Path | None = None) -> dict[str, Any]:
        """Accuracy, interval, verdicts and lengths, overall and per level; rows go to the file `rows`."""
        problems = source.problems(self.selection, seed)
        if not problems:
            raise UserError("the evaluation set is empty; check the data and its split")
        check_unique_ids(problems, "evaluation")
        batches = generate_in_batches(
            self.generator, vlm, problems, self.prompt, self.sampling, batch=self.batch, seed=seed
        )
        completions = [completion for _, batch in batches for completion in batch]
        verdicts = verify_completions(problems, completions, workers=self.workers, deadline_s=self.deadline_s)
        if rows is not None and distributed.is_main():
            write_heldout_rows(rows, problems, completions, verdicts)
        return {
            **summarise_heldout(problems, completions, verdicts),
            "skipped_rows": getattr(source, "skipped", {}),
        }


def summarise_heldout(
    problems: Sequence[Problem], completions: Sequence[Completion], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Counts and shares of one evaluation; `levels` holds the same for each difficulty there is."""
    correct = [verdict is Verdict.CORRECT for verdict in verdicts]
    by_level: dict[int, list[bool]] = defaultdict(list)
    for problem, is_correct in zip(problems, correct, strict=True):
        if problem.level is not None:
            by_level[problem.level].append(is_correct)
    return {
        **accuracy(correct),
        "verdicts": {verdict.value: count for verdict, count in Counter(verdicts).items()},
        "length": sum(len(completion.token_ids) for completion in completions) / len(completions),
        "finished": sum(completion.finished for completion in completions) / len(completions),
        "findings": answer_findings(
            Counter(verdict.value for verdict in verdicts),
            cut=sum(not completion.finished for completion in completions),
            texts=[completion.text for completion in completions],
            golds=[problem.answer for problem in problems],
        ),
        "levels": {str(level): accuracy(rows) for level, rows in sorted(by_level.items())},
    }


def accuracy(correct: Sequence[bool]) -> dict[str, Any]:
    """`accuracy`, `correct`, `n` and Wilson's 95 % `interval`."""
    count, n = sum(correct), len(correct)
    return {"accuracy": count / n, "correct": count, "n": n, "interval": list(wilson(count, n))}


def write_heldout_rows(
    file: Path, problems: Sequence[Problem], completions: Sequence[Completion], verdicts: Sequence[Verdict]
) -> None:
    """Writes one JSON line per problem, with its verdict and how it was reached.

    Pictures in memory are kept of the first rows, files are named for all.
    """
    with file.open("w", encoding="utf-8", newline="\n") as lines:
        rows = zip(problems, completions, verdicts, strict=True)
        for index, (problem, completion, verdict) in enumerate(rows):
            extracted, explanation = explain_completion(problem, completion, verdict)
            row = {
                "id": problem.id,
                "source": problem.source,
                "level": problem.level,
                "answer_type": problem.answer_type,
                "choices": problem.choices,
                "question": problem.question,
                "gold": problem.answer,
                "response": completion.text,
                "verdict": verdict.value,
                "extracted": extracted,
                "explanation": explanation,
                "tokens": len(completion.token_ids),
                "finished": completion.finished,
            }
            if index < ROWS_WITH_IMAGES or all(isinstance(image, Path) for image in problem.images):
                row["images"] = store_images(problem, file.parent)
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
