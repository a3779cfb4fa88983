"""The chain of GRPO, the only file that links its parts: problems in, batches for the optimiser out.

sample problems -> views and given texts -> generate -> reward terms -> combine -> gate and refill -> log-prob passes -> advantage ->
shapers -> rollout correction -> split into updates

Everything here is without gradient and computed once on the whole rollout batch, which every rank has: what depends on other rows
can't depend on how the batch is cut later. Departures from textbook GRPO: groups that the gate dropped are not scored unless something
learns from them (an auxiliary loss), and the old policy's log-probabilities are not stored when nobody asks for them and one update
follows a rollout (the ratio is 1).
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from openvlt import distributed
from openvlt.data.prompts import Renderer, pad_right
from openvlt.errors import UserError
from openvlt.grpo.collect.columns import SCORED, call_with_columns, requested_columns, trained_rows
from openvlt.grpo.collect.metrics import accuracies, rollout_metrics
from openvlt.grpo.collect.ops import stack_behaviour_logp, take_rows
from openvlt.grpo.collect.plan import MultiViewPlan, RolloutPlan, ViewPass, row_origin, tag_with_view
from openvlt.grpo.collect.prompts import PLAIN, PromptBatch, PromptCache, view_key
from openvlt.grpo.collect.resampling import kept_groups
from openvlt.grpo.collect.weighting import (
    broadcast_rewards,
    compute_advantages,
    loss_totals,
    mask_reward_only,
    select_denominator,
    token_weights,
)
from openvlt.grpo.parts.advantage_shaping import AdvantageUpdate
from openvlt.grpo.parts.auxiliary_losses import AuxiliaryLoss, RewardKL
from openvlt.grpo.parts.schedules import resolve_schedules
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.model.shared_prefix.symmetric_kl import symmetric_kl
from openvlt.model.shared_prefix.vision_features import store_vision_features
from openvlt.reward.reward import Reward
from openvlt.reward.services import Services
from openvlt.rollout.base import Generator, Sampling, generating
from openvlt.rollout.distributed import generate_on_ranks
from openvlt.types import Completion, GRPOBatch, Origin, Problem, Prompts, Rollouts, Totals


@dataclass(frozen=True)
class Chain:
    """The parts that `Experience` links, in the order they run. `denominator`: count `all` completions, the `kept` ones, or only the
    `selected` tokens, whose weight isn't 0.
    """

    generator: Generator
    sampling: Sampling
    reward: Reward
    advantage: Callable[..., Tensor]
    group_filter: Callable[..., Tensor]
    rollout_plan: RolloutPlan = MultiViewPlan()
    resampling: Callable[..., Rollouts] | None = None
    view_passes: Mapping[str, ViewPass] = field(default_factory=dict)
    reward_kl: RewardKL | None = None
    advantage_shaping: Mapping[str, Callable[..., AdvantageUpdate]] = field(default_factory=dict)
    rollout_correction: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    auxiliary_losses: Mapping[str, AuxiliaryLoss] = field(default_factory=dict)
    metric_hooks: Mapping[str, Callable[..., float]] = field(default_factory=dict)
    judge: Any = None
    encoder: Any = None
    denominator: str = "all"
    micro_batch: int = 256

    def needs(self, updates: int) -> set[str]:
        """What has to be scored: old, reference. Everything that is asked for by name counts."""
        parts = (self.advantage, *self.advantage_shaping.values(), *self.metric_hooks.values())
        asked_for = {SCORED[name] for part in parts for name in requested_columns(part) if name in SCORED}
        asked_for |= {
            need for aux in self.auxiliary_losses.values() for need in aux.needs if need == "reference"
        }
        asked_for |= {"old", "reference"} if self.reward_kl is not None else set()
        replays = hasattr(self.resampling, "state_dict")
        return asked_for | (
            {"old"}
            if updates > 1 or self.view_passes or self.rollout_correction is not None or replays
            else set()
        )

    def consults_reference(self, updates: int) -> bool:
        """Whether there has to be a reference: to be scored, or to write for a reward term (`model: reference`)."""
        return "reference" in self.needs(updates) or any(
            getattr(term, "model", "") == "reference" for term in self.reward.terms.values()
        )

    @property
    def every_row(self) -> bool:
        """Whether rows that the gate dropped are scored all the same."""
        return bool(
            self.auxiliary_losses
            or self.reward_kl
            or self.advantage_shaping
            or self.view_passes
            or self.metric_hooks
        )


class Experience:
    """Makes the batches of one rollout. `updates` optimiser steps share it, each with its own whole groups."""

    def __init__(
        self, chain: Chain, vlm: VLM, renderer: Renderer, reference: VLM | None, updates: int
    ) -> None:
        if (
            chain.consults_reference(updates)
            and reference is None
            and not hasattr(vlm.model, "disable_adapter")
        ):
            raise ValueError(
                "a KL term (or a reward term that asks the reference) needs a reference model, or an adapter to switch off"
            )
        self.chain, self.vlm, self.renderer, self.reference, self.updates = (
            chain,
            vlm,
            renderer,
            reference,
            updates,
        )
        self.prompt_cache = PromptCache(renderer)
        self.accuracy: dict[str, float] = {}  # of each problem of the latest rollout, by id

    def collect(
        self,
        problems: Sequence[Problem],
        *,
        seed: int,
        version: int,
        more: Callable[[], Sequence[Problem]] | None = None,
        step: int = 0,
        total: int = 1,
    ) -> tuple[Rollouts, list[GRPOBatch]]:
        """Rollouts of these problems under the present weights (`version`), and one batch per update.

        `more()` gives as many other problems to a refill. Schedules have the value of `step` of `total`.
        """
        chain, clock = resolve_schedules(self.chain, step, total), {"generate_s": 0.0, "reward_s": 0.0}
        services, draws = Services(self._text_generator(chain), chain.judge, chain.encoder), itertools.count()
        self.accuracy = {}

        def judged(asked_for: Sequence[Problem]) -> Rollouts:
            began = time.perf_counter()
            rollouts = self.roll(asked_for, seed=seed, version=version, chain=chain, draw=next(draws))
            generated = time.perf_counter()
            rollouts = broadcast_rewards(chain.reward(rollouts, services))
            rollouts = rollouts.with_(
                keep_N=call_with_columns(chain.group_filter, mask_reward_only(rollouts))
            )
            clock["generate_s"] += generated - began
            clock["reward_s"] += time.perf_counter() - generated
            self.accuracy |= accuracies(rollouts)
            return rollouts

        rollouts = judged(problems)
        asked_for, metrics = len(rollouts.problems), rollout_metrics(rollouts, **clock)
        if chain.resampling is not None:
            rollouts = chain.resampling(rollouts, lambda: judged(more()))
            rollouts = rollouts.with_(
                prompts=self._with_vision_features(rollouts.prompts)
            )  # groups from a memory come without
            metrics |= clock
            metrics["refilled"] = len(kept_groups(rollouts)) / asked_for
        rollouts = compute_advantages(
            chain, self._score_logprobs(chain, take_rows(rollouts, trained_rows(rollouts)), seed)
        )
        metrics |= {
            name: float(call_with_columns(hook, rollouts)) for name, hook in chain.metric_hooks.items()
        }
        marks = {name: aux.tokens(rollouts) for name, aux in chain.auxiliary_losses.items()}
        batches = [self._batch(chain, rollouts, marks, part) for part in range(self.updates)]
        self.prompt_cache.made.clear()
        return rollouts, [replace(batch, metrics=metrics) for batch in batches]

    def roll(
        self, problems: Sequence[Problem], *, seed: int, version: int, chain: Chain, draw: int = 0
    ) -> Rollouts:
        """Completions of each problem with the log-probabilities they were sampled with, and the texts that were given.

        `draw` counts a refill's draws: a problem that comes again says something else, looking through the same draw of a view.
        """
        sampled = random.Random(f"draw/{seed}/{draw}").getrandbits(62) if draw else seed
        prompts = self._with_vision_features(self.prompt_cache.get(problems, PLAIN, seed).prompts)
        groups: list[list[tuple[Completion, Origin, str]]] = [[] for _ in problems]
        for name, spec in chain.rollout_plan.specs(chain.sampling.n).items():
            look = (
                PromptBatch(problems, prompts)
                if spec.view is None
                else self.prompt_cache.get(problems, view_key(spec), seed)
            )
            seen = [tag_with_view(problem, name) for problem in look.problems]
            completions = generate_on_ranks(
                chain.generator, self.vlm, seen, look.prompts, replace(chain.sampling, n=spec.n), sampled
            )
            for number, completion in enumerate(completions):
                groups[number // spec.n].append(
                    (completion, row_origin(problems[number // spec.n], spec), name)
                )
        for group, problem in zip(groups, problems, strict=True):
            group += [
                (self._injected_completion(text), Origin.INJECTED, "given")
                for text in chain.rollout_plan.inject(problem)
            ]
        rows = [row for group in groups for row in group]
        ids_NT, mask_NT = pad_right([completion.token_ids for completion, _, _ in rows], self.vlm.pad_id)
        return Rollouts(
            problems=tuple(problems),
            completions=tuple(completion for completion, _, _ in rows),
            prompts=prompts,
            ids_NT=ids_NT,
            mask_NT=mask_NT,
            group_N=torch.arange(len(problems)).repeat_interleave(
                torch.tensor([len(group) for group in groups])
            ),
            policy_version=version,
            behaviour_logp_NT=stack_behaviour_logp([completion for completion, _, _ in rows], mask_NT),
            origin_N=torch.tensor([where for _, where, _ in rows]),
            view=tuple(view for _, _, view in rows),
        )

    def _with_vision_features(self, prompts: Prompts) -> Prompts:
        """With vision features where they can be kept; several ranks share the prompts out: each runs the tower on its own."""
        return store_vision_features(self.vlm, prompts) if distributed.world_size() == 1 else prompts

    def _injected_completion(self, text: str) -> Completion:
        ids_NT, _ = self.renderer.responses([text])
        return Completion(tuple(ids_NT[0].tolist()), text, True)

    def _text_generator(self, chain: Chain) -> Callable[[Sequence[Problem], str], list[str]]:
        """Greedy responses for reward terms that ask the policy or the reference."""

        def write(problems: Sequence[Problem], model: str) -> list[str]:
            sampling = Sampling(1, chain.sampling.max_new_tokens, greedy=True)
            with self._reference_model() if model == "reference" else contextlib.nullcontext(self.vlm) as vlm:
                return [
                    c.text
                    for c in generate_on_ranks(
                        chain.generator, vlm, problems, self.renderer.prompts(problems), sampling, 0
                    )
                ]

        return write

    def _score_logprobs(self, chain: Chain, rollouts: Rollouts, seed: int) -> Rollouts:
        """The log-prob passes: old policy, reference, views; 0 for rows that nothing is learned from."""
        needs, logp, stats = chain.needs(self.updates), {}, {}
        rows_N = torch.ones_like(rollouts.keep_N) if chain.every_row else rollouts.keep_N
        if "old" in needs:
            logp["old"], stats["entropy"] = self.score(self.vlm, rollouts, rows_N)
            replayed_N = rollouts.origin_N == Origin.REPLAYED
            if replayed_N.any():  # said by an earlier policy: the ratio is to that one, where it is known
                earlier_NT = replayed_N[:, None] & ~rollouts.behaviour_logp_NT.isnan()
                logp["old"] = torch.where(earlier_NT, rollouts.behaviour_logp_NT, logp["old"])
        if "reference" in needs:
            with self._reference_model() as reference:
                logp["ref"], _ = self.score(reference, rollouts, rows_N)
        for name, each in chain.view_passes.items():
            prompts = self.prompt_cache.get(rollouts.problems, view_key(each), seed).prompts
            if "logp" in each.outputs:
                logp[name], _ = self.score(self.vlm, rollouts.with_(prompts=prompts), rows_N)
            if "sym_kl" in each.outputs:
                stats[f"sym_kl:{name}"] = self.compare(rollouts, prompts)
        return rollouts.with_(logp=logp, stats=stats)

    @contextlib.contextmanager
    def _reference_model(self) -> Iterator[VLM]:
        """The reference: the model training started from, or the model with its adapter off."""
        if self.reference is not None:
            yield self.reference
        elif hasattr(self.vlm.model, "disable_adapter"):
            with self.vlm.model.disable_adapter():
                yield self.vlm
        else:
            raise UserError(
                "a reward term asks the reference, and none was loaded; give the term an attribute model='reference'"
            )

    def score(self, vlm: VLM, rollouts: Rollouts, rows_N: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (N,T) of these rows without gradient, whole groups shared out among the ranks; 0 elsewhere."""
        logp_NT, entropy_NT = torch.zeros(rollouts.ids_NT.shape), torch.zeros(rollouts.ids_NT.shape)
        with generating(vlm.model):
            for rows, part in self._parts(vlm, rollouts, rows_N):
                scored = completion_logp(
                    vlm,
                    part.prompts,
                    part.ids_NT,
                    part.mask_NT,
                    part.group_N,
                    temperature=self.chain.sampling.temperature,
                )
                for column_NT, value_NT in zip((logp_NT, entropy_NT), scored, strict=True):
                    column_NT[rows, : value_NT.shape[1]] = value_NT.cpu().float()
        distributed.all_reduce([logp_NT, entropy_NT])
        return logp_NT, entropy_NT

    def compare(self, rollouts: Rollouts, others: Prompts) -> Tensor:
        """Symmetric KL (N,T) between the predictions from the rollouts' prompts and from `others`."""
        kl_NT, temperature = torch.zeros(rollouts.ids_NT.shape), self.chain.sampling.temperature
        everything_N = torch.ones(len(rollouts.completions), dtype=torch.bool)
        with generating(self.vlm.model):
            for rows, part in self._parts(self.vlm, rollouts, everything_N):
                other = others.select(rollouts.group_N[rows].unique().tolist()).to(self.vlm.device)
                columns = (part.ids_NT, part.mask_NT, part.group_N)
                value_NT = symmetric_kl(self.vlm, part.prompts, other, *columns, temperature=temperature)
                kl_NT[rows, : value_NT.shape[1]] = value_NT.cpu().float()
        distributed.all_reduce([kl_NT])
        return kl_NT

    def _parts(self, vlm: VLM, rollouts: Rollouts, rows_N: Tensor) -> list[tuple[Tensor, GRPOBatch]]:
        chosen = rows_N.nonzero()[:, 0]
        whole = GRPOBatch(
            rollouts.prompts, rollouts.ids_NT, rollouts.mask_NT, rollouts.group_N, None, 0, Totals(0, 0)
        )
        parts = micro_batches(rollouts.group_N[chosen], self.chain.micro_batch)
        return [(chosen[rows], whole.part(chosen[rows], vlm.device)) for rows in parts]

    def _batch(self, chain: Chain, whole: Rollouts, marks: Mapping[str, Tensor], part: int) -> GRPOBatch:
        """The rows of one update that something is learned from; totals also count what `denominator` says."""
        share_N = whole.group_N * self.updates // len(whole.problems) == part
        weight_NT = token_weights(whole)
        counted_NT, counted_N = select_denominator(whole, weight_NT, chain.denominator)
        learned_N = share_N & (
            torch.ones_like(share_N) if chain.auxiliary_losses else (weight_NT != 0).any(1)
        )
        rows = learned_N.nonzero()[:, 0]
        groups, group_N = whole.group_N[rows].unique(return_inverse=True)
        width = int(whole.mask_NT[rows].sum(1).max()) if len(rows) else 0

        def cut(column_NT: Tensor | None) -> Tensor | None:
            return None if column_NT is None else column_NT[rows, :width]

        return GRPOBatch(
            prompts=whole.prompts.select(groups.tolist()),
            ids_NT=cut(whole.ids_NT),
            mask_NT=cut(whole.mask_NT),
            group_N=group_N,
            adv_N=None if whole.adv_NT is not None else whole.adv_N[rows],
            adv_NT=cut(whole.adv_NT),
            weight_NT=None if torch.equal(weight_NT[rows], whole.mask_NT[rows].float()) else cut(weight_NT),
            counted_NT=cut(counted_NT),
            old_logp_NT=cut(whole.logp.get("old")),
            ref_logp_NT=cut(whole.logp.get("ref")),
            behaviour_logp_NT=cut(whole.behaviour_logp_NT),
            views={name: cut(whole.logp[name]) for name in chain.view_passes if name in whole.logp},
            marks={name: cut(mark_NT) for name, mark_NT in marks.items()},
            mark_totals={
                name: loss_totals(mark_NT, mark_NT.any(1), share_N) for name, mark_NT in marks.items()
            },
            policy_version=whole.policy_version,
            totals=loss_totals(counted_NT, counted_N, share_N),
        )


def micro_batches(group_N: Tensor, rows: int) -> list[Tensor]:
    """Row indices of this rank's whole groups, at most `rows` together (a larger group stands alone)."""
    parts: list[list[int]] = []
    for group in distributed.take_share(group_N.unique().tolist()):
        members = (group_N == group).nonzero()[:, 0].tolist()
        if parts and len(parts[-1]) + len(members) <= rows:
            parts[-1] += members
        else:
            parts.append(members)
    return [torch.tensor(part) for part in parts]
