"""The training loop: Lightning's trainer with a resumable checkpoint, metrics on disk and a progress bar."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from openvlt import distributed
from openvlt.config.validate import check_not_negative, check_positive
from openvlt.errors import UserError
from openvlt.model.load import VLM, PretrainedModel
from openvlt.model.shard import check_replicas, is_sharded, shard_model
from openvlt.model.shard_load import load_shards
from openvlt.model.strategy import Strategy
from openvlt.trackers.recorder import StageRecorder
from openvlt.trainer.checkpoint import find_checkpoint
from openvlt.trainer.devices import check_devices, process_count
from openvlt.trainer.metrics import MetricsFile
from openvlt.trainer.module import StepModule
from openvlt.trainer.not_finite import NotFinite, stop_sentence
from openvlt.trainer.strategies import make_strategy

PRECISIONS = {
    "32-true": None,
    "64-true": torch.float64,
    "bf16-true": torch.bfloat16,
    "16-true": torch.float16,
}
"""What training turns the weights into; 32-true leaves them as the model was loaded."""


@dataclass(frozen=True)
class TrainingLoop:
    """`conf/trainer/*.yaml`: trains a module; writes a resumable `last.ckpt` every `checkpoint_every` steps.

    `devices` is a number of GPUs (or CPU processes) of this machine, or `auto`
    (`openvlt.trainer.devices.process_count`): one process each; `strategy` says what they share. `workers`
    (on Linux) prepare ahead of time what doesn't depend on the policy: SFT's batches, or (one worker) the
    images of GRPO's next rollout. `precision` is one of `PRECISIONS`; `accelerator` and `callbacks` are
    Lightning's.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    precision: str = "32-true"
    strategy: Strategy = field(default_factory=Strategy)
    checkpoint_every: int = 20
    workers: int = 0
    progress: bool = True
    callbacks: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        check_positive(self, "trainer", "checkpoint_every")
        check_not_negative(self, "trainer", "workers")

    def run(
        self,
        module: StepModule,
        make_batch: Callable[[int], Any],
        folder: Path,
        *,
        title: str,
        boundary: int = 1,
        ahead: bool = False,
        recorder: StageRecorder | None = None,
    ) -> None:
        """Trains to `module.steps`, from `folder/last.ckpt` if there is one; `make_batch(k)` is for step k.

        Checkpoints fall on multiples of `boundary` steps. With `ahead`, workers may make batches before they
        are due.
        """
        self.prepare(module.vlm)
        start = find_checkpoint(folder)
        # workers are forked: other start methods would pickle the processor and rows that `make_batch` holds
        workers = self.workers if ahead and sys.platform == "linux" else 0
        loader = DataLoader(
            _StepDataset(make_batch, module.steps),
            sampler=_RemainingSteps(module),
            batch_size=None,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=_ignore_termination if workers else None,
        )
        every = max(1, self.checkpoint_every // boundary) * boundary
        saving = _SaveCheckpoint(folder / "last.ckpt", every)
        callbacks = [
            MetricsFile(folder / "metrics.csv", recorder or StageRecorder()),
            saving,
            *self.callbacks,
        ]
        trainer = self._trainer([*callbacks, _ProgressBar(title)] if self.progress else callbacks)
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(module, loader, ckpt_path=start)
        except NotFinite as error:
            raise UserError(stop_sentence(error, title, error.save(folder))) from error
        except SystemExit as stop:  # what Lightning raises at Ctrl-C
            raise KeyboardInterrupt from stop
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)  # Lightning ignores the signal after the first one

    def load(self, model: PretrainedModel, path: str, *, adapter: Any = None) -> VLM:
        """Loads a checkpoint that is trained here, or a reference; where processes cut it, already cut.

        The main process alone reads it then.
        """
        if not self._cuts:
            return model.load(path, adapter=adapter)
        dtype = PRECISIONS[self.precision]
        return load_shards(model, path, adapter=adapter, strategy=self.strategy, dtype=dtype)

    def prepare(self, *models: VLM | None) -> None:
        """Puts models into `precision`, and cuts them over this run's processes as `strategy` says, in place.

        With one process nothing is cut, nor by `auto`, which is settled before a run begins
        (`openvlt.cli.train`).
        """
        for vlm in filter(None, models):
            if (dtype := PRECISIONS[self.precision]) is not None and not is_sharded(vlm.model):
                vlm.model.to(dtype)
            if self._cuts:
                shard_model(vlm, self.strategy)

    @property
    def _cuts(self) -> bool:
        return distributed.world_size() > 1 and self.strategy.shard in ("weights", "gradients")

    def check(self) -> None:
        """Raises UserError when these settings can't work on this machine, before anything else runs."""
        devices = process_count(self.devices)
        check_devices(devices, self.accelerator)
        processes = max(devices, distributed.world_size())
        if processes > 1 and self.strategy.shard in ("weights", "gradients"):
            check_replicas(self.strategy.replicas, processes)
        # Lightning takes the short names for mixed precision
        if self.precision in ("16", "bf16") or self.precision.endswith("-mixed"):
            raise UserError(
                f"trainer.precision={self.precision} would compute updates in another precision than the "
                "log-probabilities they are compared with: the ratio of an unchanged policy isn't 1; "
                "use 32-true or bf16-true"
            )
        if self.precision not in PRECISIONS:
            raise UserError(f"trainer.precision={self.precision}; choose from {', '.join(PRECISIONS)}")
        try:
            self._trainer([])
        except (ValueError, MisconfigurationException) as error:
            raise UserError(
                f"trainer (accelerator={self.accelerator}) "
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
        on_gpu = torch.cuda.is_available() and self.accelerator != "cpu"
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        accelerator = self.accelerator if self.accelerator != "auto" else "gpu" if on_gpu else "cpu"
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", distributed.world_size()))
        alone = [device.index] if on_gpu else 1
        return lightning.Trainer(
            accelerator=accelerator,
            devices=alone if distributed.world_size() == 1 else ranks,
            num_nodes=distributed.world_size() // ranks,
            # not `precision`: Lightning's would make new tensors in 16 bits, and can't convert our batches
            precision="32-true",
            strategy=make_strategy(device),
            max_epochs=1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )


def _ignore_termination(worker: int) -> None:
    """Makes a worker end with its run alone, and without output: the run raises a worker's errors."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # for the thread that hands tensors over, when the run has stopped reading
    sys.excepthook = lambda *error: None


class _StepDataset(Dataset):
    """Item k is `make_batch(k)`. Lightning asks for it only when it is due, because the length is known."""

    def __init__(self, make_batch: Callable[[int], Any], steps: int) -> None:
        self.make_batch, self.steps = make_batch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        try:
            return self.make_batch(step)
        except UserError as error:
            if get_worker_info() is None:
                raise
            # for the module to raise: a worker's exception would reach the user wrapped in a traceback
            return error


class _RemainingSteps(Sampler[int]):
    """The steps from the module's version on: all in a fresh run, after a restart those that are left."""

    def __init__(self, module: StepModule) -> None:
        self.module = module

    def __len__(self) -> int:
        return self.module.steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.module.version, self.module.steps))


class _SaveCheckpoint(Callback):
    """Writes last.ckpt every so many steps; a kill at any moment leaves a whole one."""

    def __init__(self, file: Path, every: int) -> None:
        self.file, self.every = file, every

    def on_train_batch_end(self, trainer: lightning.Trainer, module: StepModule, *_: Any) -> None:
        if module.version % self.every == 0:  # on every rank: each writes its shards
            trainer.save_checkpoint(self.file)


class _ProgressBar(Callback):
    """A progress bar with the latest metrics and the time left; plain lines outside a terminal."""

    SHOWN = ("reward", "length", "loss")

    def __init__(self, title: str) -> None:
        self.title, self.task = title, TaskID(0)
        self.bar: Progress | None = None

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
