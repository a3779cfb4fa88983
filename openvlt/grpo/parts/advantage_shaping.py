"""Advantage shaping: functions of requested columns that return an `AdvantageUpdate`.

They run in the order of the configuration, each on the advantage that the one before left. Weights never
change a denominator, except under `denominator: selected`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openvlt.errors import UserError
from openvlt.grpo.parts.kl import k3
from openvlt.grpo.parts.traits import declare_traits
from openvlt.types import Origin, Problem, ScoredRollouts


@dataclass(frozen=True)
class AdvantageUpdate:
    """Changes to rollouts; what is None stays. (N,1) is allowed for (N,T).

    The advantage becomes A x `scale` + `shift`. `token_weight_NT` and `sample_weight_N` multiply the loss;
    rows outside `keep_N` are dropped.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    token_weight_NT: Tensor | None = None
    sample_weight_N: Tensor | None = None
    keep_N: Tensor | None = None

    def apply(self, rollouts: ScoredRollouts) -> ScoredRollouts:
        """The rollouts with these changes."""
        adv_NT = rollouts.adv_NT
        adv_NT = adv_NT if self.scale is None else adv_NT * self.scale
        adv_NT = adv_NT if self.shift is None else adv_NT + self.shift
        columns = {"adv_NT": adv_NT}
        if self.token_weight_NT is not None:
            weight_NT = self.token_weight_NT.to(torch.float32).expand(rollouts.ids_NT.shape)
            columns["token_weight_NT"] = weight_NT * rollouts.token_weight_NT
        if self.sample_weight_N is not None:
            columns["sample_weight_N"] = self.sample_weight_N.to(torch.float32) * rollouts.sample_weight_N
        if self.keep_N is not None:
            columns["keep_N"] = rollouts.keep_N & self.keep_N
        return rollouts.with_(**columns)


AdvantageShaping = Callable[..., AdvantageUpdate]


def drop_truncated(finished_N: Tensor) -> AdvantageUpdate:
    """Weight 0 for completions cut off at the token limit.

    DAPO's overlong filtering, arXiv 2503.14476, section 3.4.
    """
    return AdvantageUpdate(token_weight_NT=finished_N[:, None])


def keep_top_entropy(entropy_NT: Tensor, mask_NT: Tensor, *, share: float = 0.2) -> AdvantageUpdate:
    """Weight 0 for all but the `share` of the rollout batch's tokens with the highest entropy.

    arXiv 2506.01939; TRL's top_entropy_quantile, there per micro-batch.
    """
    _check_share(share)
    entropy_T = entropy_NT[mask_NT.bool()]
    if not len(entropy_T):
        return AdvantageUpdate()
    # the quantile's upper neighbour; torch.quantile itself ends at 2^24 numbers
    place = math.ceil((1 - share) * (len(entropy_T) - 1)) + 1
    return AdvantageUpdate(token_weight_NT=entropy_NT >= entropy_T.kthvalue(place).values)


def top_tokens(score_NT: Tensor, mask_NT: Tensor, share: float) -> Tensor:
    """The ceil(share x length) tokens of each completion with the highest score: bool (N,T).

    Of equal scores the earlier ones are taken.
    """
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
    """VPPO: learn from tokens that need the image, and more from completions that do.

    A token's need is d = k3 of its log-probability with and without the image view. In each completion, the
    `share` of tokens with the highest d is kept. A completion's advantage is scaled by its mean d: from
    `lowest` to the factor that makes the mean factor 1 (min-max over the rollout batch; the reference's are
    over one rank, its mean over one micro-batch). Reference: VPPO-RL, `perc_utils.py`, `dp_actor.py`,
    `core_algos.py`.
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

    U is the mean over the completion of the symmetric KL between the predictions from the raw image and from
    the view. The paper's constants weren't found: `weight` and `limit` have no default.
    """
    U_N = (stats[f"sym_kl:{noisy}"] * mask_NT).sum(1) / mask_NT.sum(1).clamp(min=1)
    from_noisy_N = torch.tensor([name == noisy for name in view])
    return AdvantageUpdate(shift=((weight * U_N).clamp(max=limit) * from_noisy_N)[:, None])


def add_entropy_bonus(entropy_NT: Tensor, *, weight: float) -> AdvantageUpdate:
    """A + weight x H at every token, H the old policy's entropy there.

    VOGUE, arXiv 2510.01444. Its constant wasn't found: `weight` has no default.
    """
    return AdvantageUpdate(shift=weight * entropy_NT)


def weigh_by_difficulty(level_N: Tensor, *, weights: Mapping[int, float]) -> AdvantageUpdate:
    """Multiplies the loss by a weight for the problem's level; rows without a level have weight 1.

    RewardMap's difficulty weight; as a factor of the reward it would cancel in (r - mean) / std.
    """
    if missing := {int(level) for level in level_N.unique().tolist() if level == level} - set(weights):
        raise UserError(
            f"weigh_by_difficulty has no weight for levels {sorted(missing)}; give "
            "grpo.advantage_shaping.<name>.weights.<level>=<number>"
        )
    table = {float(level): weight for level, weight in weights.items()}
    return AdvantageUpdate(
        sample_weight_N=torch.tensor([table.get(level, 1.0) for level in level_N.tolist()])
    )


@declare_traits("reads_dropped_groups")
def require_perception(
    problems: Sequence[Problem], origin_N: Tensor, correct_N: Tensor, *, auxiliary: float = 1.0
) -> AdvantageUpdate:
    """Weight 0 for problems whose perception task was never answered correctly.

    PEARL (figure in its repository). Rows of the perception task (`Origin.AUXILIARY`, `meta["parent"]` the
    problem's id) have the weight `auxiliary`, the lambda of its loss.
    """
    best: dict[str, float] = {}  # of each problem with a task: 1 if any answer to it is correct
    for problem, origin, correct in zip(problems, origin_N.tolist(), correct_N.tolist(), strict=True):
        if origin == Origin.AUXILIARY:
            best[problem.meta["parent"]] = max(best.get(problem.meta["parent"], 0.0), correct)
    weights = torch.tensor([float(best.get(problem.id, 1.0) > 0) for problem in problems])
    return AdvantageUpdate(sample_weight_N=torch.where(origin_N == Origin.AUXILIARY, auxiliary, weights))
