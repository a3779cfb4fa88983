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
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from openvlt.cli.ranks import STATUS_VARIABLE
from openvlt.errors import UserError
from openvlt.runs.directory import command_name

_CLUSTER_MARKS = ("SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def launch(command: Sequence[str], processes: int, folder: Path) -> int:
    """Runs a Python command in so many processes; returns the exit status of the first that failed, or 0.

    Where a process was ended from outside, says so in one sentence; `folder` is the run that goes on. Any
    other error its own rank reports.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _silence("torch.distributed.elastic")
    threads = max(1, (os.cpu_count() or 1) // processes)
    with tempfile.TemporaryDirectory(prefix="openvlt-ranks-") as place:
        status = Path(place) / "status"
        variables = {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            STATUS_VARIABLE: str(status),
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
            print(_describe_end(rank, failure.exitcode, folder), file=sys.stderr)
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        finally:
            os.environ.clear()
            os.environ.update(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _silence(package: str) -> None:
    """Lets a package's loggers say nothing less than critical: each of torch's has a level of its own."""
    for name in [package, *logging.root.manager.loggerDict]:
        if name.startswith(package):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def job_command(command: Sequence[str], folder: Path) -> list[str]:
    """The command line of this very job, which `command` begins: its own overrides, and its folder.

    So a sweep's jobs each start their own processes, whatever launcher runs the sweep.
    """
    task = HydraConfig.get().overrides.task
    own = ["hydra.output_subdir=null", "hydra.mode=RUN", "hydra/launcher=basic"]
    return [*command, *task, f"hydra.run.dir={_quote(str(folder.absolute()))}", *own]


def _quote(value: str) -> str:
    """A value that Hydra reads as this text."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _describe_end(rank: int, status: int, folder: Path) -> str:
    """One sentence on a process that ended without a word, and how to go on."""
    number = -status
    how = f"signal {signal.Signals(number).name}" if number in set(signal.Signals) else f"status {status}"
    memory = ", as when memory runs out" if number == signal.SIGKILL else ""
    resume = f"{command_name()} {shlex.join([f'resume={os.path.relpath(folder)}'])}"
    known = (folder / "config.yaml").is_file()
    rest = f"; nothing finished is lost, continue with: {resume}" if known else ""
    return f"error: process {rank} of this run ended by {how}{memory}{rest}"


def adopt_cluster() -> None:
    """Sets torch's variables from those of a cluster whose tasks are the ranks. A single task is no rank.

    Knows Slurm, LSF and MPI by Lightning's environments. Raises UserError for tasks that aren't placed.
    """
    if "RANK" in os.environ or not any(mark in os.environ for mark in _CLUSTER_MARKS):
        return
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
