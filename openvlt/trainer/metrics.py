"""metrics.csv: one row per optimiser step, continued after a restart."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from openvlt import distributed
from openvlt.storage.atomic import atomic_write, write_json
from openvlt.trackers.recorder import StageRecorder
from openvlt.trainer.module import StepModule
from openvlt.trainer.progress import PROGRESS


class MetricsFile(Callback):
    """Appends each step's metrics to a file, on the main rank, and then passes them to the run's trackers.

    After a restart, rows past the checkpoint are removed first. While it trains, `progress.json` beside the
    file says how many steps there will be.
    """

    def __init__(self, file: Path, recorder: StageRecorder) -> None:
        self.file, self.recorder = file, recorder
        self.columns: list[str] = []
        self.progress = file.with_name(PROGRESS)
        self._started = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, module: StepModule) -> None:
        self._started, before = time.monotonic(), 0.0
        if not distributed.is_main():
            return
        if self.file.is_file():
            rows = [row for row in read_metrics(self.file) if row["step"] <= module.version]
            self._rewrite(rows)
            self.recorder.replay(rows)
            before = rows[-1].get("elapsed_s", 0.0) if rows else 0.0
        self._started -= before
        write_json(
            self.progress, {"steps": module.steps, "first": module.version, "elapsed_s": round(before, 3)}
        )

    def on_train_end(self, trainer: lightning.Trainer, module: StepModule) -> None:
        if distributed.is_main():
            self.progress.unlink(missing_ok=True)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: StepModule, *_: Any) -> None:
        if distributed.is_main():
            elapsed = round(time.monotonic() - self._started, 3)
            self._append({"step": module.version, **module.metrics, "elapsed_s": elapsed})
        self.recorder.log_metrics(module.metrics, module.version)

    def _append(self, row: dict[str, float]) -> None:
        """Appends a row, or writes the file anew when the row has new columns.

        A step without a gradient lacks columns (nan in the file), so a first step may have fewer than later
        ones.
        """
        if not set(row) <= set(self.columns):
            self._rewrite([*(read_metrics(self.file) if self.file.is_file() else []), row])
            return
        with self.file.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, restval="nan").writerow(row)

    def _rewrite(self, rows: list[dict[str, float]]) -> None:
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        with atomic_write(self.file) as aside, aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="nan")
            writer.writeheader()
            writer.writerows(rows)


def read_metrics(file: Path) -> list[dict[str, float]]:
    """Reads the rows of a metrics.csv, without a half-written last line."""
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(whole)]
