"""Scoring a model on problems: greedy or sampled answers, verdicts, accuracy with its interval."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvlt.benchmark.results.statistics import wilson
from openvlt.config.validate import check_not_negative, check_positive
from openvlt.data.prompts import PromptStyle
from openvlt.data.sources.base import Selection, Source
from openvlt.data.sources.schema import check_unique_ids, store_images
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.rollout.base import Generator, Sampling
from openvlt.rollout.batches import generate_in_batches
from openvlt.types import Completion, Problem, Verdict
from openvlt.verify.completions import verify_completions

WITH_IMAGES = 60  # answers whose pictures are kept beside them, for the run's page


@dataclass(frozen=True)
class HeldoutEvaluation:
    """`conf/evaluation`: which problems, how to decode, `batch` problems at a time. One answer per problem."""

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
                f"evaluation.sampling.n={self.sampling.n}; held-out problems are answered once, a benchmark takes samples=<n>"
            )

    def run(self, vlm: VLM, source: Source, *, seed: int, rows: Path | None = None) -> dict[str, Any]:
        """Accuracy, interval, verdicts and lengths, overall and per level; each row goes to the JSONL file `rows`."""
        problems = source.problems(self.selection, seed)
        if not problems:
            raise UserError("the evaluation set is empty; check the data and its split")
        check_unique_ids(problems, "evaluation")
        batches = generate_in_batches(
            self.generator, vlm, problems, self.prompt, self.sampling, batch=self.batch, seed=seed
        )
        answers = [completion for _, batch in batches for completion in batch]
        verdicts = verify_completions(problems, answers, workers=self.workers, deadline_s=self.deadline_s)
        if rows is not None:
            write_heldout_rows(rows, problems, answers, verdicts)
        return {
            **summarise_heldout(problems, answers, verdicts),
            "skipped_rows": getattr(source, "skipped", {}),
        }


def summarise_heldout(
    problems: Sequence[Problem], answers: Sequence[Completion], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Counts and shares of one evaluation; `levels` holds the same for each difficulty there is."""
    right = [verdict is Verdict.CORRECT for verdict in verdicts]
    by_level: dict[int, list[bool]] = defaultdict(list)
    for problem, correct in zip(problems, right, strict=True):
        if problem.level is not None:
            by_level[problem.level].append(correct)
    return {
        **accuracy(right),
        "verdicts": {verdict.value: count for verdict, count in Counter(verdicts).items()},
        "length": sum(len(answer.token_ids) for answer in answers) / len(answers),
        "finished": sum(answer.finished for answer in answers) / len(answers),
        "levels": {str(level): accuracy(rows) for level, rows in sorted(by_level.items())},
    }


def accuracy(right: Sequence[bool]) -> dict[str, Any]:
    """`accuracy`, `correct`, `n` and Wilson's 95 % `interval`."""
    correct, n = sum(right), len(right)
    return {"accuracy": correct / n, "correct": correct, "n": n, "interval": list(wilson(correct, n))}


def write_heldout_rows(
    file: Path, problems: Sequence[Problem], answers: Sequence[Completion], verdicts: Sequence[Verdict]
) -> None:
    """One JSON line per answer: id, question, gold, response, verdict, tokens; the first ones name their images too."""
    with file.open("w", encoding="utf-8", newline="\n") as lines:
        for index, (problem, answer, verdict) in enumerate(zip(problems, answers, verdicts, strict=True)):
            row = {
                "id": problem.id,
                "level": problem.level,
                "question": problem.question,
                "gold": problem.answer,
                "response": answer.text,
                "verdict": verdict.value,
                "tokens": len(answer.token_ids),
                "finished": answer.finished,
            }
            if index < WITH_IMAGES:
                row["images"] = store_images(problem, file.parent)
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
