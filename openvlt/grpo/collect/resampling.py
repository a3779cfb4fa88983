"""What happens to a rollout after groups were dropped: nothing, more groups are sampled, or earlier ones come back.

`refill(rollouts, make)` gets judged and gated rollouts and `make()`, which samples as many problems again; it gives the groups to train on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from openvlt.errors import UserError
from openvlt.grpo.collect.columns import trained_rows
from openvlt.grpo.collect.ops import concat_rollouts, take_groups, take_rows
from openvlt.grpo.parts.schedules import refuse_schedule
from openvlt.model.shared_prefix.vision_features import vision_inputs
from openvlt.types import Origin, Rollouts

Make = Callable[[], Rollouts]


def kept_groups(rollouts: Rollouts) -> list[int]:
    """Groups that the gate kept, in order."""
    return rollouts.group_N[rollouts.keep_N].unique().tolist()


@dataclass(frozen=True)
class Resample:
    """Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): at most `tries` more draws until there are as many kept groups as wanted.

    Surplus groups are left out; when the bound is reached, the step is made with the groups there are (`refilled` in the metrics).
    """

    tries: int = 4

    def __post_init__(self) -> None:
        refuse_schedule("grpo.resampling.tries", self.tries)
        if self.tries < 1:
            raise UserError(f"grpo.resampling.tries={self.tries}; it is at least 1, or leave refill out")

    def __call__(self, rollouts: Rollouts, make: Make) -> Rollouts:
        target, parts = len(rollouts.problems), [take_groups(rollouts, kept_groups(rollouts))]
        for _ in range(self.tries):
            if sum(len(part.problems) for part in parts) >= target:
                break
            more = make()
            parts.append(take_groups(more, kept_groups(more)))
        kept = concat_rollouts(
            [part for part in parts if part.problems] or [rollouts]
        )  # nothing was kept: a step that learns nothing
        return take_groups(kept, range(min(target, len(kept.problems))))


@dataclass
class ReplayBuffer:
    """Selective sample replay (VL-Rethinker, Pixel Reasoner's `replay_buffer.py`): dropped groups are replaced by kept ones of earlier
    rollouts, drawn with probability in proportion to their mean |r - mean|.

    The last `capacity` kept groups are remembered with the log-probabilities they were sampled with: their ratio is to the policy that
    said them. Given texts come back as given texts, scored by the present policy. Not remembered are rows that are only compared with and
    groups of a problem's own tasks. The memory is part of the run's checkpoint (pictures included, vision features not).
    """

    capacity: int = 256
    seed: int = 0
    memory: deque[Rollouts] = field(default_factory=deque, init=False, repr=False)
    rounds: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        refuse_schedule("grpo.resampling.capacity", self.capacity)
        if self.capacity < 1:
            raise UserError(
                f"grpo.resampling.capacity={self.capacity}; it is at least 1, or leave refill out"
            )

    def __call__(self, rollouts: Rollouts, make: Make) -> Rollouts:
        if rollouts.behaviour_logp_NT is None:
            raise UserError(
                "grpo.resampling=ReplayBuffer needs the sampler's log-probabilities; use rollout=prefix or rollout=hf"
            )
        kept = kept_groups(rollouts)
        missing = len(rollouts.problems) - len(kept)
        rng = np.random.default_rng([self.seed, self.rounds])
        self.rounds += 1
        worth = np.array(
            [
                float((group.reward_N - group.reward_N.nanmean()).abs().nanmean()) + 1e-4
                for group in self.memory
            ]
        )
        drawn = rng.choice(len(worth), size=missing, p=worth / worth.sum()) if missing and len(worth) else []
        old = [self.memory[number] for number in drawn]
        fresh = [take_groups(rollouts, [group]) for group in kept]
        self.memory.extend(_filed(group) for group in fresh if not (group.origin_N == Origin.AUXILIARY).any())
        while len(self.memory) > self.capacity:
            self.memory.popleft()
        if not fresh and not old:
            return rollouts
        return concat_rollouts([*fresh, *old]).with_(policy_version=rollouts.policy_version)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"memory": list(self.memory), "rounds": self.rounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint."""
        self.memory, self.rounds = deque(state["memory"]), state["rounds"]


def _filed(group: Rollouts) -> Rollouts:
    """A group as it is remembered: the policy's own rows are marked, given texts stay what they are."""
    group = take_rows(group, trained_rows(group))
    origin_N = torch.where(group.origin_N == Origin.POLICY, int(Origin.REPLAYED), group.origin_N)
    return group.with_(origin_N=origin_N, prompts=replace(group.prompts, vision=vision_inputs(group.prompts)))
