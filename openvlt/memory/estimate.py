"""The memory that a run needs on each device, estimated from its configuration before anything is loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from transformers import ProcessorMixin

from openvlt import distributed
from openvlt.config.build import build
from openvlt.errors import UserError
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.plan import largest_draw, largest_group
from openvlt.memory.rollout import rollout_bytes
from openvlt.memory.shares import Shares, byte_count
from openvlt.memory.tracker import PassSizes, head_bytes, micro_batch_bytes
from openvlt.model.load import VLM, PretrainedModel
from openvlt.model.shared_prefix.forward import SHARED_PREFIX_FAMILIES
from openvlt.model.strategy import Strategy
from openvlt.rollout.base import Sampling
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.sft.module import SFT

GPU_SIZES = (24, 40, 80, 141)  # GB, as they are sold
SPARE = 0.05  # of a GPU: the driver's own memory and what lies between tensors
PURPOSES = ("weights", "gathered", "reference", "gradients", "optimiser", "cache", "activations", "logits")
TITLES = {"cache": "keys and values"}


@dataclass(frozen=True)
class ExpectedSizes:
    """The prompt that an estimate assumes: `text` tokens beside its `images`.

    Images are taken as large, and completions as long, as the configuration allows.
    """

    text: int = 150
    images: int = 1

    def __post_init__(self) -> None:
        if self.text < 1 or self.images < 0:
            raise UserError(
                f"expected.text={self.text} and expected.images={self.images}: "
                "give one token or more, and 0 images or more"
            )


Phases = dict[str, dict[str, int]]  # bytes by time and purpose


def choose_strategy(config: DictConfig, memory: int | None, count: int) -> tuple[str, str]:
    """What `strategy.shard=auto` means for a run on `count` devices of so many bytes, and why, in a sentence.

    `memory` is None where there is no GPU.
    """
    if memory is None:
        return "none", "strategy: whole weights on every process, as there is no GPU"
    needed = _peak_bytes(config, Strategy("none"), count)
    if needed <= memory * (1 - SPARE):
        there = f"{needed / 2**30:.1f} of {memory / 2**30:.1f} GiB"
        return "none", f"strategy: whole weights on every GPU, since they need {there}"
    cut = _peak_bytes(config, Strategy("weights"), count)
    return "weights", (
        f"strategy: weights cut over {count} GPUs, since whole ones need {needed / 2**30:.1f} of "
        f"{memory / 2**30:.1f} GiB, shards {cut / 2**30:.1f}"
    )


def _peak_bytes(config: DictConfig, strategy: Strategy, count: int) -> int:
    """Bytes at the worst time of a run."""
    return max(sum(phase.values()) for phase in _phases(config, strategy, count)[0].values())


def _phases(config: DictConfig, strategy: Strategy, count: int) -> tuple[Phases, VLM, int]:
    """Bytes by time and purpose under a strategy, the model without weights, and an image's side."""
    settings, sft, grpo = build(config.model, "model"), build(config.sft, "sft"), build(config.grpo, "grpo")
    expected, adapter = build(config.expected, "expected"), build(config.adapter, "adapter") or None
    vlm, shares = build_meta_vlm(settings, adapter, config.trainer.precision), Shares.of(strategy, count)
    side = image_side(settings, vlm) if expected.images else 0
    phases = {**_sft_phases(vlm, sft, expected, side, shares)}
    return phases | _grpo_phases(settings, vlm, grpo, expected, side, count, shares), vlm, side


