"""One response judged in this process, without waiting for anybody: extraction, then typed comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from openvlt.types import Verdict
from openvlt.verify.extract.extractor import find_answer
from openvlt.verify.grade.rules import grade_answer
from openvlt.verify.parse.answer import Value, show


@dataclass(frozen=True)
class Explanation:
    """How a verdict came about: what was extracted and by which rule, which rule decided, and why.

    `values` are gold and answer as they were read, where they were read as mathematics. `pending`: typed comparison
    could not tell and a symbolic one may (the verdict is UNPARSED until then).
    """

    verdict: Verdict
    extracted: str | None
    extraction_rule: str
    decided_by: str
    why: str
    values: tuple[Value, Value] | None = field(default=None, repr=False)
    pending: bool = field(default=False, repr=False)

    def lines(self) -> list[str]:
        """For people: one step of the way per line."""
        rows = [
            ("verdict", self.verdict.value),
            ("extracted", self.extracted),
            ("extracted by", self.extraction_rule),
        ]
        if self.values is not None:
            rows += [("gold read as", show(self.values[0])), ("answer read as", show(self.values[1]))]
        rows.append(("decided by", f"{self.decided_by}: {self.why}"))
        return [f"{name:18}{text}" for name, text in rows]


def explain(
    gold: str, response: str, choices: Sequence[str] | None = None, answer_type: str | None = None
) -> Explanation:
    """The verdict as far as it can be told here."""
    found = find_answer(response, choices)
    if found.text is None:
        return Explanation(found.verdict, None, found.rule, "extraction", found.rule)
    ruling = grade_answer(_gold_answer(gold), found.text, choices, answer_type)
    return Explanation(
        ruling.verdict, found.text, found.rule, ruling.rule, ruling.why, ruling.values, ruling.pending
    )


_LONGEST_GOLD = 200


def _gold_answer(gold: str) -> str:
    """The gold answer itself where a source gives a worked solution for it (NuminaMath and its kin do)."""
    return _solution_answer(gold) if "\\boxed" in gold or len(gold) > _LONGEST_GOLD else gold


@lru_cache(maxsize=4096)
def _solution_answer(gold: str) -> str:
    return find_answer(gold).text or gold
