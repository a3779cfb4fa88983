"""`logger=trackio`: a dashboard of this machine, or a Space of the Hugging Face hub."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from openvlt.trackers.base import TableRow, TrackedRun, lay_out_table, require_packages


@dataclass
class TrackioTracker:
    """`conf/logger/trackio.yaml`: a run of `project`, here or in the Space `space`.

    Here means TRACKIO_DIR, else the hub's cache folder.
    """

    project: str = "openvlt"
    space: str | None = None
    buffers: ClassVar[bool] = True
    _run: Any = field(default=None, init=False, repr=False)
    _last: int = field(default=0, init=False, repr=False)

    def check(self) -> None:
        require_packages("trackio", "trackio")

    def start(self, run: TrackedRun) -> str:
        from trackio import init  # pyright: ignore

        with _silence_client():
            self._run = init(
                project=self.project,
                name=run.title,
                group=run.group,
                space_id=self.space,
                config={**run.config, "tags": dict(run.tags)},
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        if self.space is not None:
            return f"https://huggingface.co/spaces/{self.space}"
        return (
            f"on this machine; look at it with: trackio show --project {self.project}; upload it with: "
            f"trackio sync --project {self.project} --space-id <owner/name>"
        )

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._last = max(self._last, step)
        self._run.log(dict(values), step=step)

    def log_table(self, name: str, rows: Sequence[TableRow], step: int) -> None:
        from trackio import Image, Table  # pyright: ignore

        header, cells = lay_out_table(rows, Image)
        self._run.log({name: Table(columns=header, data=cells)}, step=step)

    def log_file(self, file: Path) -> None:
        self._run.log_artifact(str(file), name=f"{file.stem}-{self._run.name}", type=file.stem)

    def finish(self, summary: Mapping[str, float], done: bool) -> None:
        from trackio import finish  # pyright: ignore

        with _silence_client():
            if summary:
                self._run.log(dict(summary), step=self._last)
            finish()


def _silence_client() -> contextlib.AbstractContextManager[Any]:
    """Inside, what the client prints isn't shown: `start` says the same in one line."""
    return contextlib.redirect_stdout(io.StringIO())
