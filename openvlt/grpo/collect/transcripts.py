"""Writes some groups of every rollout batch to disk: rollouts.jsonl, and rollouts.parquet at the end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from openvlt import distributed
from openvlt.data.rows.schema import store_images
from openvlt.storage.jsonl import append_lines, read_lines
from openvlt.trackers.recorder import StageRecorder
from openvlt.types import ScoredRollouts


class Transcripts:
    """Writes `per_rollout` groups of each rollout batch: one JSON line per completion, Parquet at the end.

    The main rank does; on others nothing happens. The `recorder` shows the rows, too.
    """

    def __init__(self, folder: Path, per_rollout: int, recorder: StageRecorder | None = None) -> None:
        self.recorder = recorder or StageRecorder()
        self.lines, self.table = folder / "rollouts.jsonl", folder / "rollouts.parquet"
        self.per_rollout = per_rollout

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
        """Appends the first groups of a rollout batch."""
        if not distributed.is_main():
            return
        rows = []
        for row, group in enumerate(rollouts.group_N.tolist()):
            if group < self.per_rollout:
                rows.append(_transcript(rollouts, row, group, step, self.lines.parent))
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


def _transcript(rollouts: ScoredRollouts, row: int, group: int, step: int, folder: Path) -> dict[str, Any]:
    problem, completion = rollouts.problems[group], rollouts.completions[row]
    return {
        "step": step,
        "problem": problem.id,
        "question": problem.question,
        "gold": problem.answer,
        "response": completion.text,
        "tokens": len(completion.token_ids),
        "finished": completion.finished,
        "verdict": rollouts.verdicts[row].value,
        "reward": float(rollouts.reward_N[row]),
        **{f"reward_{name}": _value_or_none(term_N[row]) for name, term_N in rollouts.rewards.items()},
        "advantage": float(rollouts.adv_NT[row][: len(completion.token_ids)].mean()),
        "kept": bool(rollouts.keep_N[row]),
        "images": store_images(problem, folder),
    }


def _value_or_none(value: Tensor) -> float | None:
    """A reward term's value; None where it doesn't apply."""
    return None if value.isnan() else float(value)
