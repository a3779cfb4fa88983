"""Resampling: what replaces groups that the group filter dropped.

A part `resampling(rollouts, draw)` gets filtered rollouts and `draw()`, which generates, rewards and filters
as many problems again; it returns the groups to train on.
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
from openvlt.grpo.parts.traits import declare_traits
from openvlt.model.shared_prefix.vision_features import vision_inputs
from openvlt.types import Origin, ScoredRollouts

Draw = Callable[[], ScoredRollouts]
Resampling = Callable[[ScoredRollouts, Draw], ScoredRollouts]


def kept_groups(rollouts: ScoredRollouts) -> list[int]:
    """The groups that the group filter kept, in order."""
    return rollouts.group_N[rollouts.keep_N].unique().tolist()


@declare_traits("draws_again")
@dataclass(frozen=True)
class Resample:
    """Dynamic sampling: at most `tries` more draws until as many groups are kept as there were problems.

    DAPO, arXiv 2503.14476, section 3.2. Surplus groups are left out; when the bound is reached, the step is
    made with the groups there are (`refilled` in the metrics).
    """

    tries: int = 4

    def __post_init__(self) -> None:
        refuse_schedule("grpo.resampling.tries", self.tries)
        if self.tries < 1:
            raise UserError(f"grpo.resampling.tries={self.tries}; it is at least 1, or leave resampling out")

    def __call__(self, rollouts: ScoredRollouts, draw: Draw) -> ScoredRollouts:
        target, parts = len(rollouts.problems), [take_groups(rollouts, kept_groups(rollouts))]
        for _ in range(self.tries):
            if sum(len(part.problems) for part in parts) >= target:
                break
            more = draw()
            parts.append(take_groups(more, kept_groups(more)))
        # where nothing was kept, the step learns nothing
        kept = concat_rollouts([part for part in parts if part.problems] or [rollouts])
        return take_groups(kept, range(min(target, len(kept.problems))))


@declare_traits("replays_groups")
@dataclass
class ReplayBuffer:
    """Selective sample replay: dropped groups are replaced by kept ones of earlier rollout batches.

    They are drawn with probability in proportion to their mean |r - mean| (VL-Rethinker, Pixel Reasoner's
    `replay_buffer.py`). The last `capacity` kept groups are stored with the log-probabilities they were
    sampled with: their ratio is to the policy that generated them. Injected completions stay injected ones,
    scored by the present policy. Not stored are rows that are only compared with, and groups of a problem's
    own tasks. The buffer is part of the run's checkpoint (pictures included, vision features not).
    """

    capacity: int = 256
    seed: int = 0
    memory: deque[ScoredRollouts] = field(default_factory=deque, init=False, repr=False)
    rounds: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        refuse_schedule("grpo.resampling.capacity", self.capacity)
        if self.capacity < 1:
            raise UserError(
                f"grpo.resampling.capacity={self.capacity}; it is at least 1, or leave resampling out"
            )

    def __call__(self, rollouts: ScoredRollouts, draw: Draw) -> ScoredRollouts:
        if rollouts.behaviour_logp_NT is None:
            raise UserError(
                "grpo.resampling=ReplayBuffer needs the sampler's log-probabilities; use rollout=prefix or "
                "rollout=hf"
            )
        kept = kept_groups(rollouts)
        missing = len(rollouts.problems) - len(kept)
        rng = np.random.default_rng([self.seed, self.rounds])
        self.rounds += 1
        weights = np.array([_mean_deviation(group) + 1e-4 for group in self.memory])
        drawn = []
        if missing and len(weights):
            drawn = rng.choice(len(weights), size=missing, p=weights / weights.sum())
        old = [self.memory[number] for number in drawn]
        fresh = [take_groups(rollouts, [group]) for group in kept]
        self.memory.extend(
            _mark_replayed(group) for group in fresh if not (group.origin_N == Origin.AUXILIARY).any()
        )
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


def _mean_deviation(group: ScoredRollouts) -> float:
    """Mean |r - mean| of one group."""
    return float((group.reward_N - group.reward_N.nanmean()).abs().nanmean())


def _mark_replayed(group: ScoredRollouts) -> ScoredRollouts:
    """A group as it is stored: trained rows only, the policy's own marked as replayed, no vision features."""
    group = take_rows(group, trained_rows(group))
    origin_N = torch.where(group.origin_N == Origin.POLICY, int(Origin.REPLAYED), group.origin_N)
    return group.with_(origin_N=origin_N, prompts=replace(group.prompts, vision=vision_inputs(group.prompts)))
