"""Running a module to its last step: Lightning's trainer, a resumable checkpoint, metrics on disk, a progress bar."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from openvlt import distributed
from openvlt.config.validate import check_not_negative, check_positive
from openvlt.errors import UserError
from openvlt.trainer.metrics import MetricsFile
from openvlt.trainer.module import StepModule


@dataclass(frozen=True)
class TrainingLoop:
    """`conf/trainer/*.yaml`. Every `checkpoint_every` optimiser steps a resumable `last.ckpt` is written.

    `devices` is a number of GPUs (or CPU processes) of this machine or `auto` (`openvlt.distributed.process_count`): one process each, weights
    replicated, gradients summed. `accelerator`, `precision`, `loggers` and `callbacks` are Lightning's.
    `workers` (on Linux) prepare what doesn't depend on the policy ahead of time: SFT's batches, one of them the images of GRPO's next
    rollout.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    precision: str = "32-true"
    checkpoint_every: int = 20
    workers: int = 0
    progress: bool = True
    loggers: tuple[Any, ...] = ()
    callbacks: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        check_positive(self, "trainer", "checkpoint_every")
        check_not_negative(self, "trainer", "workers")

    def run(
        self,
        module: StepModule,
        make: Callable[[int], Any],
        folder: Path,
        *,
        title: str,
        boundary: int = 1,
        ahead: bool = False,
    ) -> None:
        """Trains to `module.steps`, from `folder/last.ckpt` if there is one. `make(k)` gives the batch of step k.

        A checkpoint falls on multiples of `boundary` steps only. `ahead` lets workers make batches before they are needed.
        """
        last = folder / "last.ckpt"
        # workers are forked: `make` holds a processor and rows, which other start methods would have to pickle
        workers = self.workers if ahead and sys.platform == "linux" else 0
        context = {"multiprocessing_context": "fork", "worker_init_fn": _deaf} if workers else {}
        batches = _Steps(make, module.steps)
        loader = DataLoader(
            batches, sampler=_Remaining(module), batch_size=None, num_workers=workers, **context
        )
        every = max(1, self.checkpoint_every // boundary) * boundary
        callbacks = [MetricsFile(folder / "metrics.csv"), _Checkpoint(last, every), *self.callbacks]
        trainer = self._trainer([*callbacks, _Bar(title)] if self.progress else callbacks)
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(module, loader, ckpt_path=last if last.is_file() else None, weights_only=False)
        except SystemExit as stop:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from stop
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)  # Lightning ignores the signal after the first one

    def check(self) -> None:
        """Raises UserError when this machine can't give what is asked for; better now than after an hour of captions."""
        distributed.check_devices(distributed.process_count(self.devices), self.accelerator)
        if self.precision in ("16", "bf16") or self.precision.endswith(
            "-mixed"
        ):  # Lightning takes the short names for mixed ones
            raise UserError(
                f"trainer.precision={self.precision} would compute updates in another precision than the log-probabilities they are "
                "compared with: the ratio of an unchanged policy isn't 1; use 32-true or bf16-true"
            )
        try:
            self._trainer([])
        except (ValueError, MisconfigurationException) as error:
            raise UserError(
                f"trainer (accelerator={self.accelerator}, precision={self.precision}) "
                f"doesn't work here: {error}; trainer.accelerator=auto takes what there is"
            ) from error

    def _trainer(self, callbacks: list[Callback]) -> lightning.Trainer:
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        for message in (
            ".*does not have many workers.*",
            ".*isinstance.treespec, LeafSpec.*",
            ".*dataloader is not resumable.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        return lightning.Trainer(
            accelerator=self.accelerator,
            devices=[torch.cuda.current_device()]
            if torch.cuda.is_available() and self.accelerator != "cpu"
            else 1,
            precision=self.precision,
            strategy="auto",
            max_epochs=1,
            callbacks=callbacks,
            logger=list(self.loggers) if distributed.is_main() else [],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )


def _deaf(worker: int) -> None:
    """A worker is ended by its run alone, and says nothing of its own when that happens: its faults are raised by the run."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.excepthook = lambda *error: (
        None
    )  # of the thread that hands tensors over, when the run has stopped listening


class _Steps(Dataset):
    """Batch k is whatever `make(k)` returns; with a known length Lightning asks for it only when it is due."""

    def __init__(self, make: Callable[[int], Any], steps: int) -> None:
        self.make, self.steps = make, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        try:
            return self.make(step)
        except UserError as error:
            if get_worker_info() is None:
                raise
            return error  # raised by the module: a worker's exception would reach the user wrapped in a traceback


class _Remaining(Sampler[int]):
    """The steps from the module's version on: 0 in a fresh run, the next one after a restart."""

    def __init__(self, module: StepModule) -> None:
        self.module = module

    def __len__(self) -> int:
        return self.module.steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.module.version, self.module.steps))


class _Checkpoint(Callback):
    """Writes last.ckpt beside itself and renames it, so that a kill at any moment leaves a whole one."""

    def __init__(self, file: Path, every: int) -> None:
        self.file, self.every = file, every

    def on_train_batch_end(self, trainer: lightning.Trainer, module: StepModule, *_: Any) -> None:
        if module.version % self.every == 0 and distributed.is_main():
            aside = self.file.with_suffix(".tmp")
            trainer.save_checkpoint(aside)
            os.replace(aside, self.file)


class _Bar(Callback):
    """A progress bar with the latest metrics and the time left; plain lines where the output is no terminal."""

    SHOWN = ("reward", "length", "loss")

    def __init__(self, title: str) -> None:
        self.title, self.bar, self.task = title, None, None

    def on_train_start(self, trainer: lightning.Trainer, module: StepModule) -> None:
        console = Console()
        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
        )
        self.bar = Progress(*columns, console=console) if console.is_terminal else None
        self.lines = max(1, module.steps // 5)
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(
                self.title, total=module.steps, completed=module.version, metrics=""
            )

    def on_train_batch_end(self, trainer: lightning.Trainer, module: StepModule, *_: Any) -> None:
        text = "  ".join(
            f"{name} {module.metrics[name]:.3g}" for name in self.SHOWN if name in module.metrics
        )
        if self.bar:
            self.bar.update(self.task, completed=module.version, metrics=text)
        elif module.version % self.lines == 0 or module.version == module.steps:
            print(f"{self.title:<14} step {module.version}/{module.steps}  {text}", flush=True)

    def on_train_end(self, trainer: lightning.Trainer, module: StepModule) -> None:
        if self.bar:
            self.bar.stop()

    def on_exception(self, trainer: lightning.Trainer, module: StepModule, exception: BaseException) -> None:
        self.on_train_end(trainer, module)
