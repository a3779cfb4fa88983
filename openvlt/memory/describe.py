"""The memory estimate as text: a table of one configuration, and what would fit on which GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from openvlt.config.build import build
from openvlt.memory.advice import GPU_SIZES, SPARE, STRATEGIES, fits, fitting_settings, plan_variants
from openvlt.memory.estimate import MemoryPlan, Phases
from openvlt.model.strategy import Strategy
from openvlt.rollout.vllm import VLLMGenerator
from openvlt.trainer.devices import process_count

PURPOSES = ("weights", "gathered", "reference", "gradients", "optimiser", "cache", "activations", "logits")
TITLES = {"cache": "keys and values"}
COUNTS = (1, 2, 4, 8)  # of devices, for which advice is given


def describe_memory(config: DictConfig, plan: MemoryPlan) -> str:
    """The memory estimate of a configuration and its plan as text."""
    count = process_count(config.trainer.devices)
    strategy: Strategy = build(config.strategy, "strategy")
    shown = Strategy("none") if strategy.shard == "auto" else strategy
    phases = plan.phases(shown, count)
    head = _head(config, plan, f"{count} device{'s' if count > 1 else ''}{_describe_shares(shown, count)}")
    if "rollout" not in phases:
        head.append(_describe_unknown_rollout(plan.grpo.generator, phases))
    text = [*head, "", *_table(phases), *_summary(phases), *_compare(plan, count)]
    if needs_gpu(plan):
        text += ["", *_advice(plan)]
    return "\n".join(text)


def needs_gpu(plan: MemoryPlan) -> bool:
    """Whether a run needs a GiB of memory or more, alone on one device."""
    return plan.peak_bytes(STRATEGIES["replicate"], 1) >= 2**30


def _describe_unknown_rollout(generator: Any, phases: Phases) -> str:
    """Why there is no column for rollouts; beside a vLLM server, what share of a GPU it may have."""
    if not isinstance(generator, VLLMGenerator) or not generator.start or generator.gpus is not None:
        return (
            f"what {type(generator).__name__} needs for its rollouts isn't known here: "
            "only rollout=prefix is planned"
        )
    peak = max(sum(phase.values()) for phase in phases.values())
    shares = {size: 1 - SPARE - peak / (size * 2**30) for size in GPU_SIZES}
    most = [f"{share:.2f} on {size} GB" for size, share in shares.items() if share > 0]
    return (
        f"a vLLM server beside each process fills rollout.server.memory={generator.server.memory:g} of its "
        f"GPU; this run leaves it at most {', '.join(most) or 'nothing on any GPU known here'}"
    )


def _head(config: DictConfig, plan: MemoryPlan, devices: str) -> list[str]:
    parameters = list(plan.vlm.model.parameters())
    total = sum(value.numel() for value in parameters)
    trained = sum(value.numel() for value in parameters if value.requires_grad)
    text, images = plan.expected.text, plan.expected.images
    return [
        f"{config.model.get('path') or 'the embedded tiny model'}: {total / 1e6:,.1f} M parameters, "
        f"{trained / 1e6:,.1f} M trained, {devices}",
        f"prompts of {text} tokens and {images} image(s) of {plan.side * plan.side}; completions of "
        f"{plan.grpo.max_new_tokens} (SFT: {plan.sft.max_tokens}) tokens, the longest there may be",
    ]


def _describe_shares(strategy: Strategy, count: int) -> str:
    """How devices hold the weights, after their number."""
    if count == 1:
        return ""
    words = {"none": "with the same weights", "gradients": "that share gradients and optimiser states"}
    return " " + words.get(strategy.shard, "that share the weights")


def _compare(plan: MemoryPlan, count: int) -> list[str]:
    """What each strategy needs at its worst time, where there are several devices."""
    if count == 1:
        return []
    needs = {name: plan.peak_bytes(strategy, count) / 2**30 for name, strategy in STRATEGIES.items()}
    return ["at most, by strategy: " + ", ".join(f"{name} {need:.1f} GiB" for name, need in needs.items())]


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
    answers = ", ".join(f"{size} GB {'yes' if fits(needed[worst], size) else 'no'}" for size in GPU_SIZES)
    return [
        f"most in: {worst}. Fits on a GPU of {answers} "
        f"({100 * SPARE:.0f} % are left for the driver and for gaps)"
    ]


def _advice(plan: MemoryPlan) -> list[str]:
    """The settings that make this run fit, found by trying: a line for each size and number of GPUs."""
    lines = ["what makes this run fit, tried in this order: as it is, strategy, smaller batches, LoRA"]
    variants = plan_variants(plan)
    for size in GPU_SIZES:
        for count in COUNTS:
            settings = fitting_settings(variants, size, count)
            answer = "nothing that was tried" if settings is None else " ".join(settings) or "as it is"
            lines.append(f"{count} x {size:>3} GB  {answer}")
    return lines
