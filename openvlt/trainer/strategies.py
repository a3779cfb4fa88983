"""Lightning's strategies for one process and for several, with checkpoints of our own format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, SingleDeviceStrategy, Strategy

from openvlt import distributed
from openvlt.trainer.checkpoint import TrainedState

if TYPE_CHECKING:
    from openvlt.trainer.module import StepModule

    _Base = Strategy
else:
    _Base = object


class _OwnCheckpoints(_Base):
    """Writes and reads what is a tensor by `TrainedState`, under every number of processes."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True  # the optimisers are there then

    @property
    def lightning_restore_optimizer(self) -> bool:
        return False

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return {}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return {}

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        pass

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        pass

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        self._state().save(Path(filepath), checkpoint)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self._state().load(Path(checkpoint_path))

    def _state(self) -> TrainedState:
        module = cast("StepModule", self.lightning_module)
        named = module.model.named_parameters()
        return TrainedState({name: value for name, value in named if value.requires_grad}, self.optimizers)


class OneProcess(_OwnCheckpoints, SingleDeviceStrategy):
    """Lightning's strategy for one process, whose model stays on its device when a training ends."""

    def teardown(self) -> None:
        self.precision_plugin.teardown()


class ManyProcesses(_OwnCheckpoints, ModelParallelStrategy):
    """Lightning's strategy for processes that train one model together."""

    def __init__(self) -> None:
        super().__init__(data_parallel_size=distributed.world_size(), tensor_parallel_size=1)


def make_strategy(device: torch.device) -> Strategy:
    """The strategy for this run's number of processes; `device` is this process's."""
    return OneProcess(device) if distributed.world_size() == 1 else ManyProcesses()
