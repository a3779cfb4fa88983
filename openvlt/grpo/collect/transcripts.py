"""Writes some groups of every rollout batch to disk: rollouts.jsonl, and rollouts.parquet at the end.

docs/read_a_run.md lists the columns.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from torch import Tensor

from openvlt import distributed
from openvlt.data.rows.schema import store_images
from openvlt.storage.jsonl import append_lines, read_lines
from openvlt.trackers.recorder import StageRecorder
from openvlt.types import Origin, ScoredRollouts, Verdict
from openvlt.verify.completions import explain_completion


class Transcripts:
    """Writes `per_rollout` groups of each rollout batch: one JSON line per completion, Parquet at the end.

    The groups are drawn by lot from `seed` and the step, with a mixed one (some completions right, some not)
    wherever the batch has one. `extraction` is the reward's. The main rank writes; on others nothing happens.
    The `recorder` shows the rows, too.
    """

    def __init__(
        self,
        folder: Path,
        per_rollout: int,
        recorder: StageRecorder | None = None,
        *,
        seed: int = 0,
        extraction: str = "any",
    ) -> None:
        self.recorder = recorder or StageRecorder()
        self.lines, self.table = folder / "rollouts.jsonl", folder / "rollouts.parquet"
        self.per_rollout, self.seed, self.extraction = per_rollout, seed, extraction

    def drop_after(self, step: int) -> None:
        """Removes the rollouts of steps that a restart makes again, also after `close`."""
        from pyarrow import parquet

        if not distributed.is_main():
            return
        closed = not self.lines.is_file() and self.table.is_file()
        rows = parquet.read_table(self.table).to_pylist() if closed else read_lines(self.lines)
        aside = self.lines.with_suffix(".tmp")
        aside.unlink(missing_ok=True)
        append_lines(aside, [row for row in rows if row["step"] < step])
        os.replace(aside, self.lines)

    def add(self, rollouts: ScoredRollouts, step: int) -> None:
        """Appends the groups that the lot falls on."""
        if not distributed.is_main():
            return
        chosen = set(
            draw_groups(rollouts, self.per_rollout, random.Random(f"transcripts/{self.seed}/{step}"))
        )
        groups = rollouts.group_N.tolist()
        batch = {"step": step, "groups": len(set(groups))}
        rows = [
            batch | self._transcript(rollouts, row, group)
            for row, group in enumerate(groups)
            if group in chosen
        ]
        append_lines(self.lines, rows)
        self.recorder.log_rollouts(rows, step + 1, self.lines.parent)

    def close(self) -> None:
        """Replaces the lines by one Parquet file."""
        import pyarrow as arrow
        from pyarrow import parquet

        if not distributed.is_main():
            return
        if rows := read_lines(self.lines):
            aside = self.table.with_suffix(".tmp")
            parquet.write_table(arrow.Table.from_pylist(rows), aside)
            os.replace(aside, self.table)
        self.lines.unlink(missing_ok=True)

    def _transcript(self, rollouts: ScoredRollouts, row: int, group: int) -> dict[str, Any]:
        problem, completion = rollouts.problems[group], rollouts.completions[row]
        extracted, explanation = explain_completion(
            problem, completion, rollouts.verdicts[row], extraction=self.extraction
        )
        tokens = len(completion.token_ids)
        return {
            "problem": problem.id,
            "source": problem.source,
            "level": problem.level,
            "question": problem.question,
            "gold": problem.answer,
            "response": completion.text,
            "tokens": tokens,
            "finished": completion.finished,
            "origin": Origin(int(rollouts.origin_N[row])).name.lower(),
            "verdict": rollouts.verdicts[row].value,
            "extracted": extracted,
            "explanation": explanation,
            "reward": float(rollouts.reward_N[row]),
            **{f"reward_{name}": _value_or_none(term_N[row]) for name, term_N in rollouts.rewards.items()},
            "advantage": float(rollouts.adv_NT[row][:tokens].mean()),
            "kept": bool(rollouts.keep_N[row]),
            "images": store_images(problem, self.lines.parent),
        }


def draw_groups(rollouts: ScoredRollouts, amount: int, lot: random.Random) -> list[int]:
    """The numbers of up to `amount` groups, drawn by `lot`; one is mixed where there is a mixed one."""
    right: dict[int, set[bool]] = {}
    for group, verdict in zip(rollouts.group_N.tolist(), rollouts.verdicts, strict=True):
        right.setdefault(group, set()).add(verdict is Verdict.CORRECT)
    order = lot.sample(sorted(right), len(right))
    chosen = order[:amount]
    mixed = [group for group in order if len(right[group]) > 1]
    if chosen and mixed and mixed[0] not in chosen:
        chosen[-1] = mixed[0]
    return chosen


def _value_or_none(value: Tensor) -> float | None:
    """A reward term's value; None where it doesn't apply."""
    return None if value.isnan() else float(value)
