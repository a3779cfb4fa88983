"""The doors of this room: `verify`, `verify_batch`, `extract`, `explain`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from openvlt.types import Verdict
from openvlt.verify.extraction import find
from openvlt.verify.judge import judge


@dataclass(frozen=True)
class Explanation:
    """How a verdict came about: what was extracted and by which rule, how both sides were read, which rule decided."""

    verdict: Verdict
    extracted: str | None
    extraction_rule: str
    decided_by: str
    why: str


def explain(gold: str, response: str, *, choices: Sequence[str] | None = None,
            answer_type: str | None = None) -> Explanation:
    """`verify` with its reasons."""
    found = find(response, choices)
    if found.text is None:
        return Explanation(found.verdict, None, found.rule, "extraction", found.rule)
    ruling = judge(gold, found.text, choices, answer_type)
    return Explanation(ruling.verdict, found.text, found.rule, ruling.rule, ruling.why)


def verify(gold: str, response: str, *, choices: Sequence[str] | None = None,
           answer_type: str | None = None) -> Verdict:
    """Whether the final answer of `response` means the same as `gold`; never raises on any text."""
    return explain(gold, response, choices=choices, answer_type=answer_type).verdict


def extract(response: str, *, choices: Sequence[str] | None = None) -> str | None:
    """The final answer of a response as text, or None when it gives none (truncated, refused, empty)."""
    return find(response, choices).text


def verify_batch(items: Iterable[Any], *, workers: int, deadline_s: float) -> list[Verdict]:
    """Verdicts in the order of `items`, each a (gold, response) pair or a mapping with verify's arguments."""
    return [verify(**item) if isinstance(item, dict) else verify(*item) for item in items]
