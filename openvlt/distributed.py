"""Ranks: the processes of one run, each with a device of its own. With one process, the normal case, nothing here does anything.

Every rank goes through the same program on the same data. Only generation, scoring and micro-batches are shared out (`share`), and what
comes of them is put together at once (`gathered`, `add_up`), so that everything after is again the same on every rank. Weights are
replicated; gradients are added up, never averaged, because every loss is already divided by the whole step's totals.

Only the main rank works in the run's folder. The others work in a folder of their own (`workplace`), so no file has two writers.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from openvlt.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
_MESSAGE = 1 << 24  # values in one message
_PATIENCE = timedelta(hours=4)  # a rank may wait while the main one asks a server for traces
_MAIN_FIRST_S = 10  # how long another rank's error waits for the main one's
_REPORTED = (
    "openvlt/reported"  # key in the store: the rank that reported how the run ends, and its exit status
)
_PLACES = "OPENVLT_RANKS"  # the launcher's temporary folder, gone with it
_HEAVY = ("model", "last.ckpt")  # what ranks read from the main folder instead of having a copy


def is_launched() -> bool:
    """Whether this process was started as one of several, by `launch` or by torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def process_count(devices: int | str) -> int:
    """How many processes `trainer.devices` asks for on this machine; `auto` is every GPU, or without any two processes for two cores.

    Raises UserError for a value that is no number and not auto.
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
    """Raises UserError when this machine has GPUs, and fewer than processes that want one each."""
    import torch

    gpus = torch.cuda.device_count()
    if accelerator != "cpu" and 0 < gpus < processes:
        has = f"{gpus} GPU{'s' if gpus > 1 else ''}"
        raise UserError(
            f"trainer.devices={processes}, but this machine has {has}; give at most {gpus}, or auto for all there are"
        )


def launch(processes: int) -> int:
    """Runs this very command `processes` times on this machine, one rank each, and gives the exit status of the first that failed.

    That is the one that reported, where one did. The store through which the ranks meet lives here, as with torchrun, so that it outlives each of them.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory(prefix="openvlt-ranks-") as places:
        common = {
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            _PLACES: places,
        }
        common["OMP_NUM_THREADS"] = os.environ.get(
            "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes))
        )
        ranks = [_start(common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(processes)]
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # the terminal sends Ctrl-C to the main rank too; it says what there is to say
        told: list[int] = []
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: told.append(number))
        while (
            not told and any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks)
        ):
            time.sleep(0.1)
        failed = -told[0] if told else next((rank.returncode for rank in ranks if rank.returncode), 0)
        for rank in ranks if failed else ():  # the main one first: it may still tidy up in the run's folder
            _end(rank, patience_s=30 if rank is ranks[0] and not told else 1)
    if failed > 0 and store.check([_REPORTED]):  # others may end first, by the connection that broke
        failed = int(store.get(_REPORTED).split()[1])
    return failed if failed >= 0 else 128 - failed


def _start(variables: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=os.environ | variables)


def _end(process: subprocess.Popen, patience_s: float) -> None:
    """Time to finish by itself, a request, then force."""
    for ask, patience in ((lambda: None, patience_s), (process.terminate, 10), (process.kill, None)):
        ask()
        try:
            process.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue


def join_process_group(accelerator: str) -> None:
    """Makes a launched process one of its ranks. Output of the others than the main rank goes nowhere, but for errors.

    Raises UserError when there is no GPU of its own for each (torchrun asked nobody), unless `accelerator` is cpu.
    """
    import torch
    from torch import distributed

    if not is_launched() or distributed.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available() and accelerator != "cpu":
        check_devices(int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])), accelerator)
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    atexit.register(distributed.destroy_process_group)
    sys.excepthook = _report_exception
    if not is_main():
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # the main rank stops at Ctrl-C, the launcher then ends the others
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open as long as the process lives


