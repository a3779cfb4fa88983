"""`logger=tensorboard`: event files in the run's folder."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from openvlt.storage.markdown import markdown_table
from openvlt.trackers.base import TableRow, TrackedRun, open_thumbnail, require_packages


@dataclass
class TensorBoardTracker:
    """`conf/logger/tensorboard.yaml`: scalars, tables as Markdown with their pictures beside them.

    TensorBoard keeps no files: of the report it shows the place.
    """

    buffers: ClassVar[bool] = False
    _run: Any = field(default=None, init=False, repr=False)
    _opened: Any = field(default=None, init=False, repr=False)

    def check(self) -> None:
        require_packages("tensorboard", "tensorboard")

    def start(self, run: TrackedRun) -> str:
        self._run = run
        return f"{self._home}; look at it with: tensorboard --logdir {run.folder}"

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        writer = self._writer(step)
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # a kill then loses nothing

    def log_table(self, name: str, rows: Sequence[TableRow], step: int) -> None:
        import numpy as np

        writer = self._writer(step)
        pictures = dict.fromkeys(cell for row in rows for cell in row.values() if isinstance(cell, Path))
        names = {path: f"picture_{number}" for number, path in enumerate(pictures, start=1)}
        header = list(rows[0])
        cells = [[_format_cell(names.get(row[column], row[column])) for column in header] for row in rows]
        writer.add_text(name, markdown_table(header, cells), step)
        for path, title in names.items():
            pixels = np.asarray(open_thumbnail(path))
            writer.add_image(f"{name}/{title}", pixels, step, dataformats="HWC")

    def log_file(self, file: Path) -> None:
        self._writer(None).add_text(file.name, str(file.absolute()))

    def finish(self, summary: Mapping[str, float], done: bool) -> None:
        if summary:
            rows = [(name, f"{value:.4g}") for name, value in summary.items()]
            self._writer(None).add_text("summary", markdown_table(("score", "value"), rows))
        if self._opened is not None:
            self._opened.close()

    @property
    def _home(self) -> Path:
        return self._run.folder / "tensorboard"

    def _writer(self, step: int | None) -> Any:
        """The writer, opened at the first step: what an earlier process wrote from there on is hidden.

        Without a step, nothing is, unless the tracker begins anew.
        """
        if self._opened is None:
            from torch.utils.tensorboard import SummaryWriter

            again = self._home.is_dir()
            purge = (step if self._run.known else 0) if again else None
            self._opened = SummaryWriter(str(self._home), purge_step=purge)
            if not (self._run.known and again):
                self._write_start()
        return self._opened

    def _write_start(self) -> None:
        config = json.dumps(self._run.config, indent=2, default=str)
        self._opened.add_text("config", "\n".join(f"    {line}" for line in config.splitlines()))
        tags = self._run.tags | ({"group": self._run.group} if self._run.group else {})
        if tags:
            self._opened.add_text("tags", markdown_table(("tag", "value"), list(tags.items())))


def _format_cell(value: Any) -> str:
    """A cell's text on one line, in which nothing is markup."""
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return re.sub(r"\r\n?|\n", "<br>", html.escape(text).replace("|", "&#124;"))
