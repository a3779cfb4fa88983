"""The family once more, in plain Python floats: loops over completions and tokens, written from the formulas in docs/grpo.md."""

from __future__ import annotations

import math
import statistics

Rows = list[list[float]]


def known(values: list[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def siblings(values: list[float], groups: list[int], row: int) -> list[float]:
    return known([value for value, group in zip(values, groups, strict=True) if group == groups[row]])


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


# --- advantages ---------------------------------------------------------------------------------------------------------


def grpo(rewards: list[float], groups: list[int], eps: float) -> list[float]:
    return [
        0.0
        if math.isnan(r)
        else (r - statistics.fmean(own := siblings(rewards, groups, i))) / (spread(own) + eps)
        for i, r in enumerate(rewards)
    ]


def dr_grpo(rewards: list[float], groups: list[int]) -> list[float]:
    return [
        0.0 if math.isnan(r) else r - statistics.fmean(siblings(rewards, groups, i))
        for i, r in enumerate(rewards)
    ]


def rloo(rewards: list[float], groups: list[int]) -> list[float]:
    out = []
    for i, r in enumerate(rewards):
        others = [v for j, v in enumerate(rewards) if groups[j] == groups[i] and j != i and not math.isnan(v)]
        out.append(0.0 if math.isnan(r) or not others else r - statistics.fmean(others))
    return out


def batch_normalised(rewards: list[float], groups: list[int], eps: float) -> list[float]:
    return [a / (spread(known(rewards)) + eps) for a in dr_grpo(rewards, groups)]


def whiten(values: Rows, eps: float = 1e-8) -> Rows:
    flat = [v for row in values for v in row]
    mean, variance = statistics.fmean(flat), statistics.variance(flat)
    return [[(v - mean) / math.sqrt(variance + eps) for v in row] for row in values]


def reinforce_pp(rewards: list[float], penalties: Rows, discount: float) -> Rows:
    """Rows of NaN reward are no part of the batch: they come back as zeros."""
    returns = {}
    for i, reward in enumerate(rewards):
        if not math.isnan(reward):
            earned = [-p for p in penalties[i]]
            earned[-1] += reward
            returns[i] = [
                sum(discount ** (s - t) * earned[s] for s in range(t, len(earned)))
                for t in range(len(earned))
            ]
    white = dict(zip(returns, whiten(list(returns.values())), strict=True))
    return [white.get(i, [0.0] * len(penalties[i])) for i in range(len(rewards))]


def reinforce_pp_baseline(rewards: list[float], groups: list[int], lengths: list[int]) -> Rows:
    centred, there = dr_grpo(rewards, groups), [i for i, r in enumerate(rewards) if not math.isnan(r)]
    white = dict(zip(there, whiten([[centred[i]] * lengths[i] for i in there]), strict=True))
    return [white.get(i, [0.0] * lengths[i]) for i in range(len(rewards))]


def gdpo(
    terms: dict[str, list[float]], weights: dict[str, float], groups: list[int], eps: float
) -> list[float]:
    normal = {name: grpo(values, groups, eps) for name, values in terms.items()}
    totals = []
    for i in range(len(groups)):
        applying = [name for name in terms if not math.isnan(terms[name][i])]
        totals.append(sum(weights[name] * normal[name][i] for name in applying) if applying else math.nan)
    return grpo(totals, [0] * len(groups), eps)


# --- losses: one completion's tokens in, its values out (one value where the loss is per completion) ----------------------


def clip(ratio: float, a: float, low: float, high: float, dual: float | None = None) -> float:
    loss = -min(ratio * a, min(max(ratio, 1 - low), 1 + high) * a)
    return min(loss, -dual * a) if dual is not None and a < 0 else loss


def clipped_surrogate(
    new: list[float], old: list[float], adv: list[float], clip_low=0.2, clip_high=0.2, dual=None
) -> list[float]:
    return [
        clip(math.exp(n - o), a, clip_low, clip_high, dual) for n, o, a in zip(new, old, adv, strict=True)
    ]


def gspo(new: list[float], old: list[float], adv: list[float], clip_low=3e-4, clip_high=4e-4) -> list[float]:
    ratio = math.exp(statistics.fmean(n - o for n, o in zip(new, old, strict=True)))
    return [clip(ratio, a, clip_low, clip_high) for a in adv]


def sequence_surrogate(
    new: list[float], old: list[float], adv: list[float], clip_low=0.2, clip_high=0.2
) -> list[float]:
    ratio = math.exp(sum(n - o for n, o in zip(new, old, strict=True)))
    return [clip(ratio, a, clip_low, clip_high) for a in adv]


def cispo(new: list[float], old: list[float], adv: list[float], ratio_low=0.0, ratio_high=5.0) -> list[float]:
    return [
        -min(max(math.exp(n - o), ratio_low), ratio_high) * a * n
        for n, o, a in zip(new, old, adv, strict=True)
    ]


def sapo(new: list[float], old: list[float], adv: list[float], positive=1.0, negative=1.05) -> list[float]:
    out = []
    for n, o, a in zip(new, old, adv, strict=True):
        tau = positive if a > 0 else negative
        out.append(-a * (4 / tau) / (1 + math.exp(-tau * (math.exp(n - o) - 1))))
    return out


def policy_gradient(new: list[float], old: list[float], adv: list[float]) -> list[float]:
    return [-a * n for n, a in zip(new, adv, strict=True)]


# --- aggregates ---------------------------------------------------------------------------------------------------------


def token_mean(rows: Rows, tokens: int, sequences: int) -> float:
    return sum(v for row in rows for v in row) / tokens


def sequence_mean(rows: Rows, tokens: int, sequences: int) -> float:
    return sum(statistics.fmean(row) for row in rows) / sequences


def sequence_sum(rows: Rows, tokens: int, sequences: int) -> float:
    return sum(sum(row) for row in rows) / sequences


def constant_length(rows: Rows, tokens: int, sequences: int, length: int) -> float:
    return sum(sum(row) / length for row in rows) / sequences
