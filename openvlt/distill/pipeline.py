"""Distillation: propose -> verify -> cut -> select -> write. What was proposed is on disk before anything is decided about it."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openvlt.data.lines import append_lines, read_lines
from openvlt.data.table import problem_row
from openvlt.distill.teacher import Proposal, Teacher
from openvlt.model.load import VLM
from openvlt.types import Problem, UserError, Verdict, unique_ids
from openvlt.verify import verify_batch


@dataclass(frozen=True)
class Distillation:
    """`conf/distill/*.yaml`: `samples` candidates per problem by `teacher`, those with the right answer are cut, one is selected.

    `cut(trace)` may shorten or drop (None); `select(traces, rng)` picks among a problem's distinct survivors. `batch` problems are
    proposed for at a time, and a finished batch is never asked for again.
    """

    teacher: Teacher
    cut: Callable[[str], str | None]
    select: Callable[[Sequence[str], random.Random], list[str]]
    samples: int = 4
    batch: int = 256
    workers: int = 0
    deadline_s: float = 5.0

    def run(self, vlm: VLM, problems: Sequence[Problem], *, folder: Path, seed: int) -> dict[str, Any]:
        """Writes `proposals.jsonl`, `traces.jsonl` (rows of data=jsonl plus `response`), `images/`; returns the counts.

        Raises UserError when not one trace survives.
        """
        unique_ids(problems, "distillation")
        folder.mkdir(parents=True, exist_ok=True)
        proposals = self._propose(vlm, problems, folder / "proposals.jsonl", seed)
        verdicts = self._verify(problems, proposals)
        counts: Counter[str] = Counter(verdict.value for row in verdicts for verdict in row)
        rows = []
        for problem, group, judged in zip(problems, proposals, verdicts, strict=True):
            right = [item.response for item, verdict in zip(group, judged, strict=True) if verdict is Verdict.CORRECT]
            kept = list(dict.fromkeys(cut for cut in map(self.cut, right) if cut is not None))
            counts["solved_problems"] += bool(right)
            counts["dropped_by_cut"] += len(right) > 0 and not kept
            if kept:
                chosen = self.select(kept, random.Random(f"select|{seed}|{problem.id}"))
                rows += [problem_row(problem, folder) | {"response": response} for response in chosen]
        self._check(rows, counts)
        aside = folder / ".traces.tmp"
        aside.unlink(missing_ok=True)
        append_lines(aside, rows)
        os.replace(aside, folder / "traces.jsonl")
        words = sum(len(row["response"].split()) for row in rows) / len(rows)
        return {"problems": len(problems), "traces": len(rows), "mean_words": words, **counts}

    def _check(self, rows: list[dict[str, Any]], counts: Counter[str]) -> None:
        if not rows:
            raise UserError(
                f"distillation kept no trace (verdicts: {dict(counts)}); look at proposals.jsonl, then use a better teacher, "
                "easier problems or more samples"
            )

    def _propose(self, vlm: VLM, problems: Sequence[Problem], file: Path, seed: int) -> list[list[Proposal]]:
        known = {row["id"]: [Proposal(**item) for item in row["proposals"]] for row in read_lines(file)}
        waiting = [problem for problem in problems if problem.id not in known]
        for start in range(0, len(waiting), self.batch):
            part = waiting[start : start + self.batch]
            groups = self.teacher.propose(vlm, part, self.samples, seed)
            asked = dict(zip((problem.id for problem in part), groups, strict=True))
            append_lines(file, ({"id": name, "proposals": [asdict(item) for item in group]} for name, group in asked.items()))
            known |= asked
        return [known[problem.id] for problem in problems]

    def _verify(self, problems: Sequence[Problem], proposals: Sequence[Sequence[Proposal]]) -> list[list[Verdict]]:
        items = [
            {
                "gold": problem.answer,
                "response": item.response,
                "choices": problem.choices,
                "answer_type": problem.answer_type,
            }
            for problem, group in zip(problems, proposals, strict=True)
            for item in group
        ]
        flat = iter(verify_batch(items, workers=self.workers, deadline_s=self.deadline_s))
        return [[next(flat) for _ in group] for group in proposals]
