"""In the place of servers: `rollout=prefix` on a copy of the weights, which `sync` brings up to date."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.parts.group_filter import keep_all_groups
from openvlt.grpo.parts.loss_aggregation import token_mean
from openvlt.grpo.parts.rollout_correction import RolloutCorrection
from openvlt.model.export import weights_digest
from openvlt.model.load import VLM
from openvlt.model.shard import to_whole
from openvlt.reward.reward import Reward
from openvlt.rollout.base import GenerationRequest, Sampling
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.trainer.loop import TrainingLoop
from openvlt.trainer.optimizer import adamw
from openvlt.types import Completion, GRPOBatch, Problem, Prompts, Rollouts
from tests.helpers.factories import algorithm

SIZES = dict(steps=6, group_size=2, prompts_per_rollout=4, prompts_per_update=2, max_new_tokens=3)


def digest(vlm: VLM) -> str:
    """A hash of a model's weights, whole ones."""
    return weights_digest([(name, to_whole(value.detach())) for name, value in vlm.model.named_parameters()])


@dataclass
class Aside:
    """Notes in `log` what it is asked: (begin, hash of its weights, ids of the problems), (wait, hash), (cancel, hash)."""

    vlm: VLM
    ahead: int = 1
    log: list[tuple[Any, ...]] = field(default_factory=list)
    pending: bool = False

    def check(self, config: object) -> None:
        pass

    def rest(self) -> None:
        assert not self.pending, "servers rest while they generate"
        self.log.append(("rest",))

    def sync(self, vlm: VLM) -> None:
        assert not self.pending or digest(vlm) == digest(self.vlm), "other weights come while it generates"
        with torch.no_grad():
            theirs = dict(vlm.model.named_parameters())
            for name, value in self.vlm.model.named_parameters():
                value.copy_(to_whole(theirs[name].detach()))

    def generate(
        self, vlm: VLM, problems: Sequence[Problem], prompts: Prompts, sampling: Sampling, seed: int
    ) -> list[Completion]:
        return PrefixGenerator().generate(self.vlm, problems, prompts, sampling, seed)

    def begin(self, vlm: VLM, requests: Sequence[GenerationRequest]) -> Begun:
        ids = [problem.id for problem in requests[0].problems]
        self.log.append(("begin", digest(self.vlm), ids))
        self.pending = True
        return Begun(self, list(requests))


@dataclass
class Begun:
    """Generates when it is waited for, with the weights that the generator still has: nothing may have changed them."""

    owner: Aside
    requests: list[GenerationRequest]
    seconds: float = 0.25

    def wait(self) -> list[list[Completion]]:
        self.owner.log.append(("wait", digest(self.owner.vlm)))
        self.owner.pending = False
        return [self.owner.generate(self.owner.vlm, *one) if one.problems else [] for one in self.requests]

    def cancel(self) -> None:
        self.owner.log.append(("cancel", digest(self.owner.vlm)))
        self.owner.pending = False


def aside(vlm: VLM, ahead: int = 1) -> Aside:
    """One with a copy of this model."""
    return Aside(VLM(copy.deepcopy(vlm.model), vlm.processor, vlm.path), ahead)


# --- a run that is watched -----------------------------------------------------------------------------------------------


def parity(rollouts: Rollouts, services: Any) -> torch.Tensor:
    """A reward that any model earns now and then: 1 where the token ids add up to an even number."""
    return torch.tensor([float(sum(completion.token_ids) % 2 == 0) for completion in rollouts.completions])


class Killed(Exception):
    pass


@dataclass(frozen=True)
class Watched(TrainingLoop):
    """Notes in `log` when a step is due and with which weights, and keeps the batches; ends the run at step `dies`."""

    accelerator: str = "cpu"
    progress: bool = False
    checkpoint_every: int = 2
    log: list[tuple[Any, ...]] = field(default_factory=list)
    batches: list[GRPOBatch] = field(default_factory=list)
    dies: int = 10**9
    how: type[BaseException] = Killed

    def run(self, module: Any, make: Callable[[int], Any], folder: Path, **options: Any) -> None:
        def watched(step: int) -> Any:
            self.log.append(("due", step, digest(module.vlm)))
            if step == self.dies:
                raise self.how(step)
            self.batches.append(make(step))
            return self.batches[-1]

        super().run(module, watched, folder, **options)


def settings(generator: Any, fit: TrainingLoop | None = None, **changes: Any) -> GRPO:
    parts = dict(
        generator=generator,
        fit=fit or Watched(),
        loss_aggregation=token_mean,
        group_filter=keep_all_groups,
        reward=Reward({"parity": parity}, {"parity": 1.0}),
        rollout_correction=RolloutCorrection(cap=1.5),
        optimizer=partial(adamw, learning_rate=3e-3),
    )
    return algorithm(**{**parts, **SIZES, **changes})
