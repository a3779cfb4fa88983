"""Shapers: what is changed between the advantage and the loss. Pure functions of named columns that return a `AdvantageUpdate`.

They run in the order of the config, each on the advantage the one before left. Weights never change a denominator unless the bundle says
`denominator: selected`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openvlt.errors import UserError
from openvlt.grpo.parts.advantage import group_mean
from openvlt.grpo.parts.kl import k3
from openvlt.types import Origin, Problem, Rollouts


@dataclass(frozen=True)
class AdvantageUpdate:
    """Changes to a rollout; what is None stays. (N,1) is allowed for (N,T).

    `times` and `plus` change the advantage (A x times + plus), `token_weight_NT` and `sample_weight_N` multiply the loss, rows outside
    `keep_N` are dropped.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    token_weight_NT: Tensor | None = None
    sample_weight_N: Tensor | None = None
    keep_N: Tensor | None = None

    def apply(self, rollouts: Rollouts) -> Rollouts:
        """The rollouts with these changes."""
        adv = rollouts.advantage
        adv = adv if self.scale is None else adv * self.scale
        adv = adv if self.shift is None else adv + self.shift
        columns = (
            {"adv_N": adv[:, 0]}
            if adv.shape[1] == 1 and rollouts.adv_NT is None
            else {"adv_NT": adv.expand(rollouts.ids_NT.shape)}
        )
        if self.token_weight_NT is not None:
            weight_NT = self.token_weight_NT.to(torch.float32).expand(rollouts.ids_NT.shape)
            columns["token_weight_NT"] = (
                weight_NT if rollouts.token_weight_NT is None else weight_NT * rollouts.token_weight_NT
            )
        if self.sample_weight_N is not None:
            weight_N = self.sample_weight_N.to(torch.float32)
            columns["sample_weight_N"] = (
                weight_N if rollouts.sample_weight_N is None else weight_N * rollouts.sample_weight_N
            )
        if self.keep_N is not None:
            columns["keep_N"] = rollouts.keep_N & self.keep_N
        return rollouts.with_(**columns)


Shaper = Callable[..., AdvantageUpdate]


def drop_truncated(finished_N: Tensor) -> AdvantageUpdate:
    """Completions cut off at the token limit teach nothing (DAPO's overlong filtering, arXiv 2503.14476, section 3.4)."""
    return AdvantageUpdate(token_weight_NT=finished_N[:, None])


def keep_top_entropy(entropy_NT: Tensor, mask_NT: Tensor, *, share: float = 0.2) -> AdvantageUpdate:
    """Only the `share` of all tokens of the rollout batch with the highest entropy is learned from (arXiv 2506.01939; TRL's
    top_entropy_quantile, there per micro-batch)."""
    _check_share(share)
    entropy_T = entropy_NT[mask_NT.bool()]
    if not len(entropy_T):
        return AdvantageUpdate()
    place = (
        math.ceil((1 - share) * (len(entropy_T) - 1)) + 1
    )  # the quantile's upper neighbour; torch.quantile ends at 2^24 numbers
    return AdvantageUpdate(token_weight_NT=entropy_NT >= entropy_T.kthvalue(place).values)


