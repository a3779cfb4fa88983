"""How many processes a run has, and whether this machine has a GPU for each. Loads torch only to look."""

from __future__ import annotations

import os

from openvlt.errors import UserError


def process_count(devices: int | str) -> int:
    """The number of processes that `trainer.devices` asks for on this machine.

    `auto` is one for every GPU; without GPUs two, or one on a single core. Raises UserError for any other
    value that is no number from 1 on.
    """
    if devices == "auto":
        import torch

        return torch.cuda.device_count() or min(2, os.cpu_count() or 1)
    if not isinstance(devices, int) or isinstance(devices, bool) or devices < 1:
        raise UserError(
            f"trainer.devices={devices!r}; give a number of GPUs (or CPU processes) from 1 on, or auto"
        )
    return devices


def check_devices(processes: int, accelerator: str) -> None:
    """Raises UserError when this machine has GPUs, but fewer than `processes`, which need one each."""
    import torch

    gpus = torch.cuda.device_count()
    if accelerator != "cpu" and 0 < gpus < processes:
        has = f"{gpus} GPU{'s' if gpus > 1 else ''}"
        raise UserError(
            f"trainer.devices={processes}, but this machine has {has}; "
            f"give at most {gpus}, or auto for all there are"
        )
