"""Settings under which a run fits GPUs of some size, found by trying them on the estimate."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from openvlt.config.build import build
from openvlt.config.resolvers import CONF
from openvlt.errors import UserError
from openvlt.grpo.collect.plan import largest_draw, largest_group
from openvlt.memory.estimate import MemoryPlan, build_meta_vlm
from openvlt.model.strategy import Strategy
from openvlt.rollout.prefix import PrefixGenerator

GPU_SIZES = (24, 40, 80, 141)  # GB, as they are sold
SPARE = 0.05  # of a GPU: the driver's own memory and what lies between tensors
STRATEGIES = {"replicate": Strategy("none"), "gradients": Strategy("gradients"), "shard": Strategy("weights")}


def fits(needed: int, size: int) -> bool:
    """Whether so many bytes fit on a GPU that is sold with `size` GB."""
    return needed <= size * 2**30 * (1 - SPARE)


def choose_strategy(config: DictConfig, memory: int | None, count: int) -> tuple[str, str]:
    """What `strategy.shard=auto` means for a run on `count` devices of so many bytes, and why, in a sentence.

    `memory` is None where there is no GPU.
    """
    if memory is None:
        return "none", "strategy: whole weights on every process, as there is no GPU"
    plan = MemoryPlan.of(config)
    needed = plan.peak_bytes(STRATEGIES["replicate"], count)
    if needed <= memory * (1 - SPARE):
        there = f"{needed / 2**30:.1f} of {memory / 2**30:.1f} GiB"
        return "none", f"strategy: whole weights on every GPU, since they need {there}"
    cut = plan.peak_bytes(STRATEGIES["shard"], count)
    return "weights", (
        f"strategy: weights cut over {count} GPUs, since whole ones need {needed / 2**30:.1f} of "
        f"{memory / 2**30:.1f} GiB, shards {cut / 2**30:.1f}"
    )


Variant = tuple[list[str], MemoryPlan]  # settings, and the plan under them


def plan_variants(plan: MemoryPlan) -> list[Variant]:
    """The plan itself, and the same under LoRA where it trains the weights themselves and LoRA suits it."""
    variants: list[Variant] = [([], plan)]
    if plan.vlm.model is plan.vlm.core:
        adapter = build(OmegaConf.load(CONF / "adapter" / "lora.yaml"), "adapter")
        with contextlib.suppress(UserError):  # a model without these layers
            vlm = build_meta_vlm(plan.settings, adapter, plan.grpo.fit.precision)
            variants.append((["adapter=lora"], replace(plan, vlm=vlm)))
    return variants


def fitting_settings(variants: Sequence[Variant], size: int, count: int) -> list[str] | None:
    """The command-line settings with which a run fits `count` GPUs of `size` GB; None if no tried ones do.

    Tried in this order, each with `replicate` and with `shard`: a variant as it is; with smaller batches,
    which cost time only.
    """
    names = ["replicate", "shard"] if count > 1 else ["replicate"]
    for settings, plan in variants:
        for halve in (False, True):
            for name in names:
                batches = _fit_batches(plan, STRATEGIES[name], size, count, halve)
                if batches is not None:
                    return [*([f"strategy={name}"] if count > 1 else []), *settings, *batches]
    return None


def _fit_batches(
    plan: MemoryPlan, strategy: Strategy, size: int, count: int, halve: bool
) -> list[str] | None:
    """Settings that halve what is worst until all fits; none where all fits at once; None where it can't."""
    changed: dict[str, int] = {}
    while True:
        needed = {phase: sum(parts.values()) for phase, parts in plan.phases(strategy, count).items()}
        worst = max(needed, key=lambda phase: needed[phase])
        if fits(needed[worst], size):
            return [f"{key}={value}" for key, value in changed.items()]
        smaller = _halve(plan, worst) if halve else None
        if smaller is None:
            return None
        plan, key, value = smaller
        changed[key] = value


def _halve(plan: MemoryPlan, phase: str) -> tuple[MemoryPlan, str, int] | None:
    """The plan with half a phase's batch, the setting and its value; None where it can't be smaller."""
    sft, grpo = plan.sft, plan.grpo
    if phase == "SFT" and sft.micro_batch > 1:
        half = sft.micro_batch // 2
        return replace(plan, sft=replace(sft, micro_batch=half)), "sft.micro_batch", half
    group = largest_group(grpo.rollout_plan, grpo.group_size, grpo.steps)
    if phase == "GRPO" and grpo.micro_batch // group > 1:
        half = grpo.micro_batch // group // 2 * group
        return replace(plan, grpo=replace(grpo, micro_batch=half)), "grpo.micro_batch", half
    drawn = largest_draw(grpo.rollout_plan, grpo.group_size, grpo.steps)
    generator: Any = grpo.generator
    if phase == "rollout" and isinstance(generator, PrefixGenerator) and generator.max_rows // drawn > 1:
        half = max(drawn, generator.max_rows // 2)
        smaller = replace(grpo, generator=replace(generator, max_rows=half))
        return replace(plan, grpo=smaller), "rollout.max_rows", half
    return None
