"""The start of a run: its folder, its configuration on disk, and how it is resumed."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from openvlt import distributed
from openvlt.config.resolvers import load_config
from openvlt.data.fingerprint import FINGERPRINTS
from openvlt.errors import UserError
from openvlt.runs.directory import PREVIOUS, command_name, run_manifest, script_name
from openvlt.runs.secrets import refuse_secrets
from openvlt.runs.state import RUN_STATE, record_state
from openvlt.storage.atomic import read_json_file, write_json, write_text
from openvlt.trackers.session import STATE, TRACKER_FOLDERS

# files that a run writes before its first result
START_FILES = (
    "config.yaml",
    "overrides",
    "manifest.json",
    ".lock",
    PREVIOUS,
    FINGERPRINTS,
    STATE,
    RUN_STATE,
    "report.html",
)
# keys that may differ between a run and its continuation: they say where it runs or what to show of it
PLACE_KEYS = ("resume", "paths.runs", "trainer.devices", "plan", "inspect", "logger", "tracking")
# keys whose value is another one in every run
RUN_KEYS = ("paths.new", "paths.run")


def open_run(config: DictConfig) -> tuple[DictConfig, Path]:
    """The configuration and the folder of a new run, or of the one to resume. Writes nothing.

    Everything is built from this configuration: with `resume=` alone the command line describes another run.
    The other ranks receive the main rank's. Raises UserError when the folder to resume is no run, when a file
    of its beginning is missing or cut off, or when its configuration and the given one differ.
    """
    check_seed(config)
    use_threads(config)
    main = distributed.broadcast(_open(config) if distributed.is_main() else None)
    assert main is not None  # the main rank's
    opened, folder = main
    use_threads(opened)
    own = Path(config.paths.run)
    if not distributed.is_main() and own.absolute() != folder.absolute():  # torchrun's ranks have one each
        with contextlib.suppress(OSError):  # it isn't empty: the folder to resume
            own.rmdir()
    return opened, folder


@contextlib.contextmanager
def start_run(config: DictConfig, folder: Path) -> Iterator[Path]:
    """Yields the folder to work in, a new run's with config.yaml, overrides and manifest.json in it.

    Every rank works in it, and the main one alone writes; `state.json` says how the run stands. Prints on
    Ctrl-C how to continue the run. After a user's mistake it removes a new run's folder without results,
    because `resume=latest` would find it. Raises UserError where a rank can't see the folder.
    """
    new = distributed.is_main() and not (folder / "config.yaml").is_file()
    if new:
        _write_start(config, folder)
    try:
        _check_sight(folder)
        with record_state(folder):
            yield folder
    except UserError:
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        if new and not any(map(_is_result, files)):
            shutil.rmtree(folder)
        raise
    except KeyboardInterrupt:
        words = f"{command_name()} {shlex.join([f'resume={folder}'])}"
        print(f"\ninterrupted; nothing finished is lost. Continue with: {words}", file=sys.stderr, flush=True)
        raise


def _is_result(file: Path) -> bool:
    """Whether a file of a run's folder is more than its beginning and what its trackers keep there."""
    return file.name not in START_FILES and file.parts[0] not in TRACKER_FOLDERS


def _check_sight(folder: Path) -> None:
    """Raises UserError where a rank, on another machine, doesn't see what the main rank writes."""
    if distributed.world_size() == 1:
        return
    token = distributed.broadcast(f".seen-{secrets.token_hex(4)}")
    if distributed.is_main():
        (folder / token).touch()
    distributed.barrier()
    place = f"process {distributed.rank()} on {platform.node()}"
    blind = distributed.all_gather([] if (folder / token).exists() else [place])
    if distributed.is_main():
        (folder / token).unlink()
    if blind:
        raise UserError(
            f"{blind[0]} can't see {folder.absolute()}, where the main process writes; put paths.runs on a "
            "file system that all machines share"
        )


def check_seed(config: DictConfig) -> None:
    """Raises UserError for a seed that the random generators can't take, once the stages have added to it."""
    if type(config.seed) is not int or not 0 <= config.seed < 2**31:
        raise UserError(f"seed={config.seed}; give a whole number from 0 to {2**31 - 1}")


def use_threads(config: DictConfig) -> None:
    """Sets `threads` CPU threads for this process; PyTorch chooses without it. Raises UserError."""
    import torch

    if config.get("threads") is not None:
        if not isinstance(config.threads, int) or config.threads < 1:
            raise UserError(
                f"threads={config.threads}; give a number from 1 on, or null for PyTorch's choice"
            )
        torch.set_num_threads(config.threads)


