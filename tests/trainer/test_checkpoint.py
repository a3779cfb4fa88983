"""`last.ckpt`: whole or not at all, for any number of kills, and data only."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from openvlt.errors import UserError
from openvlt.trainer.checkpoint import REST, TrainedState, find_checkpoint, remove_checkpoint
from openvlt.trainer.optimizer import adamw, muon

ADAM = partial(adamw, learning_rate=0.1)
MUON = partial(muon, learning_rate=0.1, muon_learning_rate=0.1)


def trained(make: Callable, steps: int, dtype: torch.dtype = torch.float32) -> TrainedState:
    """Two layers after so many steps of the optimisers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4)).to(dtype)
    optimizers = make(list(model.named_parameters()))
    for _ in range(steps):
        model(torch.ones(2, 4, dtype=dtype)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return TrainedState(dict(model.named_parameters()), optimizers)


def bits(state: TrainedState) -> dict[str, torch.Tensor]:
    return state._optimizer_state()[0] | dict(state.weights)


def equal(one: TrainedState, other: TrainedState) -> bool:
    mine, its = bits(one), bits(other)
    return mine.keys() == its.keys() and all(torch.equal(value, its[name]) for name, value in mine.items())


@pytest.mark.parametrize(
    ("make", "dtype"), [(ADAM, torch.float32), (MUON, torch.float32), (ADAM, torch.bfloat16)]
)
def test_what_is_saved_is_loaded_to_the_bit(tmp_path: Path, make: Callable, dtype: torch.dtype) -> None:
    state, other = trained(make, 3, dtype), trained(make, 1, dtype)
    state.optimizers[0].param_groups[0]["lr"] = 0.07
    state.save(tmp_path / "last.ckpt", {"version": 3})
    assert not equal(state, other)
    assert other.load(tmp_path / "last.ckpt") == {"version": 3}
    assert equal(state, other) and other.optimizers[0].param_groups[0]["lr"] == 0.07
    fresh = trained(make, 0, dtype)
    fresh.load(tmp_path / "last.ckpt")
    assert equal(state, fresh)


class Killed(BaseException):
    pass


def test_a_kill_between_any_two_file_operations_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, versions = trained(ADAM, 1), trained(ADAM, 2), []
    while len(versions) < 2 or versions[-2:] != [2, 2]:  # until a save wasn't killed any more
        folder = tmp_path / str(len(versions))
        versions.append(_save_and_die(folder, monkeypatch, old, new, len(versions)))
    assert len(versions) > 20 and versions == sorted(versions), "each kill leaves the old one or the new one"


def _save_and_die(
    folder: Path, monkeypatch: pytest.MonkeyPatch, old: TrainedState, new: TrainedState, operations: int
) -> int:
    """Saves `new` over `old`, is killed after so many file operations, and returns what is left: 1 or 2."""
    old.save(folder / "last.ckpt", {"version": 1})
    left = [operations]

    def mortal(real: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((os, "replace"), (os, "mkdir"), (shutil, "rmtree"), (torch, "save")):
            patch.setattr(owner, name, mortal(getattr(owner, name)))
        with contextlib.suppress(Killed):
            new.save(folder / "last.ckpt", {"version": 2})
    place = find_checkpoint(folder)
    assert place is not None
    found = trained(ADAM, 0)
    version = found.load(place)["version"]
    assert equal(found, {1: old, 2: new}[version])
    new.save(folder / "last.ckpt", {"version": 3})
    assert found.load(folder / "last.ckpt") == {"version": 3} and len(list(folder.iterdir())) == 1
    remove_checkpoint(folder)
    assert not list(folder.iterdir()) and find_checkpoint(folder) is None
    return version


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("place", [".metadata", REST, "__0_0.distcp"])
def test_nothing_that_is_read_runs_code(tmp_path: Path, place: str) -> None:
    trained(ADAM, 1).save(tmp_path / "last.ckpt", {"version": 1})
    file, proof = tmp_path / "last.ckpt" / place, tmp_path / "ran"
    assert file.is_file()
    if place == REST:
        torch.save(Evil(proof), file)
    else:
        file.write_bytes(pickle.dumps(Evil(proof)))
    with pytest.raises(UserError, match=r"last\.ckpt can't be read .*; put it back, or remove it") as error:
        trained(ADAM, 0).load(tmp_path / "last.ckpt")
    assert not proof.exists() and "\n" not in str(error.value)


def test_a_tensor_in_a_shard_is_no_way_in(tmp_path: Path) -> None:
    """The index is whole, and where a tensor should be there is a pickle of the same length."""
    trained(ADAM, 1).save(tmp_path / "last.ckpt", {"version": 1})
    shard, proof = tmp_path / "last.ckpt" / "__0_0.distcp", tmp_path / "ran"
    code = pickle.dumps(Evil(proof))
    shard.write_bytes(code + bytes(shard.stat().st_size - len(code)))
    with pytest.raises(UserError, match=r"last\.ckpt can't be read"):
        trained(ADAM, 0).load(tmp_path / "last.ckpt")
    assert not proof.exists()


@pytest.mark.parametrize("place", [".metadata", REST, "__0_0.distcp"])
@pytest.mark.parametrize("kept", [0, 100, None])
def test_a_checkpoint_that_is_cut_off_or_lacks_a_file(tmp_path: Path, place: str, kept: int | None) -> None:
    trained(ADAM, 1).save(tmp_path / "last.ckpt", {"version": 1})
    file = tmp_path / "last.ckpt" / place
    if kept is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"last\.ckpt can't be read"):
        trained(ADAM, 0).load(tmp_path / "last.ckpt")


def test_an_old_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(UserError, match=r"last\.ckpt is a file.*remove it"):
        find_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_another_models_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    state = trained(ADAM, 1)
    state.save(tmp_path / "last.ckpt", {})
    other = TrainedState({f"x.{name}": value for name, value in state.weights.items()}, state.optimizers)
    with pytest.raises(UserError, match="belongs to another model or adapter"):
        other.load(tmp_path / "last.ckpt")
