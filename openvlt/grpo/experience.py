"""The chain of GRPO, the only file that links its parts: problems in, batches for the optimiser out.

sample problems -> generate -> rewards -> advantage -> gate -> log-prob passes -> split into updates

Everything here is without gradient and computed once on the whole rollout batch: what depends on a row's siblings can't depend on how
the batch is cut later. Departures from textbook GRPO: groups with equal rewards are left out before scoring when there is no KL term
(their gradient is 0), and the old policy's log-probabilities are not stored for the first update after a rollout (the ratio is 1).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openvlt import ranks
from openvlt.data.render import Renderer, pad_right
from openvlt.grpo.gate import keep_all
from openvlt.grpo.observe import rollout_metrics
from openvlt.model.load import VLM
from openvlt.model.logprob import completion_logp
from openvlt.reward.combine import Reward
from openvlt.rollout.generator import Generator, Sampling, generating
from openvlt.rollout.spread import generate
from openvlt.types import Completion, GRPOBatch, Problem, Prompts, Rollouts, Totals


@dataclass(frozen=True)
class Chain:
    """The parts that `Experience` links, in the order they run. `denominator`: count `all` completions or the `kept` ones."""

    generator: Generator
    sampling: Sampling
    reward: Reward
    advantage: Callable[[Tensor, Tensor], Tensor]
    gate: Callable[[Tensor, Tensor], Tensor]
    denominator: str = "all"
    kl: bool = False
    micro_batch: int = 256


class Experience:
    """Makes the batches of one rollout. `updates` optimiser steps share it, each with its own whole groups."""

    def __init__(self, chain: Chain, vlm: VLM, renderer: Renderer, reference: VLM | None, updates: int) -> None:
        if chain.kl and reference is None and not hasattr(vlm.model, "disable_adapter"):
            raise ValueError("a KL term needs a reference model, or an adapter to switch off")
        self.chain, self.vlm, self.renderer, self.reference, self.updates = chain, vlm, renderer, reference, updates

    def collect(self, problems: Sequence[Problem], *, seed: int, version: int) -> tuple[Rollouts, list[GRPOBatch]]:
        """Rollouts of these problems under the present weights (`version`), and one batch per update."""
        began = time.perf_counter()
        rollouts = self.roll(problems, seed=seed, version=version)
        generated = time.perf_counter()
        rollouts = self.chain.reward(rollouts)
        rollouts = rollouts.with_(adv_N=self.chain.advantage(rollouts.reward_N, rollouts.group_N))
        keep_N = keep_all(rollouts.group_N) if self.chain.kl else self.chain.gate(rollouts.reward_N, rollouts.group_N)
        rollouts = rollouts.with_(keep_N=keep_N)
        metrics = rollout_metrics(rollouts, generate_s=generated - began, reward_s=time.perf_counter() - generated)
        shares = [self._share(rollouts, part) for part in range(self.updates)]
        return rollouts, [self._batch(rollouts, share, metrics) for share in shares]

    def roll(self, problems: Sequence[Problem], *, seed: int, version: int) -> Rollouts:
        """Completions of each problem with the log-probabilities they were sampled with."""
        prompts, sampling = self.renderer.prompts(problems), self.chain.sampling
        completions = generate(self.chain.generator, self.vlm, problems, prompts, sampling, seed)
        ids_NT, mask_NT = pad_right([completion.token_ids for completion in completions], self.vlm.pad_id)
        return Rollouts(
            problems=tuple(problems),
            completions=tuple(completions),
            prompts=prompts,
            ids_NT=ids_NT,
            mask_NT=mask_NT,
            group_N=torch.arange(len(problems)).repeat_interleave(sampling.n),
            policy_version=version,
            behaviour_logp_NT=_behaviour(completions, mask_NT),
        )

    def _share(self, rollouts: Rollouts, part: int) -> Tensor:
        """Rows (M,) of one update: whole groups, in the order they were sampled."""
        return (rollouts.group_N * self.updates // len(rollouts.problems) == part).nonzero()[:, 0]

    def _batch(self, rollouts: Rollouts, share: Tensor, metrics: dict[str, float]) -> GRPOBatch:
        kept = share[rollouts.keep_N[share]]
        counted = share if self.chain.denominator == "all" else kept
        groups, group_N = rollouts.group_N[kept].unique(return_inverse=True)
        mask_NT, behaviour_NT = rollouts.mask_NT[kept], rollouts.behaviour_logp_NT
        width = int(mask_NT.sum(1).max()) if len(kept) else 0
        columns = dict(
            prompts=rollouts.prompts.select(groups.tolist()),
            ids_NT=rollouts.ids_NT[kept, :width],
            mask_NT=mask_NT[:, :width],
            group_N=group_N,
        )
        return GRPOBatch(
            **columns,
            adv_N=rollouts.adv_N[kept],
            old_logp_NT=self.score(self.vlm, **columns) if self.updates > 1 else None,
            ref_logp_NT=self._reference_logp(columns) if self.chain.kl else None,
            behaviour_logp_NT=None if behaviour_NT is None else behaviour_NT[kept, :width],
            policy_version=rollouts.policy_version,
            totals=Totals(tokens=int(rollouts.mask_NT[counted].sum()), sequences=len(counted)),
            metrics=metrics,
        )

    def _reference_logp(self, columns: dict) -> Tensor:
        """Log-probabilities under the reference: the model training started from, or the model with its adapter off."""
        if self.reference is not None:
            return self.score(self.reference, **columns)
        with self.vlm.model.disable_adapter():
            return self.score(self.vlm, **columns)

    def score(self, vlm: VLM, prompts: Prompts, ids_NT: Tensor, mask_NT: Tensor, group_N: Tensor) -> Tensor:
        """Log-probabilities (N,T) without gradient, in micro-batches of whole groups, shared out among the ranks."""
        logp_NT = torch.zeros(ids_NT.shape)
        with generating(vlm.model):
            for rows in micro_batches(group_N, self.chain.micro_batch):
                part = take(prompts, ids_NT, mask_NT, group_N, rows, vlm.device)
                scored, _ = completion_logp(vlm, *part, temperature=self.chain.sampling.temperature)
                logp_NT[rows, : scored.shape[1]] = scored.cpu().float()
        ranks.add_up([logp_NT])
        return logp_NT


def _behaviour(completions: Sequence[Completion], mask_NT: Tensor) -> Tensor | None:
    """Log-probabilities (N,T) the completions were sampled with, None when the generator gives none."""
    if any(len(completion.logp) != len(completion.token_ids) for completion in completions):
        return None
    logp_NT = torch.zeros(mask_NT.shape)
    for row, completion in enumerate(completions):
        logp_NT[row, : len(completion.logp)] = torch.tensor(completion.logp)
    return logp_NT


def micro_batches(group_N: Tensor, rows: int) -> list[Tensor]:
    """Row indices of this rank's whole groups, at most `rows` together (a larger group stands alone)."""
    parts: list[list[int]] = []
    for group in ranks.share(group_N.unique().tolist()):
        members = (group_N == group).nonzero()[:, 0].tolist()
        if parts and len(parts[-1]) + len(members) <= rows:
            parts[-1] += members
        else:
            parts.append(members)
    return [torch.tensor(part) for part in parts]


def take(
    prompts: Prompts, ids_NT: Tensor, mask_NT: Tensor, group_N: Tensor, rows: Tensor, device: torch.device
) -> tuple[Prompts, Tensor, Tensor, Tensor]:
    """The rows of one micro-batch with their own prompts only, on `device`, cut to their longest completion."""
    groups, local_N = group_N[rows].unique(return_inverse=True)
    width = max(1, int(mask_NT[rows].sum(1).max()))
    moved = (tensor.to(device) for tensor in (ids_NT[rows, :width], mask_NT[rows, :width], local_N))
    return prompts.select(groups.tolist()).to(device), *moved
