"""Experience: from problems to batches for the optimiser, the only file that links the parts of GRPO.

sample problems -> image views and injected texts -> generate -> reward terms -> combine -> group filter,
resampling -> scoring passes -> advantage -> advantage shaping -> rollout correction -> split into updates

Everything here is without gradient and computed once on the whole rollout batch, which every rank has: what
depends on other rows can't depend on how the batch is cut later. Departures from textbook GRPO: groups that
the group filter dropped are not scored unless something learns from them (an auxiliary loss), and the old
policy's log-probabilities are not stored when no part needs them and one update follows a rollout batch (the
ratio is 1).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

from openvlt.data.prompts import Renderer
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.columns import call_with_columns, trained_rows
from openvlt.grpo.collect.generation import (
    PendingRollouts,
    add_vision_features,
    generate_rollouts,
    text_generator,
)
from openvlt.grpo.collect.metrics import accuracies, rollout_metrics
from openvlt.grpo.collect.ops import take_rows
from openvlt.grpo.collect.prompts import PromptCache
from openvlt.grpo.collect.resampling import kept_groups
from openvlt.grpo.collect.scoring import Models, score_rollouts
from openvlt.grpo.collect.weighting import (
    broadcast_rewards,
    compute_advantages,
    mask_reward_only,
    update_batches,
)
from openvlt.model.load import VLM
from openvlt.reward.services import Services
from openvlt.types import GRPOBatch, Problem, Rollouts, ScoredRollouts


def no_more_problems() -> Sequence[Problem]:
    """Stands in for a source of more problems. Raises ValueError."""
    raise ValueError("resampling draws again, and this rollout batch has no further problems to draw")


class Experience:
    """Makes the batches of one rollout batch: one per update, each with its own whole groups."""

    def __init__(self, grpo: GRPO, vlm: VLM, reference: VLM | None) -> None:
        self.grpo, self.models = grpo, Models(vlm, reference)
        if grpo.needs_reference and not self.models.has_reference:
            raise ValueError(
                "a KL term (or a reward term that asks the reference) needs a reference model, or an "
                "adapter to switch off"
            )
        self.renderer = Renderer(vlm.processor, grpo.prompt)
        self.prompt_cache = PromptCache(self.renderer)
        self.accuracy: dict[str, float] = {}  # of each problem of the latest rollout batch, by id

    def begin(self, problems: Sequence[Problem], *, seed: int, version: int, step: int) -> PendingRollouts:
        """Starts to generate what `collect` takes as `pending`; the views rendered so far belong to it."""
        grpo, views = self.grpo.at_step(step), self.prompt_cache.take()
        return PendingRollouts(grpo, self.models.policy, views, problems, seed=seed, version=version)

    def collect(
        self,
        problems: Sequence[Problem],
        *,
        seed: int,
        version: int,
        step: int = 0,
        more: Callable[[], Sequence[Problem]] = no_more_problems,
        pending: PendingRollouts | None = None,
    ) -> tuple[ScoredRollouts, list[GRPOBatch]]:
        """Rollouts of these problems under the present weights (`version`), and one batch per update.

        `more()` gives as many other problems, for resampling. Schedules have their value of optimiser step
        `step`. `pending` are rollouts of these problems that were begun earlier, under the weights they name.
        """
        grpo = self.grpo.at_step(step)
        clock, draws = {"generate_s": 0.0, "reward_s": 0.0}, itertools.count()
        services = Services(text_generator(grpo, self.models, self.renderer), grpo.judge, grpo.encoder)
        self.accuracy, prompt_cache = {}, self.prompt_cache if pending is None else pending.prompt_cache

        def draw_rollouts(drawn: Sequence[Problem], begun: PendingRollouts | None = None) -> ScoredRollouts:
            """Rollouts of these problems, rewarded and filtered."""
            began = time.perf_counter()
            policy, seeds = self.models.policy, {"seed": seed, "version": version, "draw": next(draws)}
            if begun is None:
                generated = generate_rollouts(grpo, policy, prompt_cache, drawn, **seeds)
            else:
                generated = begun.wait()
            ended = time.perf_counter()
            rollouts = reward_rollouts(grpo, generated, services)
            clock["generate_s"] += ended - began if begun is None else begun.seconds
            clock["reward_s"] += time.perf_counter() - ended
            self.accuracy |= accuracies(rollouts)
            return rollouts

        rollouts = draw_rollouts(problems, pending)
        drawn, metrics = len(rollouts.problems), rollout_metrics(rollouts, **clock)
        metrics |= {} if pending is None else {"wait_s": pending.waited}
        if grpo.resampling is not None:
            rollouts = grpo.resampling(rollouts, lambda: draw_rollouts(more()))
            # groups from a replay buffer come without vision features
            rollouts = rollouts.with_(prompts=add_vision_features(self.models.policy, rollouts.prompts))
            metrics |= {**clock, "refilled": len(kept_groups(rollouts)) / drawn}
        rollouts = take_rows(rollouts, trained_rows(rollouts))
        rollouts = score_rollouts(grpo, self.models, prompt_cache, rollouts, seed)
        rollouts = compute_advantages(grpo, rollouts)
        hooks = grpo.metric_hooks.items()
        metrics |= {name: float(call_with_columns(hook, rollouts)) for name, hook in hooks}
        prompt_cache.clear()
        return rollouts, update_batches(grpo, rollouts, metrics)


def reward_rollouts(grpo: GRPO, rollouts: Rollouts, services: Services) -> ScoredRollouts:
    """The rollouts with verdicts, rewards and the group filter's choice, the same on every rank."""
    scored = broadcast_rewards(grpo.reward(rollouts, services))
    return scored.with_(keep_N=call_with_columns(grpo.group_filter, mask_reward_only(scored)))
