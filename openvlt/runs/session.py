"""A run's beginning: its folder, its config on disk, resuming, and the parts that its stages share."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.runs.directory import PREVIOUS, run_manifest
from openvlt.storage.atomic import write_json, write_text

BEGINNING = ("config.yaml", "overrides", "manifest.json", ".lock", PREVIOUS)
PLACES = (
    "resume",
    "paths.runs",
    "trainer.devices",
)  # what may differ between a run and its continuation: where, not what
OWN = ("paths.new", "paths.run")  # every run's own


def open_run(config: DictConfig) -> tuple[DictConfig, Path]:
    """The run's config and folder. A new run writes config.yaml, overrides and manifest.json; a resumed one is held to them.

    On the main rank; the others follow it, in a folder of their own. Raises UserError when the folder to resume is no run, or when
    its config and the given one differ.
    """
    check_seed(config)
    use_threads(config)
    opened = _open(config) if distributed.is_main() else None
    opened, folder = distributed.broadcast(opened)
    use_threads(opened)
    if not distributed.is_main():
        with contextlib.suppress(OSError):  # it isn't empty: the folder to resume
            Path(config.paths.run).rmdir()
    return opened, distributed.rank_folder(folder)


def check_seed(config: DictConfig) -> None:
    """Raises UserError for a seed that the random generators don't take, with what the stages add to it."""
    if type(config.seed) is not int or not 0 <= config.seed < 2**31:
        raise UserError(f"seed={config.seed}; give a whole number from 0 to {2**31 - 1}")


def use_threads(config: DictConfig) -> None:
    """`threads` CPU threads for this process, PyTorch's own choice without it."""
    import torch

    if config.get("threads") is not None:
        if not isinstance(config.threads, int) or config.threads < 1:
            raise UserError(
                f"threads={config.threads}; give a number from 1 on, or null for PyTorch's choice"
            )
        torch.set_num_threads(config.threads)


def command_line_overrides() -> list[str]:
    """What this job's command line sets, in Hydra's form; nothing under `compose()` (tests, notebooks)."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _open(config: DictConfig) -> tuple[DictConfig, Path]:
    overrides = command_line_overrides()
    folder = Path(config.paths.run)
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    saved = folder / "config.yaml"
    if config.resume is not None:
        if not saved.is_file():
            raise UserError(
                f"resume={config.resume}: no config.yaml in {folder}; give a run folder, or leave resume out"
            )
        _same_script(folder)
        return _resumed(config, OmegaConf.load(saved), overrides), folder
    folder.mkdir(parents=True, exist_ok=True)
    if saved.exists():
        raise UserError(
            f"{folder} holds another run already; start again, or continue it with resume={folder}"
        )
    resolved = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    write_text(folder / "overrides", "\n".join(overrides) + "\n")
    write_json(folder / "manifest.json", run_manifest(config.seed))
    write_text(saved, OmegaConf.to_yaml(resolved))
    return resolved, folder


def _same_script(folder: Path) -> None:
    """Raises UserError when the run to resume was made by another entry script."""
    began = json.loads((folder / "manifest.json").read_text())["command"][0]
    if HydraConfig.initialized() and began != Path(sys.argv[0]).name:
        raise UserError(f"{folder} was made by {began}; resume it with: python {began} resume={folder}")


def _resumed(config: DictConfig, saved: DictConfig, overrides: list[str]) -> DictConfig:
    """The saved config. With more on the command line than `resume` and places, all of it has to agree with what was saved."""
    if any(not override.startswith(PLACES) for override in overrides):
        now = OmegaConf.to_container(config, resolve=True)
        given = {override.lstrip("+").partition("=")[0] for override in overrides}
        if different := sorted(
            config_differences(OmegaConf.to_container(saved), now),
            key=lambda d: (d.partition(":")[0] not in given, d),
        ):
            shown = "; ".join(different[:4]) + (
                f"; and {len(different) - 4} more" if len(different) > 4 else ""
            )
            raise UserError(
                f"resume={config.resume}: that run was made with another config ({shown}); resume it with `resume=` alone, or "
                "start a new run"
            )
    if any(override.startswith("trainer.devices=") for override in overrides):
        saved.trainer.devices = config.trainer.devices
    return saved


def config_differences(was: Any, now: Any, path: str = "") -> list[str]:
    """`key: old, now new` for every leaf that differs, places left out."""
    if isinstance(was, dict) and isinstance(now, dict):
        found = []
        for key in was.keys() | now.keys():
            here = f"{path}.{key}".lstrip(".")
            if here not in PLACES + OWN:
                found += config_differences(was.get(key, "absent"), now.get(key, "absent"), here)
        return found
    return [] if was == now else [f"{path}: {was}, now {now}"]


def announce_run(config: DictConfig, folder: Path) -> None:
    """One line at the start: which scale this is, which model and data, and where the results go."""
    model = config.model.get("path") or "the embedded tiny model"
    data = config.data._target_.rpartition(".")[2].lower()
    print(f"scale={config.scale}: {model}, data {data}, seed {config.seed} -> {folder}", flush=True)


@contextlib.contextmanager
def keep_resumable(folder: Path) -> Iterator[None]:
    """Says on Ctrl-C how to go on from where the run stopped, and closes Weights & Biases after the job.

    A user's mistake that is found before anything was made takes the new folder away again: `resume=latest` would find it.
    """
    try:
        yield
    except UserError:
        made = (path for path in folder.rglob("*") if path.is_file() and path.name not in BEGINNING)
        if distributed.is_main() and not any(made):
            shutil.rmtree(folder)
        raise
    except KeyboardInterrupt:
        script = Path(sys.argv[0]).name
        print(
            f"\ninterrupted; nothing finished is lost. Continue with: python {script} resume={folder}",
            file=sys.stderr,
            flush=True,
        )
        raise
    finally:
        if "wandb" in sys.modules:
            sys.modules["wandb"].finish()
