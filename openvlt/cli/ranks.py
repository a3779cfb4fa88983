"""A process as one of a run's ranks: how it joins the others, and which of them reports the end."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from openvlt import distributed
from openvlt.trainer.devices import check_devices

# names the file in which the rank that reports an error leaves its status
STATUS_VARIABLE = "OPENVLT_STATUS"
_REPORTED = "openvlt/reported"  # key in the ranks' store; its value: the rank that reported the end
_TIMEOUT = timedelta(minutes=10)  # of a message between tensors: a rank that waits longer waits for ever
_KILLED_FIRST_S = 3
_MAIN_FIRST_S = 10  # how long another rank's error waits for the main one's


def join_ranks(accelerator: str) -> None:
    """Makes a launched process one of the ranks. Only the main rank's output is shown, and one error report.

    Raises UserError when there is no GPU for each rank, unless `accelerator` is cpu.
    """
    if not _join_process_group(accelerator):
        return
    sys.excepthook = _report_exception
    if not distributed.is_main():
        # at Ctrl-C the main rank says how to go on; it may be waiting for this one, which ends at once
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open as long as the process lives


def _join_process_group(accelerator: str) -> bool:
    """Makes a launched process one of the ranks; False in a process that is alone, or has joined already."""
    if not distributed.is_launched() or distributed.world_size() > 1:
        return False
    import torch
    from torch import distributed as group

    backend = "gloo"
    if torch.cuda.is_available() and accelerator != "cpu":
        # torchrun doesn't check
        check_devices(int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])), accelerator)
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    group.init_process_group(backend, timeout=_TIMEOUT)
    atexit.register(group.destroy_process_group)
    return True


def claim_report(status: int, variables: Mapping[str, str] = os.environ) -> bool:
    """Whether this rank is the first to report how the run ends, with this exit status.

    The others then stay silent: they met the same error, or its effect. A rank other than the main one first
    waits a moment for that one, because the main rank's message names the run's own folder.
    """
    if (store := _shared_store()) is None:
        return True
    if distributed.is_main():
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # another rank may end now, and the launcher all of them
    try:
        until = time.monotonic() + (0 if distributed.is_main() else _MAIN_FIRST_S)
        while not store.check([_REPORTED]) and time.monotonic() < until:
            time.sleep(0.05)  # the store's own wait warns on stderr when its time is up
        mine = str(distributed.rank())
        first = store.compare_set(_REPORTED, "", mine) == mine.encode()
    except RuntimeError:  # the store is gone with the process that held it
        return True
    if first and (file := variables.get(STATUS_VARIABLE)):
        Path(file).write_text(str(status))
    return first


def _shared_store() -> Any:
    """The store through which the ranks met, without the group's prefix; None without others."""
    if distributed.world_size() == 1:
        return None
    from torch.distributed import distributed_c10d as group

    store = group._get_default_store()
    while isinstance(store, group.PrefixStore):
        store = store.underlying_store
    return store


def _report_exception(*error: Any) -> None:
    time.sleep(_KILLED_FIRST_S)  # another rank's death breaks the connection: the launcher ends this one then
    if claim_report(1):
        sys.__excepthook__(*error)