def describe_memory(config: DictConfig) -> str:
    """The memory estimate as text. Raises UserError where the configuration leaves a size open."""
    sft, grpo, expected = (
        build(config.sft, "sft"),
        build(config.grpo, "grpo"),
        build(config.expected, "expected"),
    )
    count = distributed.process_count(config.trainer.devices)
    strategy: Strategy = build(config.strategy, "strategy")
    shown = Strategy("none") if strategy.shard == "auto" else strategy
    phases, vlm, side = _phases(config, shown, count)
    parameters = list(vlm.model.parameters())
    total = sum(value.numel() for value in parameters)
    trained = sum(value.numel() for value in parameters if value.requires_grad)
    devices = f"{count} device{'s' if count > 1 else ''}{_describe_shares(shown, count)}"
    head = [
        f"{config.model.get('path') or 'the embedded tiny model'}: {total / 1e6:,.1f} M parameters, "
        f"{trained / 1e6:,.1f} M trained, {devices}",
        f"prompts of {expected.text} tokens and {expected.images} image(s) of {side * side}; completions of "
        f"{grpo.max_new_tokens} (SFT: {sft.max_tokens}) tokens, the longest there may be",
    ]
    if "rollout" not in phases:
        head.append(
            f"what {type(grpo.generator).__name__} needs for its rollouts isn't known here: "
            "only rollout=prefix is planned"
        )
    return "\n".join([*head, "", *_table(phases), *_summary(phases), *_compare(config, count)])


def _describe_shares(strategy: Strategy, count: int) -> str:
    """How devices hold the weights, after their number."""
    if count == 1:
        return ""
    words = {"none": "with the same weights", "gradients": "that share gradients and optimiser states"}
    return " " + words.get(strategy.shard, "that share the weights")


def _compare(config: DictConfig, count: int) -> list[str]:
    """What each strategy needs at its worst time, where there are several devices."""
    if count == 1:
        return []
    names = {"replicate": "none", "gradients": "gradients", "shard": "weights"}
    needs = {name: _peak_bytes(config, Strategy(shard), count) / 2**30 for name, shard in names.items()}
    return ["at most, by strategy: " + ", ".join(f"{name} {need:.1f} GiB" for name, need in needs.items())]


def build_meta_vlm(settings: PretrainedModel, adapter: Any, precision: str) -> VLM:
    """The model that training would load, without weights and with an empty processor."""
    model = settings.build_on_meta()
    if model.config.model_type not in SHARED_PREFIX_FAMILIES:
        raise UserError(
            f"plan=true knows {', '.join(SHARED_PREFIX_FAMILIES)}, not {model.config.model_type!r}; "
            "try a few steps with +experiment=smoke"
        )
    if settings.dtype != "auto":
        model = model.to(getattr(torch, settings.dtype))
    model = settings.prepare(model, copy.deepcopy(adapter))
    if precision in ("bf16-true", "16-true"):
        model = model.to(torch.bfloat16 if precision == "bf16-true" else torch.float16)
    return VLM(model.train(), ProcessorMixin(), "plan")


