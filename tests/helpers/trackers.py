"""Trackers that note what they are told, and one that fails in mid-run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openvlt.trackers.base import TableRow, TrackedRun


@dataclass
class Notebook:
    """Keeps everything in memory; `fails_at` is the step from which its metrics can't be kept."""

    fails_at: float = float("inf")
    buffers: bool = False
    run: TrackedRun | None = None
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    tables: list[tuple[str, list[TableRow], int]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    end: tuple[dict[str, float], bool] | None = None

    def check(self) -> None:
        pass

    def start(self, run: TrackedRun) -> str:
        self.run = run
        return "in memory"

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        if step >= self.fails_at:
            raise ConnectionError("no route to host\nand more lines")
        self.metrics += [(name, value, step) for name, value in values.items()]

    def log_table(self, name: str, rows: Sequence[TableRow], step: int) -> None:
        self.tables.append((name, list(rows), step))

    def log_file(self, file: Path) -> None:
        self.files.append(file)

    def finish(self, summary: Mapping[str, float], done: bool) -> None:
        self.end = (dict(summary), done)

    def series(self, name: str) -> list[tuple[int, Any]]:
        """(step, value) of one name, in order."""
        return [(step, value) for key, value, step in self.metrics if key == name]
