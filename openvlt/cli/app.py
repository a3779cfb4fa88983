"""The frame around every entry script: arguments, ranks, errors."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from openvlt import distributed
from openvlt.cli.errors import DISK_ERRORS, report_errors
from openvlt.config.resolvers import CONF
from openvlt.errors import UserError

APPENDED = (
    "experiment",
    "recipe",
)  # groups outside the defaults list: `experiment=x` is read as `+experiment=x`


def run_script(name: str, run: Callable[[DictConfig], None]) -> None:
    """Runs an entry script under Hydra with `conf/<name>.yaml`. A user's mistake ends in one sentence and exit status 2."""
    import hydra
    from hydra.errors import HydraException
    from yaml import YAMLError

    sys.argv[1:] = normalise_arguments(sys.argv[1:], CONF)
    # idle OpenMP threads sleep: spinning ones slow a shared machine down fivefold (docs/LOG.md)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra re-raises, so that its errors can be told in our words
    told = (UserError, HydraException, OmegaConfBaseException, YAMLError)

    def framed(config: DictConfig) -> None:
        with report_errors(told, DISK_ERRORS):
            processes, accelerator = (
                (1, "cpu") if config.get("plan") else _trainer(config)
            )  # a plan needs no device
            if not distributed.is_launched() and processes > 1:
                _leave_no_empty_folder(config)  # the ranks' run has its own
                distributed.check_devices(processes, accelerator)
                sys.exit(
                    distributed.launch(processes)
                )  # the whole command, a sweep too: ranks go through it side by side
            distributed.join_process_group(accelerator)
            if not distributed.is_launched():
                signal.signal(signal.SIGTERM, signal.default_int_handler)  # a request to stop is a Ctrl-C
            try:
                run(config)
            finally:
                _leave_no_empty_folder(config)

    with report_errors(
        (*told, OSError), ()
    ):  # before the run begins, any trouble with a file is one with the place to run in
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(framed)()


def _leave_no_empty_folder(config: DictConfig) -> None:
    """Takes the folder that Hydra made for this process away again, unless something is in it."""
    with contextlib.suppress(OSError):
        Path(config.paths.run).rmdir()


def _trainer(config: DictConfig) -> tuple[int, str]:
    """Processes and accelerator; of a run to resume those it had, unless the command line says another number of processes."""
    trainer, saved = config.trainer, Path(config.paths.run) / "config.yaml"
    given = any(override.startswith("trainer.devices=") for override in HydraConfig.get().overrides.task)
    if config.resume is not None and saved.is_file():
        trainer = OmegaConf.load(saved).trainer
    return distributed.process_count(
        config.trainer.devices if given else trainer.devices
    ), trainer.accelerator


def normalise_arguments(arguments: list[str], conf: Path) -> list[str]:
    """Arguments as users write them, in the form Hydra wants.

    `experiment=x` becomes `+experiment=x` (likewise recipe), `model=<path or hub id>` becomes `model=pretrained model.path=<it>`,
    `view=x` and `compare=A,B` get the form that groups inside groups and lists have, and `-m` goes to the end (Hydra's parser gives up
    on settings that follow it).
    """
    sweep = [argument for argument in arguments if argument in ("-m", "--multirun")]
    result = []
    for argument in (argument for argument in arguments if argument not in sweep):
        key, equals, value = argument.partition("=")
        if equals and key in APPENDED:
            argument = f"+{argument}"
        elif (
            equals
            and key == "model"
            and not (conf / "model" / f"{value}.yaml").is_file()
            and _is_place(value)
        ):
            result.append("model=pretrained")
            argument = f"model.path={value}"
        elif equals and key == "view":  # a group inside another one
            argument = f"benchmark/view@view={value}"
        elif equals and key == "compare" and not value.startswith("["):  # a comma would mean a sweep
            argument = f"compare=[{value}]"
        result.append(argument)
    return result + sweep[:1]


def _is_place(value: str) -> bool:
    return "/" in value or value.startswith(".") or Path(value).is_dir()
