"""Run folders: saved models, finished stages, earlier runs, and the manifest."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from openvlt.errors import UserError
from openvlt.runs.secrets import hide_secrets
from openvlt.storage.atomic import read_json_file

PACKAGES = (
    "torch",
    "transformers",
    "lightning",
    "hydra-core",
    "omegaconf",
    "peft",
    "sympy",
    "numpy",
    "pillow",
)
MODEL_FILES = ("config.json", "adapter_config.json", "tokenizer.json")
PREVIOUS = "previous.json"  # in a run's folder: the folder of the run that it continues


def find_saved_model(folder: Path) -> Path:
    """The folder of the model that a stage saved. Raises UserError when there is none."""
    if not (folder / "model" / "config.json").is_file():
        record = folder / "results.json"
        if record.is_file() and read_json_file(record)["training"] is not None:
            raise UserError(
                f"{folder / 'model'} is missing or not whole, though the stage is finished; "
                "put it back, or start a new run"
            )
        raise UserError(f"{folder}: this stage leaves no model; name an sft or grpo stage")
    return folder / "model"


def finished_stages(run: Path) -> dict[str, Path]:
    """The folders of a run's finished stages, by stage name."""
    return {
        file.parent.name.partition("-")[2]: file.parent for file in sorted(run.glob("[0-9]*-*/results.json"))
    }


def newest_run(runs: Path, name: str, seed: int) -> Path | None:
    """The newest finished run of that name, one with the same seed if there is any; None if none is finished.

    A run writes its results.json last.
    """
    finished = sorted((runs / name).glob("*/results.json"))
    same = [file for file in finished if read_json_file(file).get("seed") == seed]
    return (same or finished)[-1].parent if finished else None


def previous_run(value: str | None, runs: Path, seed: int) -> Path | None:
    """The run that `iteration.previous` names: a run folder, or a run's name for its newest finished run.

    Raises UserError when there is none.
    """
    if value is None:
        return None
    if Path(value).is_dir():
        return Path(value)
    if (found := newest_run(runs, value, seed)) is None:
        raise UserError(
            f"this run continues from {value!r}, but there is no finished run of it under {runs / value}; "
            f"run `python train.py +experiment={value}` first, or set iteration.previous=<run folder>"
        )
    return found


def model_of_run(run: Path) -> Path:
    """The last model in a run folder or a stage folder, or the folder itself when it is a model.

    Models of control stages don't count. Raises UserError when there is none.
    """
    if any(path.name in MODEL_FILES or path.suffix in (".safetensors", ".bin") for path in run.iterdir()):
        return run  # a model or a part of one: loading it says what is missing
    if (run / "model" / "config.json").is_file():
        return run / "model"
    stages = [folder for name, folder in finished_stages(run).items() if not name.startswith("control")]
    models = [folder / "model" for folder in stages if (folder / "model" / "config.json").is_file()]
    if not models:
        raise UserError(
            f"{run}: no model there; "
            "give a Hugging Face folder, a run folder with a finished stage, or a hub id"
        )
    return models[-1]


def command_name() -> str:
    """How the user started this script: `python train.py`, or `openvlt train`."""
    given = sys.argv[0]
    return given if given.startswith("openvlt ") else f"python {Path(given).name}"


def script_name() -> str:
    """The entry script that does this job, by whichever door it was reached: `train.py`."""
    given = sys.argv[0]
    return f"{given.split()[1]}.py" if given.startswith("openvlt ") else Path(given).name


def run_manifest(seed: int) -> dict[str, Any]:
    """What is needed to repeat a run: command, commit and diff, seed, versions, hardware."""
    import torch

    versions = {name: metadata.version(name) for name in PACKAGES if _is_installed(name)}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "command": [script_name(), *map(hide_secrets, _job_overrides())],
        "commit": _git("rev-parse", "HEAD"),
        "diff": _git("diff", "HEAD"),
        "seed": seed,
        "python": platform.python_version(),
        "versions": versions,
        "hardware": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": gpus,
        },
    }


def _job_overrides() -> list[str]:
    """The overrides of this job; what stands on the command line where Hydra didn't start it."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else sys.argv[1:]


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git(*arguments: str) -> str | None:
    """The output of a git command in the package's folder; None outside a repository or without git."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        return None
    return hide_secrets(done.stdout.strip()) if done.returncode == 0 else None
