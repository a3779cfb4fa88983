"""Rollout batches generated one ahead: the next one while this one is learned from (`rollout.ahead`).

For each rollout batch: wait for its completions; send the present weights, while nothing is being generated;
begin the next batch; learn from this one. So a batch comes from the policy of one rollout batch earlier, the
first one of a run or after a restart from the present one, and the rollout correction weighs its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from openvlt.errors import UserError
from openvlt.grpo.collect.experience import Experience
from openvlt.grpo.collect.generation import PendingRollouts
from openvlt.grpo.collect.prompts import PromptLoader
from openvlt.grpo.collect.sampler import SamplerAhead
from openvlt.rollout.base import rest_servers
from openvlt.types import GRPOBatch, Problem, ScoredRollouts


class RolloutsAhead:
    """Collects each rollout batch when it is due, while the one after it is generated.

    `seed_at(step)` is the seed of the rollout batch of that optimiser step.
    """

    def __init__(
        self,
        experience: Experience,
        loader: PromptLoader,
        sampler: SamplerAhead,
        seed_at: Callable[[int], int],
    ) -> None:
        self.experience, self.loader, self.sampler, self.seed_at = experience, loader, sampler, seed_at
        self.pending: PendingRollouts | None = None

    def collect(self, step: int, version: int) -> tuple[ScoredRollouts, list[GRPOBatch]]:
        """The rollouts of optimiser step `step`, and one batch per update.

        `version` is that of the present weights, with which the next rollout batch is begun.
        """
        grpo = self.experience.grpo
        due = self.pending = self.pending or self._begin(step, version)
        due.wait()
        self.pending = None
        if (following := step + grpo.updates) < grpo.steps:
            self.pending = self._begin(following, version)
        else:
            self.sampler.finish()
            rest_servers(grpo.generator)
        settings = {"seed": self.seed_at(step), "version": version, "step": step}
        return self.experience.collect(due.problems, **settings, more=_refuse_to_draw_again, pending=due)

    def _begin(self, step: int, version: int) -> PendingRollouts:
        with self.sampler.drawing():
            problems = self.loader.next(step)
        return self.experience.begin(problems, seed=self.seed_at(step), version=version, step=step)

    def close(self) -> None:
        """Gives up what is being generated, and ends the loader's worker."""
        if self.pending is not None:
            self.pending.cancel()
        self.loader.close()


def _refuse_to_draw_again() -> Sequence[Problem]:
    """Stands in for a source of more problems. Raises UserError."""
    raise UserError(
        "grpo.resampling draws again for the same step, when under rollout.ahead=1 the servers generate the "
        "next one already; leave it out, or set rollout.ahead=0"
    )
