"""`last.ckpt`: the state of a training that is under way, a folder to which every process writes its shards.

It is torch's distributed checkpoint, which another number of processes can load, and `rest.pt` with what
isn't a tensor. Nothing that is read from it runs code.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.distributed.checkpoint import metadata as torch_metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors
from torch.optim import Optimizer

from openvlt import distributed
from openvlt import types as own_types
from openvlt.errors import UserError, first_line
from openvlt.trainer.master_weights import MasterAdamW

REST = "rest.pt"


@dataclass(frozen=True)
class TrainedState:
    """What a checkpoint holds of a training: its trained weights by name, and its optimisers.

    Frozen weights aren't in it: they are those of the model that the training started from.
    """

    weights: Mapping[str, nn.Parameter]
    optimizers: Sequence[Optimizer]

    def save(self, folder: Path, rest: Mapping[str, Any]) -> None:
        """Writes the state and `rest` (plain data) to a folder, whole or not at all; all processes take part.

        A kill at any moment leaves the old folder or the new one, as `find_checkpoint` reads them.
        """
        aside, main = _aside(folder), distributed.is_main()
        if main:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        distributed.barrier()
        tensors, others = self._optimizer_state()
        tensors |= {f"weights.{name}": weight.detach() for name, weight in self.weights.items()}
        writer, alone = FileSystemWriter(aside), distributed.world_size() == 1
        with _plain_errors():
            save_tensors(tensors, storage_writer=writer, no_dist=alone)
        if main:
            torch.save({**rest, "optimizers": others}, aside / REST)
            _replace_folder(aside, folder)
        distributed.barrier()

    def load(self, folder: Path) -> dict[str, Any]:
        """Puts what `save` wrote into weights and optimisers, and returns the rest.

        The number of processes may be another one. Raises UserError for a folder that isn't whole, that
        belongs to another model, or that holds anything but data.
        """
        reader = _PlainReader(folder)
        try:
            saved = reader.read_metadata().state_dict_metadata
            rest = _read_rest(folder / REST)
        except (OSError, EOFError, pickle.UnpicklingError, RuntimeError, AttributeError) as error:
            raise _unreadable(folder, error) from error
        if lost := sorted(
            {f"weights.{name}" for name in self.weights} ^ {n for n in saved if n.startswith("weights.")}
        ):
            raise UserError(
                f"{folder} belongs to another model or adapter: {lost[0].removeprefix('weights.')} is in "
                "one of them only; put the model back, or remove the folder, and the stage starts again"
            )
        tensors: dict[str, Tensor] = {
            f"weights.{name}": weight.detach() for name, weight in self.weights.items()
        }
        tensors |= {name: self._make_room(name, saved[name]) for name in saved if name not in tensors}
        try:
            with _plain_errors():
                load_tensors(tensors, storage_reader=reader, no_dist=distributed.world_size() == 1)
        except Exception as error:  # what a damaged file makes of torch's reader has no type of its own
            raise _unreadable(folder, error) from error
        self._set_optimizer_state(tensors, rest.pop("optimizers"))
        return rest

    def _optimizer_state(self) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """All optimisers' tensors by name, and the rest of each one's state."""
        tensors, others = {}, []
        for number, optimizer in enumerate(self.optimizers):
            plain: dict[str, Any] = {}
            for name, key in self._weight_keys(optimizer):
                values = dict(optimizer.state.get(key, {}))
                if isinstance(optimizer, MasterAdamW):
                    values["master"] = key.detach()
                for slot, value in values.items():
                    (tensors if isinstance(value, Tensor) else plain)[f"optimizer{number}.{name}.{slot}"] = (
                        value
                    )
            groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            others.append({"groups": groups, "state": plain})
        return tensors, others

    def _weight_keys(self, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
        """The names of an optimiser's weights, and the tensors that its state is kept by."""
        names = {id(weight): name for name, weight in self.weights.items()}
        if isinstance(optimizer, MasterAdamW):
            pairs = zip(optimizer.weights, optimizer.masters, strict=True)
        else:
            pairs = ((weight, weight) for group in optimizer.param_groups for weight in group["params"])
        return ((names[id(weight)], key) for weight, key in pairs)

    def _make_room(self, name: str, saved: Any) -> Tensor:
        """A tensor to load a saved one into: cut over processes as the weight is that it belongs to."""
        weight = self.weights[name.partition(".")[2].rpartition(".")[0]]
        dtype = saved.properties.dtype
        if saved.size == weight.shape:
            return torch.zeros_like(weight, dtype=dtype, requires_grad=False)
        return torch.zeros(saved.size, dtype=dtype)

    @torch.no_grad()
    def _set_optimizer_state(
        self, tensors: Mapping[str, Tensor], others: Sequence[Mapping[str, Any]]
    ) -> None:
        for number, (optimizer, other) in enumerate(zip(self.optimizers, others, strict=True)):
            keys = dict(self._weight_keys(optimizer))
            groups = optimizer.param_groups
            counts_there = any(group.get("fused") or group.get("capturable") for group in groups)
            start = f"optimizer{number}."
            for name, value in {**tensors, **other["state"]}.items():
                if not name.startswith(start):
                    continue
                owner, _, slot = name.removeprefix(start).rpartition(".")
                if counts_there and isinstance(value, Tensor) and not value.ndim:
                    value = value.to(keys[owner].device)  # the number of steps, as torch's optimisers want it
                if slot == "master":
                    keys[owner].copy_(value)
                else:
                    optimizer.state[keys[owner]][slot] = value
            for group, saved in zip(groups, other["groups"], strict=True):
                group.update(saved)


