"""Run folders: written aside and renamed, found again, and never mixed up."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.model.load import VLM

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
PREVIOUS = "previous.json"  # in a run's folder: the folder of the run that it continues


def save_model(vlm: VLM, folder: Path) -> None:
    """Saves `folder/model` (a plain Hugging Face checkpoint): complete, or not there."""
    aside, final = folder / ".model.tmp", folder / "model"
    vlm.merge_adapter()  # on every rank: what is evaluated next is the model that is saved
    if distributed.is_main():
        shutil.rmtree(aside, ignore_errors=True)
        vlm.save(aside)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
    saved = Path(distributed.broadcast(str(final.absolute())))  # comes when the model is there
    if not distributed.is_main():
        final.unlink(missing_ok=True)
        final.symlink_to(saved)


def find_saved_model(folder: Path) -> Path:
    """The model that a stage left. Raises UserError when the stage leaves none."""
    if not (folder / "model" / "config.json").is_file():
        raise UserError(f"{folder}: this stage leaves no model; name an sft or grpo stage")
    return folder / "model"


def finished_stages(run: Path) -> dict[str, Path]:
    """Stage name -> folder, for the stages of a run folder that are complete."""
    return {
        file.parent.name.partition("-")[2]: file.parent for file in sorted(run.glob("[0-9]*-*/results.json"))
    }


def newest_run(runs: Path, name: str, seed: int) -> Path | None:
    """The newest finished run of that name (its results.json is written last), one with the same seed if there is any."""
    finished = sorted((runs / name).glob("*/results.json"))
    same = [file for file in finished if json.loads(file.read_text()).get("seed") == seed]
    return (same or finished)[-1].parent if finished else None


def previous_run(value: str | None, runs: Path, seed: int) -> Path | None:
    """`iteration.previous`: a run folder, or a run's name for its newest finished run. Raises UserError when there is none."""
    if value is None:
        return None
    if Path(value).is_dir():
        return Path(value)
    if (found := newest_run(runs, value, seed)) is None:
        raise UserError(
            f"this run continues from {value!r}, but there is no finished run of it under {runs / value}; run "
            f"`python train.py +experiment={value}` first, or set iteration.previous=<run folder>"
        )
    return found


def model_of_run(run: Path) -> Path:
    """The last model of a run folder, or of a stage folder, or the folder itself when it is a model."""
    if (run / "config.json").is_file():
        return run
    if (run / "model" / "config.json").is_file():
        return run / "model"
    stages = [folder for name, folder in finished_stages(run).items() if not name.startswith("control")]
    models = [folder / "model" for folder in stages if (folder / "model" / "config.json").is_file()]
    if not models:
        raise UserError(
            f"{run}: no model there; give a Hugging Face folder, a run folder with a finished stage, or a hub id"
        )
    return models[-1]


def run_manifest(seed: int) -> dict[str, Any]:
    """What is needed to make a run again: command, commit and diff, versions, hardware, seed."""
    import torch

    versions = {name: metadata.version(name) for name in PACKAGES if _installed(name)}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
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


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git(*arguments: str) -> str | None:
    """Output of a git command in the project's own folder, None outside a repository or without git."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
