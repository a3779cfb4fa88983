"""Gold answers as files have them (in tags, boxes, after ####, at the end of a solution) as bare answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from openvlt import distributed
from openvlt.data.rows.lazy import LazyProblems
from openvlt.errors import UserError
from openvlt.types import Problem, Verdict
from openvlt.verify import extract
from openvlt.verify.api import grade_response
from openvlt.verify.extract.announced import find_announcement, is_empty_answer
from openvlt.verify.extract.patterns import CONCLUSION

LONGEST_TEXT = 25
"""Words of a gold answer that is kept as it is; of a longer text only its announced answer counts."""
_SAMPLE = 50

_TAG = re.compile(
    r"<(/?)(?:answer|final_answer|solution)>|<\|(?:begin|(end))_of_box\|>", re.IGNORECASE
)  # the last pair: GLM's box
_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_LAST_LINE = re.compile(r"(?:\A|\n)[ \t]*####[ \t]*([^\n]*\S)\s*\Z")
_ANNOUNCED = re.compile(r"answer|答案", re.IGNORECASE)
_WORD = re.compile(r"(?<!\\)\b[^\W\d_\u3000-\u9fff]{2,}|[\u3000-\u9fff]{2}")


def read_gold(text: str, choices: Sequence[str] | None = None) -> str:
    """The bare answer of a gold answer: of its last tags, box, `####` line, or announcement; else the text.

    A text of more than `LONGEST_TEXT` words is a solution, and its end is the answer. Raises UserError for
    empty or cut tags and boxes, and for such a text that ends in no answer.
    """
    _, mark, rest = text.rpartition("</think>")
    if "<think>" in rest:
        raise UserError("the answer's <think> is never closed; write the answer after </think>")
    text = rest.strip() if mark else text
    if tags := list(_TAG.finditer(text)):
        pairs = [(a.end(), b.start()) for a, b in pairwise(tags) if not (a[1] or a[2]) and (b[1] or b[2])]
        inner = text[slice(*pairs[-1])].strip() if pairs else ""
        if not inner:
            raise UserError(f"the answer's {tags[0][0]} is empty or never closed; write the answer in it")
        return read_gold(inner, choices)
    if not text.strip():
        raise UserError("the answer is empty after its thoughts; write the answer after </think>")
    if _BOX.search(text):
        if (found := extract(text, choices=choices)) is None:
            raise UserError("the answer's \\boxed is empty or never closed; write the answer in it")
        return found
    if line := _LAST_LINE.search(text):
        return line[1]
    announced = find_announcement(text, choices) if _ANNOUNCED.search(text) else None
    if announced is not None and announced.text is not None:
        return announced.text
    if len(_WORD.findall(text)) > LONGEST_TEXT:
        return _read_conclusion(text, choices)
    return text


def _read_conclusion(text: str, choices: Sequence[str] | None) -> str:
    """What a long solution ends with: the few words after "so", else the value that is its end."""
    markers = list(CONCLUSION.finditer(text))
    tail = text[markers[-1].end() :].strip(" \n,.:。") if markers else ""
    if tail and len(_WORD.findall(tail)) <= 3 and (found := extract(tail, choices=choices)) is not None:
        return found
    value = extract(text, choices=choices)
    ends = value is not None and text.rstrip(" \n.。*$\\)]").endswith(value.strip(" .。*$\\)]"))
    if value is None or not ends or len(_WORD.findall(value)) > 5:
        raise UserError(
            f"the answer is a text of {len(text)} letters without a final answer; write the answer alone, "
            "or a solution that ends in \\boxed{...}, <answer>...</answer> or #### ..."
        )
    return value


def check_golds(problems: Sequence[Problem], where: str) -> None:
    """Raises UserError when no gold answer is right by the verifier, not even as a response to itself.

    Answers that the verifier takes for none ("N/A") are counted in a line on the screen. Of `LazyProblems`
    only the first are looked at.
    """
    if isinstance(problems, LazyProblems):
        problems = problems.open_first(_SAMPLE)
    sample = problems[:_SAMPLE]
    if sample and not any(map(_can_be_met, sample)):
        raise UserError(
            f"{where}: no response can be right: none of the first {len(sample)} answers is accepted even "
            f"for itself (row {sample[0].id!r}: {sample[0].answer[:60]!r}); "
            "name the column that holds the answer in data.columns.answer"
        )
    empty = [problem for problem in problems if not problem.choices and is_empty_answer(problem.answer)]
    if empty and distributed.is_main():
        print(
            f"{where}: {len(empty)} of {len(problems)} answers count as no answer (row {empty[0].id!r}: "
            f"{empty[0].answer!r}), so no response to them is right; remove them if that isn't meant",
            flush=True,
        )


def _can_be_met(problem: Problem) -> bool:
    """Whether the gold answer in its tags is right, or may be when sympy compares."""
    response = f"<answer>{problem.answer}</answer>"
    grade = grade_response(problem.answer, response, problem.choices, problem.answer_type)
    return grade.pending or grade.verdict is Verdict.CORRECT
