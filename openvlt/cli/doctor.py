"""`openvlt doctor`: what is installed, and what is missing for which command."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from openvlt import __version__
from openvlt.config.resolvers import CONF

NEEDED = ("torch", "transformers", "lightning", "hydra-core", "omegaconf", "peft", "sympy", "datasets")
OPTIONAL = {  # a module, and what it is for
    "vllm": "rollout=vllm on GPUs (python -m pip install -r requirements-gpu.txt, or a second environment)",
    "flash_attn": "the vision tower's attention on GPUs; SDPA is used without",
    "triton": "torch.compile and bitsandbytes on GPUs",
    "torchvision": "processors of model families outside docs/usage.md's table",
    "wandb": "logger=wandb",
}
ENOUGH_GIB = 5.0
UNWRITABLE, SCARCE = "NOT WRITABLE", "LITTLE"


def run_doctor(arguments: Sequence[str]) -> int:
    """Prints what is there and what is missing; returns 1 where something needed is."""
    argparse.ArgumentParser(prog="openvlt doctor", description=__doc__).parse_args(arguments)
    missing = [name for name in NEEDED if _version(name) is None]
    print(f"openvlt {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"settings     {CONF}")
    for name in NEEDED:
        print(f"{name:<12} {_version(name) or 'MISSING'}")
    if "torch" not in missing:
        print("\n".join(describe_gpus()))
    for name, use in OPTIONAL.items():
        found = importlib.util.find_spec(name) is not None
        version = _version(name.replace("_", "-")) or "installed"
        print(f"{name:<12} {version if found else f'not installed; it is for {use}'}")
    folders = describe_folders()
    print("\n".join(folders))
    for name in missing:
        print(f"error: {name} is missing: python -m pip install -r requirements.txt", file=sys.stderr)
    if missing or any(mark in line for line in folders for mark in (UNWRITABLE, SCARCE)):
        return 1
    print("everything that training on this machine needs is there")
    return 0


def describe_gpus() -> list[str]:
    """A line for each GPU, or one that says there is none."""
    import torch

    if not torch.cuda.is_available():
        why = "this torch is a CPU build" if torch.version.cuda is None else "torch sees none (driver?)"
        return [f"GPU          none: {why}; the embedded model trains on the CPU, 3b and 7b don't"]
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [f"GPU          {each.name}, {each.total_memory / 2**30:.0f} GiB" for each in found]


def describe_folders() -> list[str]:
    """A line for each place that is written to: what it is for, and the free disk."""
    places = {
        "runs": Path(os.environ.get("OPENVLT_RUNS", "runs")),
        "cache": Path(os.environ.get("OPENVLT_CACHE", ".cache")),
        "hub": Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")),
    }
    lines = []
    for name, place in places.items():
        there = next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(there).free / 2**30
        note = "" if os.access(there, os.W_OK) else f", {UNWRITABLE}"
        note += f", {SCARCE}: less than {ENOUGH_GIB:g} GiB" if free < ENOUGH_GIB else ""
        lines.append(f"{name:<12} {place.absolute()}: {free:.0f} GiB free{note}")
    return lines


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
