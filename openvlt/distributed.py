"""Ranks: the processes of one run, each with a device of its own. With a single process nothing here acts.

Every rank runs the same program on the same data. Only generation, scoring and micro-batches are shared out
(`take_share`), and their results are gathered or summed at once (`all_gather`, `all_reduce`), so that
everything after is the same on every rank again. Weights are replicated. Gradients are summed, never
averaged, because every loss is already divided by the whole step's totals.

Only the main rank works in the run's folder. Every other rank has a folder of its own (`rank_folder`), so
that no file has two writers.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from openvlt.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
_BUCKET_SIZE = 1 << 24  # values in one message
_TIMEOUT = timedelta(hours=4)  # a rank may wait this long while the main one asks a server for traces
_CLUSTER_MARKS = ("SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
FOLDERS_VARIABLE = "OPENVLT_RANKS"  # names the launcher's temporary folder, which is removed with it
_LINKED_NAMES = ("model", "last.ckpt")  # heavy files that ranks read from the main folder, without a copy


def is_launched() -> bool:
    """Whether this process was started as one of several: by us, torchrun, Slurm, LSF or MPI."""
    if "RANK" not in os.environ and any(mark in os.environ for mark in _CLUSTER_MARKS):
        _adopt_cluster()
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def _adopt_cluster() -> None:
    """Sets torch's variables from those of a cluster whose tasks are the ranks. A single task is no rank."""
    from lightning.fabric.plugins.environments.lsf import LSFEnvironment
    from lightning.fabric.plugins.environments.mpi import MPIEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    kinds = (SLURMEnvironment, LSFEnvironment, MPIEnvironment)
    try:
        found = next((kind() for kind in kinds if kind.detect()), None)
    except RuntimeError as error:  # options of srun
        raise UserError(f"{error} Or start one task on each machine, and set trainer.devices.") from error
    if found is None or found.world_size() == 1:
        return
    machines = int(os.environ.get("SLURM_NNODES", "1"))
    variables = {
        "WORLD_SIZE": found.world_size(),
        "RANK": found.global_rank(),
        "LOCAL_RANK": found.local_rank(),
        "LOCAL_WORLD_SIZE": found.world_size() // machines,
        "NODE_RANK": found.node_rank(),
        "MASTER_ADDR": found.main_address,
        "MASTER_PORT": found.main_port,
    }
    os.environ.update({name: str(value) for name, value in variables.items()})


def process_count(devices: int | str) -> int:
    """The number of processes that `trainer.devices` asks for on this machine.

    `auto` is one for every GPU; without GPUs two, or one on a single core. Raises UserError for any other
    value that is no number from 1 on.
    """
    if devices == "auto":
        import torch

        return torch.cuda.device_count() or min(2, os.cpu_count() or 1)
    if not isinstance(devices, int) or isinstance(devices, bool) or devices < 1:
        raise UserError(
            f"trainer.devices={devices!r}; give a number of GPUs (or CPU processes) from 1 on, or auto"
        )
    return devices


def check_devices(processes: int, accelerator: str) -> None:
    """Raises UserError when this machine has GPUs, but fewer than `processes`, which need one each."""
    import torch

    gpus = torch.cuda.device_count()
    if accelerator != "cpu" and 0 < gpus < processes:
        has = f"{gpus} GPU{'s' if gpus > 1 else ''}"
        raise UserError(
            f"trainer.devices={processes}, but this machine has {has}; "
            f"give at most {gpus}, or auto for all there are"
        )


def join_process_group(accelerator: str) -> bool:
    """Makes a launched process one of the ranks; False in a process that is alone, or has joined already.

    Raises UserError when there is no GPU for each rank (torchrun doesn't check), unless `accelerator` is cpu.
    """
    import torch
    from torch import distributed

    if not is_launched() or distributed.is_initialized():
        return False
    backend = "gloo"
    if torch.cuda.is_available() and accelerator != "cpu":
        check_devices(int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])), accelerator)
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_TIMEOUT)
    atexit.register(distributed.destroy_process_group)
    return True


def shared_store() -> Any:
    """The store through which the ranks met, without the group's prefix; None without others."""
    if (distributed := _group()) is None:
        return None
    store = distributed.distributed_c10d._get_default_store()
    while isinstance(store, distributed.PrefixStore):
        store = store.underlying_store
    return store


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


def take_share(items: Sequence[Item]) -> Sequence[Item]:
    """This rank's consecutive share of the items; shares differ by at most one item."""
    total, mine = world_size(), rank()
    return items[len(items) * mine // total : len(items) * (mine + 1) // total]


def all_gather(part: Sequence[Item]) -> list[Item]:
    """Joins the parts of all ranks in their order; undoes `take_share`."""
    if (distributed := _group()) is None:
        return list(part)
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, list(part))
    return [item for one in parts for item in one]


def broadcast(value: Item) -> Item:
    """Returns the main rank's value on every rank."""
    if (distributed := _group()) is None:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Waits until every rank has come here."""
    broadcast(None)
    all_gather([])


def all_reduce(tensors: Iterable[Tensor]) -> None:
    """Replaces each tensor by its sum over the ranks, in place.

    Small ones share a message, since each message costs most of a millisecond.
    """
    if (distributed := _group()) is not None:
        for bucket in _buckets(tensors):
            _all_reduce_bucket(bucket, distributed)


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Splits tensors into runs of one dtype and device: up to `_BUCKET_SIZE` values, or a single tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        alike = bucket and (tensor.dtype, tensor.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and (not alike or sum(one.numel() for one in bucket) + tensor.numel() > _BUCKET_SIZE):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _all_reduce_bucket(tensors: Sequence[Tensor], distributed: Any) -> None:
    import torch

    if len(tensors) == 1:
        distributed.all_reduce(tensors[0])
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def all_reduce_gradients(parameters: Sequence[Any]) -> None:
    """Sums gradients over the ranks.

    A parameter without a gradient on any rank keeps None, so that an optimiser skips it as on one rank.
    """
    import torch

    if (distributed := _group()) is None or not parameters:
        return
    used = torch.tensor(
        [float(parameter.grad is not None) for parameter in parameters], device=parameters[0].device
    )
    distributed.all_reduce(used)
    touched = [parameter for parameter, ranks in zip(parameters, used.tolist(), strict=True) if ranks]
    for parameter in touched:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    all_reduce(parameter.grad for parameter in touched)


def rank_folder(folder: Path) -> Path:
    """The run's folder on the main rank; on another, a temporary folder with the same files, removed at exit.

    Finished stages and everything heavy are links, the rest copies, so that this rank can continue a stage
    where the main one does.
    """
    barrier()  # the main rank has written what a run begins with
    if is_main():
        barrier()
        return folder
    mirror = Path(tempfile.mkdtemp(prefix=f"openvlt-rank{rank()}-", dir=os.environ.get(FOLDERS_VARIABLE)))
    atexit.register(shutil.rmtree, mirror, ignore_errors=True)
    mirror_folder(folder.absolute(), mirror)
    barrier()  # the main rank has changed nothing so far
    return mirror


def mirror_folder(source: Path, mirror: Path) -> None:
    """Fills `mirror` with links to the finished stages and heavy files of `source`, else with copies."""
    mirror.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.name in _LINKED_NAMES or (path.is_dir() and (path / "results.json").is_file()):
            (mirror / path.name).symlink_to(path)
        elif path.is_dir():
            mirror_folder(path, mirror / path.name)
        else:
            shutil.copy2(path, mirror / path.name)