def find_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint `last.ckpt` of a stage's folder; None without one.

    Raises UserError for a file of that name, which only earlier versions wrote.
    """
    last = folder / "last.ckpt"
    if last.is_file():
        raise UserError(
            f"{last} is a file, and not a folder as this version writes it; reading it could run "
            "code, so it isn't opened; remove it, and the stage starts from its beginning"
        )
    return next((place for place in (last, _old(last)) if place.is_dir()), None)


def remove_checkpoint(folder: Path) -> None:
    """Removes `last.ckpt` from a stage's folder, and what a kill left of it; the main rank does."""
    if not distributed.is_main():
        return
    last = folder / "last.ckpt"
    for place in (last, _old(last), _aside(last)):
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Inside, torch's checkpoints raise what happened (a full disk, Ctrl-C), and don't warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to .* in a single process.*")
        try:
            yield
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from error


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.tmp")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _replace_folder(aside: Path, folder: Path) -> None:
    """Renames the old folder away and the new one in: at every moment one of them is whole."""
    old = _old(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(aside, folder)
    shutil.rmtree(old, ignore_errors=True)


def _unreadable(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{folder} can't be read ({first_line(error)}); put it back, or remove it, "
        "and the stage starts from its beginning"
    )


# --- reading data without running code ----------------------------------------------------------------------

_METADATA = {
    *((torch_metadata.__name__, name) for name in (*torch_metadata.__all__, "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
}
"""The classes in the index of a distributed checkpoint; torch itself would load any."""

_DATA = [
    *(
        value
        for value in vars(own_types).values()
        if isinstance(value, type) and value.__module__ == own_types.__name__
    ),
    Image.Image,
    deque,
]
"""The classes in what a sampler or a replay buffer keeps, beside tensors and plain containers."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in _METADATA or dtype:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its index names {module}.{name}, which is no data")


class _PlainReader(FileSystemReader):
    """Reads a distributed checkpoint whose index holds torch's own classes and nothing else."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> torch_metadata.Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            found = _PlainUnpickler(file).load()
        if not isinstance(found, torch_metadata.Metadata):
            raise pickle.UnpicklingError("its index isn't one")
        found.storage_meta = found.storage_meta or torch_metadata.StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


def _read_rest(file: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals(_DATA):
        return torch.load(file, map_location="cpu", weights_only=True)
