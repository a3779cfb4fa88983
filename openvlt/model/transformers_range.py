"""The versions of transformers that the project works with, and calls whose names differ between them."""

from __future__ import annotations

import importlib
from typing import Any

from openvlt.model.hf_types import HFModel

OLDEST, NEWEST = "5.16", "5.23"  # `make test-oldest` runs the tests of models and rollouts with the oldest


def pil_processor_class(name: str) -> Any:
    """The class of an image processor, named by transformers' folder of a model and itself.

    In older versions the package's own names of some of them ask for torchvision, which they don't use.
    """
    folder, _, kind = name.partition(".")
    return getattr(
        importlib.import_module(f"transformers.models.{folder}.image_processing_pil_{folder}"), kind
    )


def enable_checkpointing(model: HFModel) -> None:
    """Has every layer keep its input only, and compute the rest again in the backward pass."""
    named: Any = model
    # before 5.20 it had the older name
    enable = getattr(named, "activation_checkpointing_enable", None) or named.gradient_checkpointing_enable
    enable({"use_reentrant": False})
