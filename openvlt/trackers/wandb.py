"""`logger=wandb`: Weights & Biases, online or offline."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from openvlt.errors import UserError
from openvlt.trackers.base import TableRow, TrackedRun, lay_out_table, require_packages

MODES = ("online", "offline", "disabled")
STEP = "step"
DATA = (
    "openvlt-data"  # in a run's folder of wandb's: files of tables and artifacts that wait for their upload
)
UPLOAD_S = 600.0  # how long the end of a run waits for its last uploads


@dataclass
class WandbTracker:
    """`conf/logger/wandb.yaml`: everything under `entity/project`, in a run whose id is that of our run.

    `mode` is one of `MODES`; null means what WANDB_MODE says, else online. The client works aside: a network
    that fails delays nothing but the end.
    """

    project: str = "openvlt"
    entity: str | None = None
    mode: str | None = None
    buffers: ClassVar[bool] = True
    _run: Any = field(default=None, init=False, repr=False)

    def check(self) -> None:
        require_packages("wandb", "wandb")
        if self.mode is not None and self.mode not in MODES:
            raise UserError(f"logger.wandb.mode={self.mode}; choose from {', '.join(MODES)}, or null")

    def start(self, run: TrackedRun) -> str:
        import wandb

        if self._asks_for_key() and not wandb.login(prompt=False, verify=False):
            raise UserError(
                "logger=wandb: there is no API key on this machine; run `wandb login`, set WANDB_API_KEY, or "
                "keep the run here with WANDB_MODE=offline"
            )
        if Path(os.environ.get("WANDB_DATA_DIR", DATA)).name == DATA:  # the user's own goes first
            os.environ["WANDB_DATA_DIR"] = str(run.folder.absolute() / "wandb" / DATA)
        settings = wandb.Settings(
            silent=True, console="off", finish_timeout=UPLOAD_S, finish_timeout_raises=True
        )
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,  # type: ignore[arg-type]  checked above
            id=run.id,
            name=run.title,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
            tags=[f"{key}={value}" if value else key for key, value in run.tags.items()],
            group=run.group,
            settings=settings,
        )
        # the axis of every chart: the client's own step can't go back to a checkpoint
        self._run.define_metric("*", step_metric=STEP)
        return self._describe(run.folder)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, STEP: step})

    def log_table(self, name: str, rows: Sequence[TableRow], step: int) -> None:
        import wandb

        header, cells = lay_out_table(rows, wandb.Image)
        table = wandb.Table(columns=header, data=cells)  # type: ignore[arg-type]  lists of plain cells
        self._run.log({name: table, STEP: step})

    def log_file(self, file: Path) -> None:
        import wandb

        artifact = wandb.Artifact(f"{file.stem}-{self._run.id}", type=file.stem)
        artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def finish(self, summary: Mapping[str, float], done: bool) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if done else 1)

    def _asks_for_key(self) -> bool:
        import wandb

        return (self.mode or wandb.setup().settings.mode) not in ("offline", "disabled", "dryrun", "shared")

    def _describe(self, folder: Path) -> str:
        if self._run.disabled:
            return "disabled: nothing is kept"
        if self._run.offline:
            return f"offline; upload it with: wandb sync {folder}/wandb/offline-run-*"
        return self._run.url or self._run.id
