"""Publishing what a stage trained: a model folder, whole or not at all, and never another model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from openvlt import distributed
from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.model.shard import plain_copy
from openvlt.model.shared_prefix.vision_features import forward_inputs
from openvlt.model.weights import load_weights
from openvlt.rollout.base import generating
from openvlt.types import Problem

# the largest root mean square difference of logits that merging may make, in their standard deviations:
# rounding of merged weights (measured at the tiny model: 5e-7 in float32, 9e-3 in bfloat16)
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
HALF_TOLERANCE = 5e-2


def save_model(vlm: VLM, folder: Path) -> None:
    """Saves a Hugging Face checkpoint in `folder/model`, whole or not at all, after merging the adapter.

    With an adapter, raises UserError and publishes nothing when the merged or the saved model isn't the
    trained one.
    """
    aside, final = folder / ".model.tmp", folder / "model"
    trained = probe_logits(vlm) if hasattr(vlm.model, "merge_and_unload") else None
    vlm.merge_adapter()  # on every rank: the next evaluation is of the model that is saved
    if trained is not None:
        check_merged(vlm, trained)
    plain = plain_copy(vlm)
    if distributed.is_main():
        shutil.rmtree(aside, ignore_errors=True)
        try:
            plain.save(aside)
            if trained is not None:
                check_saved(plain, aside)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(aside, final)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    distributed.barrier()  # the other ranks load it


def probe_logits(vlm: VLM) -> Tensor:
    """The logits of a short prompt with an image, which pass through every part of the model: (L,V)."""
    image = Image.linear_gradient("L").resize((112, 84)).convert("RGB")
    problem = Problem("probe", "How many red bars are there, and what is 2 + 3?", "", images=(image,))
    prompts = Renderer(vlm.processor, PromptStyle()).prompts([problem]).to(vlm.device)
    with generating(vlm.model):
        inputs = {"attention_mask": prompts.mask_PL, **forward_inputs(vlm, prompts)}
        return vlm.core(input_ids=prompts.ids_PL, **inputs).logits[0].float()


def check_merged(vlm: VLM, trained: Tensor) -> None:
    """Raises UserError when the merged model's logits aren't those of the model with its adapter."""
    difference = float((probe_logits(vlm) - trained).square().mean().sqrt() / trained.std())
    tolerance = TOLERANCE.get(vlm.core.dtype, HALF_TOLERANCE)
    if not difference <= tolerance:
        raise UserError(
            f"merging the adapter gives another model than the trained one: its logits differ by "
            f"{difference:.2g} standard deviations, {tolerance:g} may be rounding; it isn't saved; train "
            "other layers (adapter.target_modules), or layers whole (adapter.modules_to_save)"
        )


def check_saved(vlm: VLM, folder: Path) -> None:
    """Raises UserError when a saved model isn't the one in memory, bit for bit. Loads it a second time."""
    dtype = str(vlm.core.dtype).removeprefix("torch.")
    saved = load_weights(str(folder), dtype=dtype, attn_implementation=None).state_dict()
    for name, value in vlm.core.state_dict().items():
        if not torch.equal(saved[name], value.to("cpu", saved[name].dtype)):
            raise UserError(
                f"the saved model isn't the trained one ({name} differs), and isn't published; train other "
                "layers (adapter.target_modules), or layers whole (adapter.modules_to_save)"
            )
