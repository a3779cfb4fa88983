"""The memory a run will need on each device, before anything is loaded: from the configuration and the model's config alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from openvlt import distributed
from openvlt.config.build import build
from openvlt.errors import UserError
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.plan import largest_draw, largest_group
from openvlt.memory import tracker
from openvlt.memory.rollout import rollout
from openvlt.model.load import VLM, PretrainedModel
from openvlt.model.shared_prefix.forward import SHARED
from openvlt.rollout.base import Sampling
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.sft.module import SFT

GPUS = (24, 40, 80, 141)  # GB, as they are sold
SPARE = 0.05  # of a GPU: the driver's own memory and what lies between tensors
ROWS = ("weights", "reference", "gradients", "optimiser", "cache", "activations", "logits")


@dataclass(frozen=True)
class ExpectedSizes:
    """What a plan reckons with: `text` tokens of a prompt beside its `images`. Images are as large, completions as long as allowed."""

    text: int = 150
    images: int = 1

    def __post_init__(self) -> None:
        if self.text < 1 or self.images < 0:
            raise UserError(
                f"expected.text={self.text} and expected.images={self.images}: give one token or more, and 0 images or more"
            )


def describe_memory(config: DictConfig) -> str:
    """The plan as text. Raises UserError where the configuration leaves a size open."""
    settings, sft, grpo = build(config.model, "model"), build(config.sft, "sft"), build(config.grpo, "grpo")
    expected, adapter = build(config.expected, "expected"), build(config.adapter, "adapter") or None
    count = distributed.process_count(config.trainer.devices)
    vlm = on_meta(settings, adapter, config.trainer.precision)
    side = image_side(settings, vlm) if expected.images else 0
    phases = {**_sft(vlm, sft, expected, side), **_grpo(settings, vlm, grpo, expected, side, count)}
    total, trained = (
        sum(numbers) for numbers in zip(*(_sizes(value) for value in vlm.model.parameters()), strict=True)
    )
    head = [
        f"{config.model.get('path') or 'the embedded tiny model'}: {total / 1e6:,.1f} M parameters, {trained / 1e6:,.1f} M trained, "
        f"{count} device{'s' if count > 1 else ''} with the same weights",
        f"prompts of {expected.text} tokens and {expected.images} image(s) of {side * side}; completions of {grpo.max_new_tokens} "
        f"(SFT: {sft.max_tokens}) tokens, the longest there may be",
    ]
    if "rollout" not in phases:
        head.append(
            f"what {type(grpo.generator).__name__} needs for its rollouts isn't known here: only rollout=prefix is planned"
        )
    return "\n".join([*head, "", *_table(phases), *_verdict(phases)])


def on_meta(settings: PretrainedModel, adapter: Any, precision: str) -> VLM:
    """The model that training would load, without its weights and without a processor."""
    model = settings.on_meta()
    if model.config.model_type not in SHARED:
        raise UserError(
            f"plan=true knows {', '.join(SHARED)}, not {model.config.model_type!r}; try a few steps with +experiment=smoke"
        )
    if settings.dtype != "auto":
        model = model.to(getattr(torch, settings.dtype))
    model = settings.ready(model, copy.deepcopy(adapter))
    if precision in ("bf16-true", "16-true"):
        model = model.to(torch.bfloat16 if precision == "bf16-true" else torch.float16)
    return VLM(model.train(), None, "plan")


def image_side(settings: PretrainedModel, vlm: VLM) -> int:
    """Tokens along one side of the largest image, taken as square."""
    vision = vlm.core.config.vision_config
    if (most := settings.most_pixels) is None:
        raise UserError(
            "a plan needs the size of an image; set model.max_pixels=<pixels>, for example 262144"
        )
    return max(1, isqrt(most) // (vision.patch_size * vision.spatial_merge_size))


def _sizes(value: nn.Parameter) -> tuple[int, int]:
    return value.numel(), value.numel() if value.requires_grad else 0


def _bytes(values: Any) -> int:
    return sum(value.numel() * value.element_size() for value in values)


def _trained(vlm: VLM) -> dict[str, nn.Parameter]:
    return {name: value for name, value in vlm.model.named_parameters() if value.requires_grad}


def optimiser(vlm: VLM, make: Callable[..., Any]) -> tuple[int, int]:
    """Bytes that the optimiser keeps, and those that its step puts in the place of gradients. Asked of itself, on stand-ins two wide."""
    kept = extra = 0
    for name, value in _trained(vlm).items():
        stand = nn.Parameter(torch.ones((2,) * value.ndim, dtype=value.dtype))
        stand.grad = torch.ones_like(stand)
        (made,) = make([(name, stand)])
        made.step()
        state = [
            part
            for each in made.state.values()
            for part in each.values()
            if torch.is_tensor(part) and part.shape == stand.shape
        ]
        masters = getattr(made, "masters", [])
        times = value.numel() // stand.numel()
        used_up = [] if stand.grad is not None else [stand]
        kept, extra = (
            kept + times * _bytes([*state, *masters]),
            extra + times * (_bytes(masters) - _bytes(used_up)),
        )
    return kept, extra


def _phases(
    vlm: VLM, make: Callable[..., Any], load: tracker.Load, reference: int
) -> tuple[dict[str, int], ...]:
    """What lies there all the time, during a micro-batch, and during the optimiser's step."""
    kept, extra = optimiser(vlm, make)
    always = {
        "weights": _bytes([*vlm.model.parameters(), *vlm.model.buffers()]),
        "reference": reference,
        "optimiser": kept,
    }
    gradients = _bytes(_trained(vlm).values())
    saved, most = tracker.update(vlm, load)
    logits = tracker.head(vlm, load)
    update = {"activations": saved, "logits": logits} if saved + logits >= most else {"activations": most}
    return always, {**always, "gradients": gradients, **update}, {**always, "gradients": gradients + extra}


