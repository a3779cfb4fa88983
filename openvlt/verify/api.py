"""The public functions of this package: `verify`, `verify_batch`, `extract`, `explain`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from openvlt.errors import UserError
from openvlt.types import Verdict
from openvlt.verify.extract.extractor import EXTRACTIONS, find_answer
from openvlt.verify.grade.rules import grade_answer
from openvlt.verify.parse.answer import Value, describe_value
from openvlt.verify.pool import WorkerReply, get_pool

DEADLINE_S = 0.5
"""Seconds that a symbolic comparison may take in `verify` and `explain`."""
_SYMBOLIC_SHARE = 0.8  # of an item's deadline, so that reading it and replacing a killed worker fit in too
_LONGEST_GOLD = 200
_FIELDS: tuple[str, ...] = ("gold", "response", "choices", "answer_type")


@dataclass(frozen=True)
class Explanation:
    """A verdict with its reasons: the extracted text, the rule that found it, the rule that decided, and why.

    `values` are gold and answer as they were read, where both were read as mathematics. `pending` means that
    typed comparison cannot decide and a symbolic one may; the verdict is UNPARSED until then.
    """

    verdict: Verdict
    extracted: str | None
    extraction_rule: str
    decided_by: str
    why: str
    values: tuple[Value, Value] | None = field(default=None, repr=False)
    pending: bool = field(default=False, repr=False)

    def lines(self) -> list[str]:
        """One line of text per step, for people."""
        rows = [
            ("verdict", self.verdict.value),
            ("extracted", self.extracted),
            ("extracted by", self.extraction_rule),
        ]
        if self.values is not None:
            gold, answer = self.values
            rows += [("gold read as", describe_value(gold)), ("answer read as", describe_value(answer))]
        rows.append(("decided by", f"{self.decided_by}: {self.why}"))
        return [f"{name:18}{text}" for name, text in rows]


def verify(
    gold: str,
    response: str,
    *,
    choices: Sequence[str] | None = None,
    answer_type: str | None = None,
    extraction: str = "any",
) -> Verdict:
    """Whether the final answer of `response` means the same as `gold`.

    `choices` are the options of a multiple-choice question in order. `answer_type` is the source's own word
    for the kind of answer: "list" makes order count; "text" prefers an option's text where a gold is both a
    letter and a text. `extraction` "tag" or "box" takes the answer only from the last `<answer>` or box,
    "any" from prose too. Never raises, whatever the texts are.
    """
    return explain(gold, response, choices=choices, answer_type=answer_type, extraction=extraction).verdict


def explain(
    gold: str,
    response: str,
    *,
    choices: Sequence[str] | None = None,
    answer_type: str | None = None,
    extraction: str = "any",
) -> Explanation:
    """The verdict of `verify` with its reasons."""
    check_extraction(extraction, "verify")
    result = grade_response(gold, response, choices, answer_type, extraction)
    if not result.pending:
        return result
    ((_, verdict),) = get_pool("symbolic", 1).map([result.values], DEADLINE_S)
    return replace(result, verdict=Verdict(verdict), why="by sympy in a worker process", pending=False)


def extract(response: str, *, choices: Sequence[str] | None = None, extraction: str = "any") -> str | None:
    """The final answer of a response as text; None if it gives none (truncated, refused, empty)."""
    check_extraction(extraction, "extract")
    return find_answer(response, choices, extraction).text


def check_extraction(extraction: str, where: str) -> None:
    """Raises UserError for anything but "tag", "box" and "any"."""
    if extraction not in EXTRACTIONS:
        raise UserError(f"{where}: extraction={extraction!r}; give one of {', '.join(EXTRACTIONS)}")


def verify_batch(
    items: Iterable[Mapping[str, Any] | Sequence[Any]],
    *,
    workers: int = 0,
    deadline_s: float = 1.0,
    extraction: str = "any",
) -> list[Verdict]:
    """One verdict per item, in order.

    An item is `(gold, response[, choices[, answer_type]])` or a mapping with the arguments of `verify`. With
    `workers` > 0 that many processes grade side by side and are kept for the next call. With 0 typed
    comparison runs in this process, and only symbolic questions go to a worker. An item that needs longer
    than `deadline_s` or too much memory costs its worker and gets TIMEOUT; the other items keep their
    verdicts. `extraction` is `verify`'s, for all items. Raises UserError for an item of another form.
    """
    check_extraction(extraction, "verify_batch")
    arguments = [_arguments(item, index) | {"extraction": extraction} for index, item in enumerate(items)]
    if workers < 0 or deadline_s <= 0:
        raise UserError(
            f"verify_batch: got workers={workers}, deadline_s={deadline_s}; "
            "give workers >= 0 and deadline_s > 0"
        )
    if workers:
        results = get_pool("grade", workers).map(arguments, deadline_s) if arguments else []
    else:
        results = [make_reply(grade_response(**item)) for item in arguments]
    pending = [index for index, (kind, _) in enumerate(results) if kind == "pending"]
    if pending:
        questions = [results[index][1] for index in pending]
        replies = get_pool("symbolic", 1).map(questions, _SYMBOLIC_SHARE * deadline_s)
        for index, reply in zip(pending, replies, strict=True):
            results[index] = reply
    return [Verdict(verdict) for _, verdict in results]


def grade_response(
    gold: str,
    response: str,
    choices: Sequence[str] | None = None,
    answer_type: str | None = None,
    extraction: str = "any",
) -> Explanation:
    """The verdict by extraction and typed comparison alone; `pending` where those cannot decide."""
    found = find_answer(response, choices, extraction)
    if found.text is None:
        return Explanation(found.verdict, None, found.rule, "extraction", found.rule)
    grade = grade_answer(_gold_answer(gold), found.text, choices, answer_type)
    return Explanation(
        grade.verdict, found.text, found.rule, grade.rule, grade.why, grade.values, grade.pending
    )


def make_reply(result: Explanation) -> WorkerReply:
    """What a worker sends for a graded response: its verdict, or the two values that sympy has to compare."""
    return ("pending", result.values) if result.pending else ("done", result.verdict.value)


def _gold_answer(gold: str) -> str:
    """The gold answer itself where a source gives a worked solution for it (NuminaMath does)."""
    return _solution_answer(gold) if "\\boxed" in gold or len(gold) > _LONGEST_GOLD else gold


@lru_cache(maxsize=4096)
def _solution_answer(gold: str) -> str:
    return find_answer(gold).text or gold


def _arguments(item: Mapping[str, Any] | Sequence[Any], index: int) -> dict[str, Any]:
    """The arguments of `verify` that an item holds; raises UserError for another form."""
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