def claim_report(status: int) -> bool:
    """Whether this rank is the first to report how the run ends, with this exit status. The others then stay silent: they met the same, or its effect.

    A rank other than the main one waits a moment for that one first, because the main rank's message names the run's own folder.
    """
    if (distributed := _group()) is None:
        return True
    store = distributed.distributed_c10d._get_default_store()
    while isinstance(store, distributed.PrefixStore):  # the launcher reads the key without the group's prefix
        store = store.underlying_store
    try:
        until = time.monotonic() + (0 if is_main() else _MAIN_FIRST_S)
        while not store.check([_REPORTED]) and time.monotonic() < until:
            time.sleep(0.05)  # the store's own wait warns on stderr when its time is up
        mine = f"{rank()} {status}"
        return store.compare_set(_REPORTED, "", mine) == mine.encode()
    except RuntimeError:  # the store is gone with the process that held it
        return True


def _report_exception(*error: Any) -> None:
    if claim_report(1):
        sys.__excepthook__(*error)


def world_size() -> int:
    """Ranks of this run, 1 without others."""
    distributed = _group()
    return distributed.get_world_size() if distributed else 1


def rank() -> int:
    """This process's number, 0 without others."""
    distributed = _group()
    return distributed.get_rank() if distributed else 0


def is_main() -> bool:
    """Whether this rank writes and speaks."""
    return rank() == 0


def _group() -> Any:
    """torch.distributed where it is in use; torch is not loaded for the question."""
    torch = sys.modules.get("torch")
    here = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed if here else None


def take_share(items: Sequence[Item]) -> Sequence[Item]:
    """This rank's part: consecutive items, as many as every other rank's or one more."""
    total, mine = world_size(), rank()
    return items[len(items) * mine // total : len(items) * (mine + 1) // total]


def all_gather(part: Sequence[Item]) -> list[Item]:
    """The parts of all ranks, one after the other; undoes `share`."""
    if (distributed := _group()) is None:
        return list(part)
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, list(part))
    return [item for one in parts for item in one]


def broadcast(value: Item) -> Item:
    """The main rank's value, on every rank."""
    if (distributed := _group()) is None:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Returns when every rank has come here."""
    broadcast(None)
    all_gather([])


def all_reduce(tensors: Iterable[Tensor]) -> None:
    """Replaces each tensor by its sum over the ranks, in place. Small ones travel together: each message costs most of a millisecond."""
    if (distributed := _group()) is not None:
        for together in _buckets(tensors):
            _add_up_together(together, distributed)


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one kind in runs of at most `_MESSAGE` values; a larger one stands alone."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        alike = bucket and (tensor.dtype, tensor.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and (not alike or sum(one.numel() for one in bucket) + tensor.numel() > _MESSAGE):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _add_up_together(tensors: Sequence[Tensor], distributed: Any) -> None:
    import torch

    if len(tensors) == 1:
        distributed.all_reduce(tensors[0])
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def all_reduce_gradients(parameters: Sequence[Any]) -> None:
    """Sums gradients over the ranks. A parameter that got one on no rank keeps None: an optimiser must pass over it, as on one rank."""
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
    """The run's folder on the main rank; on another, a temporary folder that shows the same files and is gone at the end.

    Finished stages and everything heavy are links, the rest copies, so that this rank can continue a stage where the main one does.
    """
    barrier()  # the main rank has written what a run begins with
    if is_main():
        barrier()
        return folder
    place = Path(tempfile.mkdtemp(prefix=f"openvlt-rank{rank()}-", dir=os.environ.get(_PLACES)))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    mirror_folder(folder.absolute(), place)
    barrier()  # the main rank has changed nothing so far
    return place


def mirror_folder(source: Path, place: Path) -> None:
    """Fills `place` with what lies in `source`: links to finished stages and to heavy files, copies of all else."""
    place.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.name in _HEAVY or (path.is_dir() and (path / "results.json").is_file()):
            (place / path.name).symlink_to(path)
        elif path.is_dir():
            mirror_folder(path, place / path.name)
        else:
            shutil.copy2(path, place / path.name)
