"""The versions of transformers that the project works with, and calls whose names differ between them."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

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


def enable_checkpointing(model: HFModel, *, selective: bool = False) -> None:
    """Has every layer keep only its input, and compute the rest again in the backward pass.

    With `selective` the language model's layers also keep the results of matrix products and attention: the
    rest is cheap, and comes out to the same bits. A trained vision tower runs again as a whole in any case.
    """
    named: Any = model
    if selective:
        named = named.get_decoder()
    # before 5.20 it had the older name
    enable = getattr(named, "activation_checkpointing_enable", None) or named.gradient_checkpointing_enable
    contexts = partial(create_selective_checkpoint_contexts, _keep_products)
    enable({"use_reentrant": False, **({"context_fn": contexts} if selective else {})})


_PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "convolution"})
_ATTENTION = ("_scaled_dot_product_", "_flash_attn_")  # beginnings of names


def _keep_products(context: Any, operator: Any, *inputs: Any, **settings: Any) -> CheckpointPolicy:
    name = operator.name().rpartition("::")[2].partition(".")[0]
    kept = name in _PRODUCTS or name.startswith(_ATTENTION)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
