"""Several processes for one job: started by torch's own launcher, or by torchrun or a cluster from outside.

The launcher is `torch.distributed.run`'s library. It picks ports, watches its workers, and ends them all when
one has failed or a signal comes.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from openvlt import distributed

_STATUS_VARIABLE = (
    "OPENVLT_STATUS"  # names the file in which the rank that reports an error leaves its status
)
_REPORTED = "openvlt/reported"  # key in the ranks' store; its value: the rank that reported the end
_KILLED_FIRST_S = 3
_MAIN_FIRST_S = 10  # how long another rank's error waits for the main one's


def launch(command: Sequence[str], processes: int, folder: Path) -> int:
    """Runs a Python command in so many processes; returns the exit status of the first that failed, or 0.

    Where a process was ended from outside, says so in one sentence; `folder` is the run that goes on. Any
    other error its own rank reports.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    threads = max(1, (os.cpu_count() or 1) // processes)
    with tempfile.TemporaryDirectory(prefix="openvlt-ranks-") as place:
        status = Path(place) / "status"
        variables = {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            distributed.FOLDERS_VARIABLE: place,
            _STATUS_VARIABLE: str(status),
        }
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=f"openvlt-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
        )
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            elastic_launch(settings, sys.executable)(*command)
            return 0
        except SignalException as stop:
            return 128 + stop.sigval
        except ChildFailedError as error:
            if status.is_file():
                return int(status.read_text())
            rank, failure = error.get_first_failure()
            print(_describe_end(rank, failure.exitcode, Path(command[0]).name, folder), file=sys.stderr)
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        finally:
            os.environ.clear()
            os.environ.update(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)


def job_command(script: Path, folder: Path) -> list[str]:
    """The command line of this very job: its own overrides, and its folder.

    So a sweep's jobs each start their own processes, whatever launcher runs the sweep.
    """
    task = HydraConfig.get().overrides.task
    own = ["hydra.output_subdir=null", "hydra.mode=RUN", "hydra/launcher=basic"]
    return [str(script), *task, f"hydra.run.dir={_quote(str(folder.absolute()))}", *own]


def _quote(value: str) -> str:
    """A value that Hydra reads as this text."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _describe_end(rank: int, status: int, script: str, folder: Path) -> str:
    """One sentence on a process that ended without a word, and how to go on."""
    number = -status
    how = f"signal {signal.Signals(number).name}" if number in set(signal.Signals) else f"status {status}"
    memory = ", as when memory runs out" if number == signal.SIGKILL else ""
    resume = shlex.join([script, f"resume={os.path.relpath(folder)}"])
    known = (folder / "config.yaml").is_file()
    rest = f"; nothing finished is lost, continue with: python {resume}" if known else ""
    return f"error: process {rank} of this run ended by {how}{memory}{rest}"


def join_ranks(accelerator: str) -> None:
    """Makes a launched process one of the ranks. Only the main rank's output is shown, and one error report.

    Raises UserError when there is no GPU for each rank, unless `accelerator` is cpu.
    """
    if not distributed.join_process_group(accelerator):
        return
    sys.excepthook = _report_exception
    if not distributed.is_main():
        # at Ctrl-C the main rank says how to go on; it may be waiting for this one, which ends at once
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open as long as the process lives


def claim_report(status: int, variables: Mapping[str, str] = os.environ) -> bool:
    """Whether this rank is the first to report how the run ends, with this exit status.

    The others then stay silent: they met the same error, or its effect. A rank other than the main one first
    waits a moment for that one, because the main rank's message names the run's own folder.
    """
    if (store := distributed.shared_store()) is None:
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
    if first and (file := variables.get(_STATUS_VARIABLE)):
        Path(file).write_text(str(status))
    return first


def _report_exception(*error: Any) -> None:
    time.sleep(_KILLED_FIRST_S)  # another rank's death breaks the connection: the launcher ends this one then
    if claim_report(1):
        sys.__excepthook__(*error)
