"""Ranks: the processes of one run, each with a device of its own. With a single process nothing here acts.

Every rank runs the same program on the same data. Only generation, scoring and micro-batches are shared out
(`take_share`), and their results are gathered or summed at once (`all_gather`, `all_reduce`), so that
everything after is the same on every rank again. Only the main rank writes files (`openvlt.storage`), except
for the shards of a checkpoint; what the others read of a run's folder was complete before a `barrier`.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
_BUCKET_BYTES = 1 << 26  # of one message
_PATIENCE = timedelta(hours=24)  # objects may come late: the main rank asks a server for them, say


def is_launched() -> bool:
    """Whether this process was started as one of several: by us, torchrun, Slurm, LSF or MPI."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def world_size() -> int:
    """The number of ranks of this run; 1 without others."""
    distributed = _group()
    return distributed.get_world_size() if distributed else 1


def rank() -> int:
    """This process's rank; 0 without others."""
    distributed = _group()
    return distributed.get_rank() if distributed else 0


def is_main() -> bool:
    """Whether this is the main rank, which writes files and output."""
    return rank() == 0


def _group() -> Any:
    """torch.distributed where it is in use, else None. Doesn't load torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return torch.distributed


@functools.cache
def _patient_group(world: Any) -> Any:
    """The same ranks as `world`, for messages between processors that may have to wait for hours."""
    import torch

    return torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)


def take_share(items: Sequence[Item]) -> Sequence[Item]:
    """This rank's consecutive share of the items; shares differ by at most one item."""
    total, mine = world_size(), rank()
    return items[len(items) * mine // total : len(items) * (mine + 1) // total]


def all_gather(part: Sequence[Item]) -> list[Item]:
    """Joins the parts of all ranks in their order; undoes `take_share`."""
    if (distributed := _group()) is None:
        return list(part)
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, list(part), group=_patient_group(distributed.group.WORLD))
    return [item for one in parts for item in one]


def broadcast(value: Item) -> Item:
    """Returns the main rank's value on every rank."""
    if (distributed := _group()) is None:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0, group=_patient_group(distributed.group.WORLD))
    return box[0]


def barrier() -> None:
    """Waits until every rank has come here."""
    broadcast(None)
    all_gather([])


def all_reduce(tensors: Iterable[Tensor]) -> None:
    """Replaces each tensor by its sum over the ranks, in place. Small ones of a kind share a message."""
    if (distributed := _group()) is not None:
        from torch import _utils

        for bucket in _utils._take_tensors(list(tensors), _BUCKET_BYTES):
            flat = _utils._flatten_dense_tensors(bucket)
            distributed.all_reduce(flat)
            for tensor, part in zip(bucket, _utils._unflatten_dense_tensors(flat, bucket), strict=True):
                tensor.copy_(part)