def _sft(vlm: VLM, sft: SFT, expected: ExpectedSizes, side: int) -> dict[str, dict[str, int]]:
    load = tracker.Load(
        min(sft.micro_batch, sft.batch_size), 1, sft.max_tokens, expected.text, expected.images, side
    )
    _, update, step = _phases(vlm, sft.optimizer, load, 0)
    return {"SFT": update, "SFT step": step}


def _grpo(
    settings: PretrainedModel, vlm: VLM, grpo: GRPO, expected: ExpectedSizes, side: int, count: int
) -> dict[str, dict[str, int]]:
    group, drawn = (
        largest(grpo.rollout_plan, grpo.group_size, grpo.steps) for largest in (largest_group, largest_draw)
    )
    prompts = max(1, min(grpo.micro_batch // group, -(-grpo.prompts_per_update // count)))
    load = tracker.Load(prompts, group, grpo.max_new_tokens, expected.text, expected.images, side)
    second = grpo.needs_reference and vlm.model is vlm.core
    reference = _bytes(on_meta(settings, None, "32-true").model.parameters()) if second else 0
    always, update, step = _phases(vlm, grpo.optimizer, load, reference)
    whole = tracker.Load(
        -(-grpo.prompts_per_rollout // count),
        drawn,
        grpo.max_new_tokens,
        expected.text,
        expected.images,
        side,
    )
    sampling = Sampling(drawn, grpo.max_new_tokens, grpo.temperature, grpo.top_p)
    known = isinstance(grpo.generator, PrefixGenerator)
    decoding = {"rollout": {**always, **rollout(vlm, whole, sampling, grpo.generator)}} if known else {}
    return {**decoding, "GRPO": update, "GRPO step": step}


def _table(phases: Mapping[str, Mapping[str, int]]) -> list[str]:
    """One row per purpose, one column per phase."""
    unit, name = (
        (2**30, "GiB") if max(sum(phase.values()) for phase in phases.values()) >= 2**30 else (2**20, "MiB")
    )

    def line(title: str, values: list[int]) -> str:
        return f"{title:<22}" + "".join(
            f"{value / unit:>11.1f}" if value else f"{'-':>11}" for value in values
        )

    head = f"{name + ' per device':<22}" + "".join(f"{phase:>11}" for phase in phases)
    rows = [line(ROW_TITLES.get(row, row), [phase.get(row, 0) for phase in phases.values()]) for row in ROWS]
    return [head, *rows, line("together", [sum(phase.values()) for phase in phases.values()])]


ROW_TITLES = {"cache": "keys and values"}


def _verdict(phases: Mapping[str, Mapping[str, int]]) -> list[str]:
    needed = {phase: sum(parts.values()) for phase, parts in phases.items()}
    worst = max(needed, key=needed.get)
    said = ", ".join(
        f"{size} GB {'yes' if needed[worst] <= size * 2**30 * (1 - SPARE) else 'no'}" for size in GPUS
    )
    return [
        f"most in: {worst}. Fits on a GPU of {said} ({100 * SPARE:.0f} % are left for the driver and for gaps)"
    ]