def command_line_overrides() -> list[str]:
    """The overrides of this job's command line, in Hydra's form; [] under `compose()` (tests, notebooks)."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _open(config: DictConfig) -> tuple[DictConfig, Path]:
    folder = Path(config.paths.run)
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    saved = folder / "config.yaml"
    if config.resume is not None:
        if not saved.is_file():
            raise UserError(
                f"resume={config.resume}: no config.yaml in {folder}; give a run folder, or leave resume out"
            )
        _check_start(folder)
        return _resume_config(config, load_config(saved), command_line_overrides()), folder
    if saved.exists():
        raise UserError(
            f"{folder} holds another run already; start again, or continue it with resume={folder}"
        )
    return cast(DictConfig, OmegaConf.create(OmegaConf.to_container(config, resolve=True))), folder


def _write_start(config: DictConfig, folder: Path) -> None:
    """Writes what a run begins with, config.yaml last: without it, a folder is no run.

    Raises UserError, before anything is written, for a setting that holds a key of the environment.
    """
    refuse_secrets(OmegaConf.to_container(config))
    folder.mkdir(parents=True, exist_ok=True)
    text = OmegaConf.to_yaml(config)
    write_text(folder / "overrides", "\n".join(command_line_overrides()) + "\n")
    write_json(folder / "manifest.json", run_manifest(config.seed) | {"config_sha256": _hash(text)})
    write_text(folder / "config.yaml", text)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _check_start(folder: Path) -> None:
    """Raises UserError when another entry script made the run to resume, or its config.yaml isn't whole."""
    manifest = read_json_file(folder / "manifest.json")
    if not isinstance(manifest, dict) or not {"command", "config_sha256"} <= manifest.keys():
        raise UserError(f"{folder / 'manifest.json'} isn't a run's; put it back, or start a new run")
    script = manifest["command"][0]
    if HydraConfig.initialized() and script != script_name():
        raise UserError(f"{folder} was made by {script}; resume it with: python {script} resume={folder}")
    if (
        _hash((folder / "config.yaml").read_text(encoding="utf-8", errors="replace"))
        != manifest["config_sha256"]
    ):
        raise UserError(
            f"{folder / 'config.yaml'} isn't as the run wrote it, but cut off or edited; "
            "put it back, or start a new run with other settings"
        )


def _resume_config(config: DictConfig, saved: DictConfig, overrides: list[str]) -> DictConfig:
    """The saved configuration, with the number of devices and the trackers that are given now.

    Raises UserError when the command line has more than `resume` and places, and differs from what was saved.
    """
    if any(not override.startswith(PLACE_KEYS) for override in overrides):
        now = OmegaConf.to_container(config, resolve=True)
        given = {override.lstrip("+").partition("=")[0] for override in overrides}
        differences = config_differences(OmegaConf.to_container(saved), now)
        if differences:
            differences.sort(key=lambda line: (line.partition(":")[0] not in given, line))
            more = f"; and {len(differences) - 4} more" if len(differences) > 4 else ""
            raise UserError(
                f"resume={config.resume}: that run was made with another config "
                f"({'; '.join(differences[:4])}{more}); resume it with `resume=` alone, or start a new run"
            )
    if any(override.startswith("trainer.devices=") for override in overrides):
        saved.trainer.devices = config.trainer.devices
    _replace_trackers(config, saved, overrides)
    return saved


def _replace_trackers(config: DictConfig, saved: DictConfig, overrides: list[str]) -> None:
    """Puts the trackers of the command line, and its settings of `tracking`, into a saved configuration."""
    keys = {override.lstrip("+~").partition("=")[0] for override in overrides}
    if any(key.partition(".")[0] == "logger" for key in keys):
        saved.logger = OmegaConf.to_container(config.logger, resolve=True)
    for key in keys:
        if key.startswith("tracking."):
            OmegaConf.update(saved, key, OmegaConf.select(config, key))


def config_differences(was: Any, now: Any, path: str = "") -> list[str]:
    """`key: old, now new` for every leaf that differs, except PLACE_KEYS and RUN_KEYS."""
    if isinstance(was, dict) and isinstance(now, dict):
        found = []
        for key in was.keys() | now.keys():
            here = f"{path}.{key}".lstrip(".")
            if here not in PLACE_KEYS + RUN_KEYS:
                found += config_differences(was.get(key, "absent"), now.get(key, "absent"), here)
        return found
    return [] if was == now else [f"{path}: {was}, now {now}"]


def announce_run(config: DictConfig, folder: Path) -> None:
    """Prints one line at the start: the scale, model, data and seed, and where the results go."""
    model = config.model.get("path") or "the embedded tiny model"
    data = config.data._target_.rpartition(".")[2].lower()
    print(f"scale={config.scale}: {model}, data {data}, seed {config.seed} -> {folder}", flush=True)


def data_title(config: DictConfig) -> str:
    """The data as a message names it: its file or folder, else its kind."""
    return str(config.data.get("path") or f"the data ({config.data._target_.rpartition('.')[2]})")
