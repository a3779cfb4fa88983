"""What every entry script has around it: its arguments, its ranks, its errors."""

from __future__ import annotations

import contextlib
import os
import pkgutil
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from openvlt import distributed
from openvlt.cli.arguments import normalise_arguments
from openvlt.cli.errors import DISK_ERRORS, report_errors
from openvlt.cli.launch import adopt_cluster, job_command, launch
from openvlt.cli.ranks import join_ranks
from openvlt.cli.usage import usage_text
from openvlt.config.resolvers import CONF, load_config, new_run_id
from openvlt.errors import UserError
from openvlt.runs.directory import command_name
from openvlt.trainer.devices import check_devices, process_count

# at once, for a launcher's workers too: our files of hydra/launcher are merged with the launchers' own
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore")


JOBS = {  # what an entry script does with its config; imported late: `--cfg job` needs no torch
    "train": "openvlt.cli.train:train",
    "evaluate": "openvlt.cli.evaluate:score_or_compare",
    "distill": "openvlt.cli.distill:distill",
}


def run_script(words: Sequence[str]) -> None:
    """Runs the job that the first word names, under Hydra with `conf/<name>.yaml`; the rest are settings.

    A user's mistake ends in one sentence and exit status 2. With several devices each job starts its own
    processes, one for each rank.
    """
    import hydra
    from hydra.errors import HydraException
    from yaml import YAMLError

    name, *arguments = words
    if {"--help", "-h"} & set(arguments):
        with report_errors((), ()):
            print(usage_text(name, command_name()), flush=True)
        return
    # idle OpenMP threads sleep: spinning ones slow a shared machine down fivefold (docs/LOG.md)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra re-raises its errors, and `report_errors` prints them
    mendable = (UserError, HydraException, OmegaConfBaseException, YAMLError)

    def run_job(config: DictConfig) -> None:
        with _status_as_error(), report_errors(mendable, DISK_ERRORS):
            adopt_cluster()
            alone = config.get("plan") or config.get("inspect")  # they train nothing
            processes, accelerator = (1, "cpu") if alone else _processes_and_accelerator(config)
            if not distributed.is_launched() and processes > 1:
                check_devices(processes, accelerator)
                folder = Path(config.paths.run)
                if status := launch(job_command(_own_command(name), folder), processes, folder):
                    sys.exit(status)
                return
            join_ranks(accelerator)
            if not distributed.is_launched():
                signal.signal(signal.SIGTERM, signal.default_int_handler)  # a request to stop is a Ctrl-C
            try:
                pkgutil.resolve_name(JOBS[name])(config)
            finally:
                _remove_empty_folder(config)

    # before the job begins, any trouble with a file is one with the place to run in
    with report_errors((*mendable, OSError), ()):
        sys.argv[1:] = normalise_arguments([*arguments, *_own_settings(arguments)], CONF)
        if sys.argv[-1] in ("-m", "--multirun"):
            os.environ.setdefault("OPENVLT_SWEEP", new_run_id())  # its jobs' group
        with _known_launchers():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(run_job)()


def _own_settings(arguments: Sequence[str]) -> list[str]:
    """The words that add the settings files of `./conf`, where the package's own lie elsewhere."""
    there = Path("conf")
    if not there.is_dir() or there.resolve() == CONF or any("-config-d" in word for word in arguments):
        return []
    return ["--config-dir", str(there.resolve())]


def _own_command(name: str) -> list[str]:
    """What Python runs to do this job again: the checkout's script, or the installed package."""
    script = CONF.parent / f"{name}.py"
    return [str(script)] if script.is_file() else ["-m", "openvlt", name]


@contextlib.contextmanager
def _status_as_error() -> Iterator[None]:
    """Inside, a job that ends with a status raises a UserError where a sweep's launcher runs it elsewhere.

    The launcher sends that to the sweep, and runs the other jobs; a worker that exits would be its own error.
    """
    try:
        yield
    except SystemExit as end:
        hydra = HydraConfig.get()
        if hydra.mode != RunMode.MULTIRUN or hydra.launcher._target_.endswith(".BasicLauncher"):
            raise
        raise UserError(
            f"job {hydra.job.num} of this sweep ended with status {end.code}; what it said stands above, or "
            f"with submitit in {hydra.sweep.dir}/.submitit"
        ) from None


@contextlib.contextmanager
def _known_launchers() -> Iterator[None]:
    """Inside, a launcher of sweeps that isn't installed is a UserError."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("Unknown plugin class"):
            raise
        raise UserError(
            "hydra/launcher: this launcher of sweeps isn't installed; python -m pip install -r "
            "requirements-sweep.txt, or leave it out: jobs then run one after the other"
        ) from error


def _remove_empty_folder(config: DictConfig) -> None:
    """Removes the run folder that Hydra made for this process, and that of its name."""
    folder = Path(config.paths.run)
    for place in (folder, folder.parent):
        with contextlib.suppress(OSError):
            place.rmdir()


def _processes_and_accelerator(config: DictConfig) -> tuple[int, str]:
    """How many processes, on which accelerator.

    A run to resume gets those it had, unless the command line gives another number of devices.
    """
    trainer, saved = config.trainer, Path(config.paths.run) / "config.yaml"
    given = any(override.startswith("trainer.devices=") for override in HydraConfig.get().overrides.task)
    if config.resume is not None and saved.is_file():
        trainer = load_config(saved).trainer
    devices = config.trainer.devices if given else trainer.devices
    return process_count(devices), trainer.accelerator
