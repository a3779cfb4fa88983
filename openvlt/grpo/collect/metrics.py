"""Metrics of a rollout batch. Every quantity is defined in docs/metrics.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from openvlt.grpo.collect.columns import correct_rows
from openvlt.grpo.collect.ops import take_rows
from openvlt.grpo.parts.advantage import group_mean
from openvlt.types import Completion, Origin, ScoredRollouts, Verdict


def rollout_metrics(rollouts: ScoredRollouts, *, generate_s: float, reward_s: float) -> dict[str, float]:
    """Reward, its spread, dropped groups, lengths, verdicts and speed of the policy's own completions."""
    own_N = (rollouts.origin_N != Origin.INJECTED) & (rollouts.origin_N != Origin.REWARD_ONLY)
    rollouts = take_rows(rollouts, own_N)
    length_N = rollouts.mask_NT.sum(1).float()
    reward_N, rows = rollouts.reward_N, max(1, len(rollouts.completions))
    spread_N = (reward_N - group_mean(reward_N, rollouts.group_N)).square()
    verdicts = Counter(rollouts.verdicts)
    correct_N = length_N.new_tensor([verdict is Verdict.CORRECT for verdict in rollouts.verdicts]).bool()
    return {
        "reward": float(reward_N.nanmean()),
        "reward_group_std": float(group_mean(spread_N, rollouts.group_N).sqrt().nanmean()),
        "dropped_groups": float((~rollouts.keep_N).float().mean()),
        **group_outcomes(correct_N, rollouts.group_N),
        "length": float(length_N.mean()),
        "length_correct": float(length_N[correct_N].mean()) if correct_N.any() else float("nan"),
        "length_other": float(length_N[~correct_N].mean()) if (~correct_N).any() else float("nan"),
        "finished": sum(completion.finished for completion in rollouts.completions) / rows,
        **{f"reward_{name}": float(term_N.nanmean()) for name, term_N in rollouts.rewards.items()},
        **{f"verdict_{verdict.value}": verdicts[verdict] / rows for verdict in Verdict},
        "generate_s": generate_s,
        "reward_s": reward_s,
        "tokens_per_s": float(length_N.sum()) / max(generate_s, 1e-9),
    }


def group_outcomes(correct_N: Tensor, group_N: Tensor) -> dict[str, float]:
    """Shares of groups in which no completion is correct, some are, all are; NaN without groups."""
    groups, place_N = group_N.unique(return_inverse=True)
    size_P = place_N.bincount(minlength=len(groups))
    correct_P = place_N.bincount(correct_N, minlength=len(groups))
    none, everything = float((correct_P == 0).float().mean()), float((correct_P == size_P).float().mean())
    return {
        "groups_all_wrong": none,
        "groups_mixed": 1 - none - everything,
        "groups_all_right": everything,
    }


def accuracies(rollouts: ScoredRollouts) -> dict[str, float]:
    """Share of correct completions of each problem that has own ones, by id."""
    shares = group_mean(correct_rows(rollouts), rollouts.group_N).tolist()
    rows = zip(rollouts.row_problems, shares, strict=True)
    return {problem.id: share for problem, share in rows if share == share}


def distinct_answers(completions: Sequence[Completion], group_N: Tensor) -> float:
    """A metric hook: distinct answers / completions, mean over groups; 1 if all differ."""
    answers: dict[int, list[str]] = {}
    for completion, group in zip(completions, group_N.tolist(), strict=True):
        answers.setdefault(group, []).append(completion.text.rpartition("</think>")[2].strip())
    return sum(len(set(texts)) / len(texts) for texts in answers.values()) / max(1, len(answers))
