"""Findings: what the numbers of a run say is wrong. Plain numbers in, sentences out.

A rule is a function that returns a sentence, with the number, the likely cause and the fix, or None. Runs
print and file what it returns; nothing stops. Rules of training read a row of metrics.csv.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Metrics = Mapping[str, float]
HALF, NEARLY_ALL = 0.5, 0.9
FEW = 8  # so few equal answers can be chance


# --- answers: of an evaluation, a benchmark, a distillation -------------------------------------------------


def many_cut_off(cut: int, n: int) -> str | None:
    """Half of the answers or more hit the token limit."""
    if not n or cut < HALF * n:
        return None
    return (
        f"{_all_or_count(cut, n)} answers were cut off at the token limit, mostly before the answer; raise "
        "tokens.response (max_new_tokens), or check that the model ends its answers (eos_token_id)"
    )


def many_empty(empty: int, n: int) -> str | None:
    """Half of the answers or more hold no text."""
    if not n or empty < HALF * n:
        return None
    return (
        f"{_all_or_count(empty, n)} answers are empty; check the chat template and the stop tokens of the "
        "model's folder, and sampling.stop"
    )


def one_answer(most: int, n: int, golds: int) -> str | None:
    """All answers are the same text, though gold answers differ; `most` counts the most frequent one."""
    if n < FEW or most < n or golds < 2:
        return None
    return (
        f"all {n} answers are the same text, though there are {golds} different gold answers; the model "
        "doesn't read its questions: check chat template, images and weights"
    )


def none_readable(verdicts: Mapping[str, int], cut: int, n: int) -> str | None:
    """Nothing is correct, and no answer could be read in most of the answers that were not cut off."""
    unread, whole = max(0, verdicts.get("no_answer", 0) + verdicts.get("unparsed", 0) - cut), n - cut
    if verdicts.get("correct", 0) or whole <= 0 or unread < HALF * whole:
        return None
    return (
        f"nothing is correct, and in {unread} of {whole} finished answers no answer could be read; the model "
        "answers in another form than the prompt asks for: read some responses, then change "
        "prompt.instruction, or take a model that follows it"
    )


def many_timeouts(timeouts: int, n: int) -> str | None:
    """The verifier ran out of time at one answer in twenty or more, which count as not correct."""
    if not n or timeouts < 0.05 * n or not timeouts:
        return None
    return (
        f"the verifier ran out of time at {timeouts} of {n} answers, which count as not correct; raise "
        "deadline_s, or ask on a machine that isn't loaded"
    )


def answer_findings(
    verdicts: Mapping[str, int], *, cut: int, texts: Sequence[str] = (), golds: Sequence[str] = ()
) -> list[str]:
    """The findings on answers: counts by verdict, those cut off, their texts, and the gold answers."""
    n = sum(verdicts.values())
    counts: dict[str, int] = {}
    for text in texts:
        counts[text.strip()] = counts.get(text.strip(), 0) + 1
    empty = counts.get("", 0)
    found = (
        many_cut_off(cut, n),
        many_empty(empty, n) if texts else None,
        one_answer(max(counts.values(), default=0), n, len(set(golds))) if not empty else None,
        none_readable(verdicts, cut, n),
        many_timeouts(verdicts.get("timeout", 0), n),
    )
    return [sentence for sentence in found if sentence]


def distillation_findings(counts: Mapping[str, float]) -> list[str]:
    """The findings on a distillation's chains; `counts` are its outcomes: verdicts, and `unfinished`."""
    cut = int(counts.get("unfinished", 0))
    names = ("correct", "wrong", "no_answer", "unparsed", "timeout")
    verdicts = {name: int(counts.get(name, 0)) for name in names}
    verdicts["no_answer"] += cut
    return answer_findings(verdicts, cut=cut)


# --- training: a row of metrics.csv -------------------------------------------------------------------------


def no_gradient(row: Metrics) -> str | None:
    """Every group of a rollout batch has equal rewards, so that no advantage differs from 0."""
    if row.get("reward_group_std", math.nan) != 0:
        return None
    reward = row.get("reward", math.nan)
    why = "too hard, or no answer is read: look at rollouts.jsonl" if reward <= 0 else "too easy"
    return (
        f"all completions of a problem have the same reward (mean {reward:g}), so that nothing is learned "
        f"from them; the problems are {why}; take other problems, or more completions (grpo.group_size)"
    )


def none_finished(row: Metrics) -> str | None:
    """No completion of a rollout batch ended by itself."""
    if row.get("finished", math.nan) != 0:
        return None
    return "all completions were cut off at the token limit and earn nothing; raise tokens.response"


def no_text(row: Metrics) -> str | None:
    """Completions of a rollout batch consist of the token that ends them."""
    if not row.get("length", math.nan) <= 1:
        return None
    return "all completions are empty; check the chat template and the stop tokens of the model's folder"


def nothing_read(row: Metrics) -> str | None:
    """The verifier could read nearly none of the completions that ended."""
    finished = row.get("finished", math.nan)
    unread = row.get("verdict_no_answer", 0.0) + row.get("verdict_unparsed", 0.0) - (1 - finished)
    if not finished or not unread >= NEARLY_ALL * finished:
        return None
    return (
        f"no answer could be read in {100 * unread / finished:.0f} % of the finished completions; start from "
        "a model that keeps the form that the prompt asks for, or change prompt.instruction"
    )


def unused_terms(row: Metrics) -> str | None:
    """A reward term is NaN for every completion of a rollout batch."""
    terms = [name for name, value in row.items() if name.startswith("reward_") and math.isnan(value)]
    terms = [name.removeprefix("reward_") for name in terms if name != "reward_group_std"]
    if not terms or "reward" not in row:
        return None
    return f"reward term {', '.join(terms)} applies to no completion (NaN everywhere); check it, or remove it"


def infinite_values(row: Metrics) -> str | None:
    """A logged value is infinite, or the KL to the reference isn't a number."""
    bad = [name for name, value in row.items() if math.isinf(value)]
    bad += [name for name in ("kl", "mismatch_kl", "entropy") if math.isnan(row.get(name, 0.0))]
    if not bad:
        return None
    return (
        f"{', '.join(bad)} not finite: the policy is far from the one that sampled or from the reference; "
        "lower the learning rate"
    )


TRAINING_RULES: tuple[Callable[[Metrics], str | None], ...] = (
    none_finished,
    no_text,
    nothing_read,
    no_gradient,
    unused_terms,
    infinite_values,
)


def rollout_findings(row: Metrics) -> dict[str, str]:
    """The findings on one rollout batch, by rule, so that each can be told once in a run."""
    found = {rule.__name__: rule(row) for rule in TRAINING_RULES}
    return {name: sentence for name, sentence in found.items() if sentence}


def training_findings(rows: Sequence[Metrics]) -> list[str]:
    """The findings that hold in half of the steps or more, with the number of steps."""
    found = {rule: [sentence for row in rows if (sentence := rule(row))] for rule in TRAINING_RULES}
    return [
        f"in {len(hits)} of {len(rows)} steps: {hits[-1]}"
        for hits in found.values()
        if hits and len(hits) >= HALF * len(rows)
    ]


def _all_or_count(count: int, n: int) -> str:
    return f"all {n}" if count == n else f"{count} of {n}"