def top_tokens(score_NT: Tensor, mask_NT: Tensor, share: float) -> Tensor:
    """Bool (N,T): in each completion, the ceil(share x length) tokens with the highest score; of equals the earlier."""
    _check_share(share)
    order_NT = score_NT.masked_fill(mask_NT == 0, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank_NT = torch.zeros_like(order_NT).scatter(
        1, order_NT, torch.arange(order_NT.shape[1]).expand_as(order_NT)
    )
    return (rank_NT < (share * mask_NT.sum(1, keepdim=True)).ceil()) & mask_NT.bool()


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise UserError(f"share={share} of the tokens; it is above 0 and at most 1")


def weigh_by_perception(
    logp: Mapping[str, Tensor],
    mask_NT: Tensor,
    *,
    view: str = "blackened",
    share: float = 0.4,
    lowest: float = 0.9,
) -> AdvantageUpdate:
    """VPPO (`perc_utils.py`, `dp_actor.py`, `core_algos.py`): learn from tokens that need the image, more from completions that do.

    A token's need is d = k3 of its log-probability with and without the image's view. The `share` of tokens with the highest d is kept
    in each completion. A completion's advantage is scaled between `lowest` and a highest factor that makes the mean factor 1, by its
    mean d (min-max over the rollout batch; the reference: of one rank, mean of one micro-batch).
    """
    need_NT = k3(logp["old"], logp[view]).clamp(max=10) * mask_NT
    need_N = need_NT.sum(1) / mask_NT.sum(1).clamp(min=1)
    spread = need_N.max() - need_N.min()
    if spread <= 0:  # a view that changes nothing
        return AdvantageUpdate(token_weight_NT=top_tokens(need_NT, mask_NT, share))
    level_N = (need_N - need_N.min()) / spread
    factor_N = lowest + level_N * (1 - lowest) / level_N.mean()
    return AdvantageUpdate(scale=factor_N[:, None], token_weight_NT=top_tokens(need_NT, mask_NT, share))


def add_uncertainty_bonus(
    stats: Mapping[str, Tensor],
    mask_NT: Tensor,
    view: Sequence[str],
    *,
    weight: float,
    limit: float,
    noisy: str,
) -> AdvantageUpdate:
    """VOGUE's bonus (arXiv 2510.01444): rows generated from the view `noisy` get A + min(weight x U, limit).

    U is the mean over the completion of the symmetric KL between the predictions from the raw image and from the view. The paper's
    constants weren't found: `weight` and `limit` have no default.
    """
    U_N = (stats[f"sym_kl:{noisy}"] * mask_NT).sum(1) / mask_NT.sum(1).clamp(min=1)
    there_N = torch.tensor([name == noisy for name in view])
    return AdvantageUpdate(shift=((weight * U_N).clamp(max=limit) * there_N)[:, None])


def add_entropy_bonus(entropy_NT: Tensor, *, weight: float) -> AdvantageUpdate:
    """A + weight x H at every token, H the old policy's entropy there (VOGUE, arXiv 2510.01444; its constant wasn't found: no default)."""
    return AdvantageUpdate(shift=weight * entropy_NT)


def weigh_by_difficulty(level_N: Tensor, *, weights: Mapping[int, float]) -> AdvantageUpdate:
    """Harder questions count more in the loss (RewardMap's difficulty weight; as a factor of the reward it cancels in (r - mean)/std)."""
    if missing := {int(level) for level in level_N.unique().tolist() if level == level} - set(weights):
        raise UserError(
            f"weigh_by_difficulty has no weight for levels {sorted(missing)}; give grpo.advantage_shaping.<name>.weights.<level>=<number>"
        )
    table = {float(level): weight for level, weight in weights.items()}
    return AdvantageUpdate(
        sample_weight_N=torch.tensor([table.get(level, 1.0) for level in level_N.tolist()])
    )


def require_perception(
    problems: Sequence[Problem], origin_N: Tensor, correct_N: Tensor, *, auxiliary: float = 1.0
) -> AdvantageUpdate:
    """PEARL's gate (figure in its repository): where every answer to a problem's perception task is wrong, the problem teaches nothing.

    Perception rows (`Origin.AUXILIARY`, `meta["parent"]` the problem's id) weigh `auxiliary`, the lambda of its loss.
    """
    seen: dict[str, float] = {}
    for problem, origin, correct in zip(problems, origin_N.tolist(), correct_N.tolist(), strict=True):
        if origin == Origin.AUXILIARY:
            seen[problem.meta["parent"]] = max(seen.get(problem.meta["parent"], 0.0), correct)
    gate = [float(seen.get(problem.id, 1.0) > 0) for problem in problems]
    return AdvantageUpdate(
        sample_weight_N=torch.where(origin_N == Origin.AUXILIARY, auxiliary, torch.tensor(gate))
    )


def longest_share(length_N: Tensor, group_N: Tensor, *, weight: float = 0.1) -> AdvantageUpdate:
    """An example of an own shaper: A loses weight x (length / mean length of its group - 1)."""
    mean_N = group_mean(length_N.double(), group_N)
    return AdvantageUpdate(shift=(-weight * (length_N / mean_N - 1)).float()[:, None])