def image_side(settings: PretrainedModel, vlm: VLM) -> int:
    """Tokens along one side of the largest image, taken as square."""
    vision = vlm.core.config.vision_config
    if (area := settings.max_image_pixels) is None:
        raise UserError(
            "a plan needs the size of an image; set model.max_pixels=<pixels>, for example 262144"
        )
    return max(1, isqrt(area) // (vision.patch_size * vision.spatial_merge_size))


def _trained_parameters(vlm: VLM) -> dict[str, nn.Parameter]:
    return {name: value for name, value in vlm.model.named_parameters() if value.requires_grad}


def optimizer_bytes(vlm: VLM, make_optimizer: Callable[..., Any]) -> tuple[int, int]:
    """Bytes that the optimiser keeps, and bytes that its step adds (or, if negative, frees).

    Measured, not assumed: for each parameter one step is taken on a stand-in that is two wide in every
    dimension.
    """
    kept = added = 0
    for name, value in _trained_parameters(vlm).items():
        stand_in = nn.Parameter(torch.ones((2,) * value.ndim, dtype=value.dtype))
        stand_in.grad = torch.ones_like(stand_in)
        (optimizer,) = make_optimizer([(name, stand_in)])
        optimizer.step()
        state = [
            part
            for parts in optimizer.state.values()
            for part in parts.values()
            if torch.is_tensor(part) and part.shape == stand_in.shape
        ]
        masters = getattr(optimizer, "masters", [])
        freed = [] if stand_in.grad is not None else [stand_in]
        times = value.numel() // stand_in.numel()
        kept += times * byte_count([*state, *masters])
        added += times * (byte_count(masters) - byte_count(freed))
    return kept, added


def _training_phases(
    vlm: VLM, make_optimizer: Callable[..., Any], sizes: PassSizes, reference: int, shares: Shares
) -> tuple[dict[str, int], ...]:
    """Bytes by purpose at three times: always, during a micro-batch, during the optimiser's step."""
    kept, added = (-(-part // shares.processes) for part in optimizer_bytes(vlm, make_optimizer))
    always = {"weights": shares.bytes_at_rest(vlm), "reference": reference, "optimiser": kept}
    gradients = -(-byte_count(_trained_parameters(vlm).values()) // shares.processes)
    activations, peak = micro_batch_bytes(vlm, sizes)
    logits = head_bytes(vlm, sizes)
    if activations + logits >= peak:
        update = {"activations": activations, "logits": logits}
    else:
        update = {"activations": peak}
    update["gathered"] = shares.bytes_in_step(vlm)
    return always, {**always, "gradients": gradients, **update}, {**always, "gradients": gradients + added}


def _sft_phases(vlm: VLM, sft: SFT, expected: ExpectedSizes, side: int, shares: Shares) -> Phases:
    prompts = min(sft.micro_batch, sft.batch_size)
    sizes = PassSizes(prompts, 1, sft.max_tokens, expected.text, expected.images, side)
    _, update, step = _training_phases(vlm, sft.optimizer, sizes, 0, shares)
    return {"SFT": update, "SFT step": step}


def _grpo_phases(
    settings: PretrainedModel,
    vlm: VLM,
    grpo: GRPO,
    expected: ExpectedSizes,
    side: int,
    count: int,
    shares: Shares,
) -> Phases:
    group, drawn = (
        largest(grpo.rollout_plan, grpo.group_size, grpo.steps) for largest in (largest_group, largest_draw)
    )
    prompts = max(1, min(grpo.micro_batch // group, -(-grpo.prompts_per_update // count)))
    sizes = PassSizes(prompts, group, grpo.max_new_tokens, expected.text, expected.images, side)
    reference = 0
    if (
        grpo.needs_reference and vlm.model is vlm.core
    ):  # under an adapter, the reference is the model without it
        other = build_meta_vlm(settings, None, grpo.fit.precision)
        reference = shares.bytes_at_rest(other) - byte_count(other.model.buffers())
    always, update, step = _training_phases(vlm, grpo.optimizer, sizes, reference, shares)
    training = {"GRPO": update, "GRPO step": step}
    if not isinstance(grpo.generator, PrefixGenerator):
        return training
    sizes = replace(sizes, prompts=-(-grpo.prompts_per_rollout // count), group=drawn)
    sampling = Sampling(drawn, grpo.max_new_tokens, grpo.temperature, grpo.top_p)
    always["gathered"] = shares.bytes_in_rollout(vlm)
    rollout = {**always, **rollout_bytes(vlm, sizes, sampling, grpo.generator)}
    return {"rollout": rollout, **training}


def _table(phases: Mapping[str, Mapping[str, int]]) -> list[str]:
    """One row per purpose, one column per phase."""
    most = max(sum(phase.values()) for phase in phases.values())
    unit, name = (2**30, "GiB") if most >= 2**30 else (2**20, "MiB")

    def line(title: str, values: list[int]) -> str:
        return f"{title:<22}" + "".join(
            f"{value / unit:>11.1f}" if value else f"{'-':>11}" for value in values
        )

    head = f"{name + ' per device':<22}" + "".join(f"{phase:>11}" for phase in phases)
    rows = [line(TITLES.get(row, row), [phase.get(row, 0) for phase in phases.values()]) for row in PURPOSES]
    return [head, *rows, line("together", [sum(phase.values()) for phase in phases.values()])]


def _summary(phases: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The phase that needs most, and the GPUs it fits on."""
    needed = {phase: sum(parts.values()) for phase, parts in phases.items()}
    worst = max(needed, key=lambda phase: needed[phase])
    fits = ", ".join(
        f"{size} GB {'yes' if needed[worst] <= size * 2**30 * (1 - SPARE) else 'no'}" for size in GPU_SIZES
    )
    return [
        f"most in: {worst}. Fits on a GPU of {fits} "
        f"({100 * SPARE:.0f} % are left for the driver and for gaps)"
    ]
