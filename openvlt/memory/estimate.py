"""The memory that a run needs on each device, estimated from its configuration before anything is loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import isqrt
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from transformers import ProcessorMixin

from openvlt.config.build import build
from openvlt.errors import UserError
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.plan import largest_draw, largest_group
from openvlt.memory.rollout import rollout_bytes
from openvlt.memory.shares import Shares, byte_count
from openvlt.memory.tracker import PassSizes, head_bytes, micro_batch_bytes
from openvlt.model.families import FAMILIES, find_family, shares_prefix
from openvlt.model.load import VLM, PretrainedModel
from openvlt.model.strategy import Strategy
from openvlt.rollout.base import Sampling
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.sft.module import SFT


@dataclass(frozen=True)
class ExpectedSizes:
    """The prompt that an estimate assumes: `text` tokens beside its `images`.

    Images are taken as large, and for memory completions as long, as the configuration allows. For time, a
    completion has `length` of its limit on average, and `kept` of the problems leave a trace. `gpu` is the
    kind of GPU whose hours are shown by stage, `price` what an hour of one costs, in any currency.
    """

    text: int = 150
    images: int = 1
    length: float = 0.25
    kept: float = 0.5
    gpu: str = "H100"
    price: float | None = None

    def __post_init__(self) -> None:
        for name in ("length", "kept"):
            if not 0 < (value := getattr(self, name)) <= 1:
                raise UserError(f"expected.{name}={value} is a share; give more than 0 and at most 1")
        if self.price is not None and self.price < 0:
            raise UserError(f"expected.price={self.price}; give what an hour of a GPU costs, or null")
        if self.text < 1 or self.images < 0:
            raise UserError(
                f"expected.text={self.text} and expected.images={self.images}: "
                "give one token or more, and 0 images or more"
            )


Phases = dict[str, dict[str, int]]  # bytes by time and purpose


@dataclass(frozen=True, eq=False)
class MemoryPlan:
    """What a configuration would run, built once and without weights; `side` is the largest image's.

    What was measured is kept, so that `replace` makes a plan with other sizes that is known at once.
    """

    settings: PretrainedModel
    vlm: VLM
    sft: SFT
    grpo: GRPO
    expected: ExpectedSizes
    side: int
    _optimizer_bytes: Callable[..., tuple[int, int]] = field(default_factory=lambda: cache(optimizer_bytes))
    _pass_bytes: Callable[..., tuple[int, int]] = field(default_factory=lambda: cache(micro_batch_bytes))
    _rollout_bytes: Callable[..., dict[str, int]] = field(default_factory=lambda: cache(rollout_bytes))

    @classmethod
    def of(cls, config: DictConfig) -> MemoryPlan:
        """The plan of a run. Raises UserError where the configuration leaves a size open."""
        settings, adapter = build(config.model, "model"), build(config.adapter, "adapter") or None
        sft, grpo, expected = (build(config[name], name) for name in ("sft", "grpo", "expected"))
        vlm = build_meta_vlm(settings, adapter, config.trainer.precision)
        return cls(settings, vlm, sft, grpo, expected, image_side(settings, vlm) if expected.images else 0)

    def peak_bytes(self, strategy: Strategy, count: int) -> int:
        """Bytes at the worst time of a run, on each of `count` devices."""
        return max(sum(phase.values()) for phase in self.phases(strategy, count).values())

    def phases(self, strategy: Strategy, count: int) -> Phases:
        """Bytes by time and purpose, on each of `count` devices under a strategy that isn't `auto`."""
        shares = Shares.of(strategy, count)
        return {**self._sft_phases(shares), **self._grpo_phases(shares, count)}

    def _sft_phases(self, shares: Shares) -> Phases:
        prompts = min(self.sft.micro_batch, self.sft.batch_size)
        sizes = self._sizes(prompts, 1, self.sft.max_tokens)
        _, update, step = self._training_phases(self.sft.optimizer, sizes, 0, shares)
        return {"SFT": update, "SFT step": step}

    def _grpo_phases(self, shares: Shares, count: int) -> Phases:
        grpo = self.grpo
        group, drawn = (
            largest(grpo.rollout_plan, grpo.group_size, grpo.steps)
            for largest in (largest_group, largest_draw)
        )
        prompts = max(1, min(grpo.micro_batch // group, -(-grpo.prompts_per_update // count)))
        sizes = self._sizes(prompts, group, grpo.max_new_tokens)
        always, update, step = self._training_phases(
            grpo.optimizer, sizes, self._reference_bytes(shares), shares
        )
        training = {"GRPO": update, "GRPO step": step}
        if not isinstance(grpo.generator, PrefixGenerator):
            return training
        # as many as a batch holds: the same for every count that has more, and measured once
        prompts = min(-(-grpo.prompts_per_rollout // count), grpo.generator.problems_at_once(drawn))
        sizes = self._sizes(prompts, drawn, grpo.max_new_tokens)
        sampling = Sampling(drawn, grpo.max_new_tokens, grpo.temperature, grpo.top_p)
        always["gathered"] = shares.bytes_in_rollout(self.vlm)
        return {
            "rollout": {**always, **self._rollout_bytes(self.vlm, sizes, sampling, grpo.generator)},
            **training,
        }

    def _sizes(self, prompts: int, group: int, tokens: int) -> PassSizes:
        return PassSizes(prompts, group, tokens, self.expected.text, self.expected.images, self.side)

    def _reference_bytes(self, shares: Shares) -> int:
        if (other := self._reference) is None:
            return 0
        return shares.bytes_at_rest(other) - byte_count(other.model.buffers())

    @cached_property
    def _reference(self) -> VLM | None:
        """The second model that a run needs. Under an adapter the model without it is the reference."""
        needed = self.grpo.needs_reference and self.vlm.model is self.vlm.core
        return build_meta_vlm(self.settings, None, self.grpo.fit.precision) if needed else None

    def _training_phases(
        self, make_optimizer: Callable[..., Any], sizes: PassSizes, reference: int, shares: Shares
    ) -> tuple[dict[str, int], ...]:
        """Bytes by purpose at three times: always, during a micro-batch, during the optimiser's step."""
        kept, added = (
            -(-part // shares.processes) for part in self._optimizer_bytes(self.vlm, make_optimizer)
        )
        always = {"weights": shares.bytes_at_rest(self.vlm), "reference": reference, "optimiser": kept}
        gradients = -(-byte_count(_trained_parameters(self.vlm).values()) // shares.processes)
        activations, peak = self._pass_bytes(self.vlm, sizes)
        logits = head_bytes(self.vlm, sizes)
        if activations + logits >= peak:
            update = {"activations": activations, "logits": logits}
        else:
            update = {"activations": peak}
        update["gathered"] = shares.bytes_in_step(self.vlm)
        return (
            always,
            {**always, "gradients": gradients, **update},
            {**always, "gradients": gradients + added},
        )


def build_meta_vlm(settings: PretrainedModel, adapter: Any, precision: str) -> VLM:
    """The model that training would load, without weights and with an empty processor."""
    model = settings.build_on_meta()
    if not (shares_prefix(model) and find_family(model.config).has_grid):
        known = [name for name, family in FAMILIES.items() if family.shares_prefix and family.has_grid]
        raise UserError(
            f"plan=true knows {', '.join(known)}, not {model.config.model_type!r}; "
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
