"""The doors of this room: `verify`, `verify_batch`, `extract`, `explain`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from openvlt.errors import UserError
from openvlt.types import Verdict
from openvlt.verify import core, pool
from openvlt.verify.core import Explanation
from openvlt.verify.extract.extractor import find_answer

DEADLINE_S = 0.5
"""Seconds that a symbolic comparison may take in `verify` and `explain`."""
_SYMBOLIC_SHARE = 0.8  # of an item's deadline, so that reading it and replacing a killed worker fit in too
_FIELDS = ("gold", "response", "choices", "answer_type")


def verify(
    gold: str, response: str, *, choices: Sequence[str] | None = None, answer_type: str | None = None
) -> Verdict:
    """Whether the final answer of `response` means the same as `gold`.

    `choices` are the options of a multiple-choice question in order; `answer_type` is the source's own word for the
    kind of answer ("list": order counts; "text": a gold that is a letter and an option's text is the text). Raises on
    no text.
    """
    return explain(gold, response, choices=choices, answer_type=answer_type).verdict


def explain(
    gold: str, response: str, *, choices: Sequence[str] | None = None, answer_type: str | None = None
) -> Explanation:
    """`verify` with its reasons."""
    result = core.explain(gold, response, choices, answer_type)
    return _settled(result) if result.pending else result


def _settled(result: Explanation) -> Explanation:
    ((_, verdict),) = pool.pool("symbolic", 1).map([result.values], DEADLINE_S)
    return replace(result, verdict=Verdict(verdict), why="by sympy in a worker process", pending=False)


def extract(response: str, *, choices: Sequence[str] | None = None) -> str | None:
    """The final answer of a response as text, or None when it gives none (truncated, refused, empty)."""
    return find_answer(response, choices).text


def verify_batch(
    items: Iterable[Mapping[str, Any] | Sequence[Any]], *, workers: int = 0, deadline_s: float = 1.0
) -> list[Verdict]:
    """One verdict per item, in order. An item is `(gold, response[, choices[, answer_type]])` or a mapping with the
    arguments of `verify`.

    `workers` processes judge side by side and are kept for the next call; with 0 typed comparison runs in this
    process and only symbolic questions go to a worker. An item that takes longer than `deadline_s` or too much memory
    costs its worker and gets TIMEOUT; the others are not touched. Raises UserError for an item of another form.
    """
    arguments = [_arguments(item, index) for index, item in enumerate(items)]
    if workers < 0 or deadline_s <= 0:
        raise UserError(
            f"verify_batch: got workers={workers}, deadline_s={deadline_s}; "
            "give workers >= 0 and deadline_s > 0"
        )
    if workers:
        results = _pool("judge", workers).map(arguments, deadline_s) if arguments else []
    else:
        results = [_told(core.explain(**item)) for item in arguments]
    open_ones = [index for index, (kind, _) in enumerate(results) if kind == "pending"]
    if open_ones:
        answers = _pool("symbolic", 1).map(
            [results[index][1] for index in open_ones], _SYMBOLIC_SHARE * deadline_s
        )
        for index, answer in zip(open_ones, answers, strict=True):
            results[index] = answer
    return [Verdict(verdict) for _, verdict in results]


_pool = pool.pool


def _told(result: Explanation) -> tuple[str, Any]:
    return ("pending", result.values) if result.pending else ("done", result.verdict.value)


def _arguments(item: Mapping[str, Any] | Sequence[Any], index: int) -> dict[str, Any]:
    if isinstance(item, str) or not isinstance(item, Mapping) and not 2 <= len(item) <= len(_FIELDS):
        raise UserError(
            f"verify_batch: item {index} must be (gold, response[, choices[, answer_type]]) or a mapping "
            f"of verify's arguments, got {item!r:.80}"
        )
    found = dict(item) if isinstance(item, Mapping) else dict(zip(_FIELDS, item, strict=False))
    if not {"gold", "response"} <= found.keys() <= set(_FIELDS):
        raise UserError(
            f"verify_batch: item {index} has the keys {sorted(found)}; allowed are {sorted(_FIELDS)}, "
            "of which gold and response must be there"
        )
    if isinstance(found.get("choices"), str):
        raise UserError(
            f"verify_batch: item {index} has choices {found['choices']!r:.80}; give a list of options"
        )
    return found
