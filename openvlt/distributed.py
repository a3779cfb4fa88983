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
_BUCKET_SIZE = 1 << 24  # values in one message
_TIMEOUT = timedelta(hours=4)  # a rank may wait this long while the main one asks a server for traces
_MAIN_FIRST_S = 10  # how long another rank's error waits for the main one's
_REPORTED = "openvlt/reported"  # key in the store; its value: the rank that reported the end, its exit status
_FOLDERS_VARIABLE = "OPENVLT_RANKS"  # names the launcher's temporary folder, which is removed with it
_LINKED_NAMES = ("model", "last.ckpt")  # heavy files that ranks read from the main folder, without a copy


def is_launched() -> bool:
    """Whether this process was started as one of several, by `launch` or by torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


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


def launch(processes: int) -> int:
    """Runs this very command once per rank, `processes` in all; returns the first failure's exit status.

    Where a rank reported the failure, the status is that rank's. As with torchrun, the store through which
    the ranks meet is here, so that it outlives each of them.
    """
    # torch documents the name here and exports it from a private module
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory(prefix="openvlt-ranks-") as folders:
        common = {
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            _FOLDERS_VARIABLE: folders,
        }
        threads = max(1, (os.cpu_count() or 1) // processes)
        common["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(threads))
        ranks = [
            _start_rank(common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(processes)
        ]
        # the terminal sends Ctrl-C to the main rank too, which reports it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signals: list[int] = []
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: signals.append(number))
        while not signals and any(rank.poll() is None for rank in ranks):
            if any(rank.poll() for rank in ranks):
                break
            time.sleep(0.1)
        failed = -signals[0] if signals else next((rank.returncode for rank in ranks if rank.returncode), 0)
        for rank in ranks if failed else ():  # the main one first: it may still tidy up in the run's folder
            _stop(rank, patience_s=30 if rank is ranks[0] and not signals else 1)
    if failed > 0 and store.check([_REPORTED]):  # others may end first, by the connection that broke
        failed = int(store.get(_REPORTED).split()[1])
    return failed if failed >= 0 else 128 - failed


def _start_rank(variables: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=os.environ | variables)


def _stop(process: subprocess.Popen, patience_s: float) -> None:
    """Waits for the process to end by itself, then terminates it, then kills it."""
    for request, seconds in ((lambda: None, patience_s), (process.terminate, 10), (process.kill, None)):
        request()
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue


def join_process_group(accelerator: str) -> None:
    """Makes a launched process one of the ranks. Only the main rank's output is shown, and one error report.

    Raises UserError when there is no GPU for each rank (torchrun doesn't check), unless `accelerator` is cpu.
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
    distributed.init_process_group(backend, timeout=_TIMEOUT)
    atexit.register(distributed.destroy_process_group)
    sys.excepthook = _report_exception
    if not is_main():
        # the main rank stops at Ctrl-C, the launcher then ends the others
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open as long as the process lives


def claim_report(status: int) -> bool:
    """Whether this rank is the first to report how the run ends, with this exit status.

    The others then stay silent: they met the same error, or its effect. A rank other than the main one first
    waits a moment for that one, because the main rank's message names the run's own folder.
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
    mirror = Path(tempfile.mkdtemp(prefix=f"openvlt-rank{rank()}-", dir=os.environ.get(_FOLDERS_VARIABLE)))
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
