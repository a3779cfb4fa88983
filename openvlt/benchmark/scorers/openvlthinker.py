"""OpenVLThinker's own scoring (yihedeng9/OpenVLThinker, evaluation/run_evaluation.py and verify_mathverse_gpt4.py), rewritten.

The text of the last `<answer>…</answer>`; gold and answer equal without regard to case, or equal to MathRuler's grader. That grader
normalises both texts and lets sympy subtract them; here an exact comparison of our own does it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from string import ascii_uppercase

from openvlt.benchmark.prompts import fill_template
from openvlt.benchmark.protocol import Answer, Case, JudgeModel
from openvlt.benchmark.scorers.formula import same_expression
from openvlt.benchmark.tasks.emma import closing
from openvlt.types import Problem, Verdict

CHOICE_LETTERS = ascii_uppercase[:10]


def extract_tagged(response: str) -> list[str]:
    """The last answer between tags; a response without a closing tag has none."""
    return [response.split("<answer>")[-1].split("</answer>")[0].strip()] if "</answer>" in response else []


def extract_boxed_or_announced(response: str) -> list[str]:
    """What their script reads from models that were not trained on tags: the last box, and what follows the last "answer:"."""
    found, start = [], response.rfind("\\boxed{")
    if start != -1 and (end := closing(response, start + len("\\boxed{"))) is not None:
        found.append(response[start + len("\\boxed{") : end].strip())
    if "answer:" in response.lower():
        found.append(response.lower().split("answer:")[-1].strip())
    return found


def score_openvlthinker(
    cases: Sequence[Case],
    judge: JudgeModel | None = None,
    *,
    extract: Callable[[str], list[str]] = extract_tagged,
    letters: bool = True,
    prompt: str | None = None,
) -> list[Answer]:
    """One answer per case. With `letters` a gold that is an option's text becomes its letter. A judge is asked only where `prompt` is."""
    found = [extract(case.response) for case in cases]
    golds = [gold_letter(case.problem) if letters else case.problem.answer for case in cases]
    if prompt is not None and judge is not None:
        return _judged(cases, found, judge, prompt)
    answers = []
    for gold, candidates in zip(golds, found, strict=True):
        right = any(gold.lower() == answer.lower() or grade(gold, answer) for answer in candidates)
        answers.append(Answer.of(candidates[0] if candidates else None, right))
    return answers


def gold_letter(problem: Problem) -> str:
    """`process_ground_truth`: the letter of the option that equals the gold, up to J; else the gold."""
    place = (
        problem.choices.index(problem.answer)
        if problem.choices and problem.answer in problem.choices
        else len(CHOICE_LETTERS)
    )
    return CHOICE_LETTERS[place] if place < len(CHOICE_LETTERS) else problem.answer


def _judged(
    cases: Sequence[Case], found: Sequence[list[str]], judge: JudgeModel, prompt: str
) -> list[Answer]:
    """verify_mathverse_gpt4.py: every answer is shown to the judge as a list, a missing one as "Failed to extract."."""
    asked = [
        fill_template(
            prompt,
            instruction=c.problem.meta["query"],
            groundtruth=c.problem.answer,
            prediction=str(a or ["Failed to extract."]),
        )
        for c, a in zip(cases, found, strict=True)
    ]
    answers = []
    for candidates, reply in zip(found, judge.ask(asked), strict=True):
        said = reply.split("Judgement: ", 1)[-1]
        verdict = Verdict.CORRECT if "Yes" in said else Verdict.WRONG if "No" in said else Verdict.UNPARSED
        verdict = verdict if candidates or verdict is Verdict.CORRECT else Verdict.UNPARSED
        answers.append(Answer(candidates[0] if candidates else None, verdict))
    return answers


# --- MathRuler's grader -------------------------------------------------------------------------------------------------

_UNITS = "degree cm centimeter meter mile second minute hour day week month year foot feet inch yard".split()
_BRACKETS = "()[]"


def grade(one: str, other: str) -> bool:
    """`mathruler.grader.grade_answer`: equal after either of its two normalisations, or element by element by value.

    An integer equals only what is written as that integer, and two fractions only each other's text.
    """
    if hendrycks(one) == hendrycks(other):
        return True
    one, other = strip_prm800k(one), strip_prm800k(other)
    if one == other or not other or not one:
        return one == other
    left, right = elements(one), elements(other)
    if len(left) != len(right) or len(left) > 1 and (one[0], one[-1]) != (other[0], other[-1]):
        return False
    return all(_same(a, b) for a, b in zip(left, right, strict=True))


def _same(one: str, other: str) -> bool:
    fraction = r"-?[0-9]+.?/0*[1-9][0-9]*.?"
    if re.fullmatch(fraction, one) and re.fullmatch(fraction, other):
        return one == other
    if _integer(one) != _integer(other):
        return False
    names = {letter for letter in (one + other).replace("sqrt", "").replace("frac", "") if letter.isalpha()}
    if len(names) > 2 or re.search(r"\^[0-9]+\^|\^[0-9][0-9]|\^[{(]", f"{one} {other}"):
        return False
    return same_expression(one, other)


def _integer(text: str) -> bool:
    try:
        number = float(_without_commas(text))
        return abs(number - round(number)) <= 1e-7
    except (ValueError, OverflowError):
        return False


def _without_commas(text: str) -> str:
    before = None
    while before != text:
        before, text = text, re.sub(r"(\d),(\d\d\d)($|\D)", r"\1\2\3", text)
    return text


def elements(text: str) -> list[str]:
    """The parts of a tuple or interval, else the text alone."""
    text = _without_commas(text)
    bracketed = (
        len(text) > 2
        and text[0] in _BRACKETS
        and text[-1] in _BRACKETS
        and not set(_BRACKETS) & set(text[1:-1])
    )
    return [part.strip() for part in text[1:-1].split(",")] if bracketed else [text]


def hendrycks(text: str) -> str:
    """The normalisation of the MATH data set: spacing, units in `\\text{ }`, degrees, percent, `\\frac12`, `a/b`."""
    text = re.sub(r"^\\text\{(.+?)\}$", r"\1", text.strip()).strip()
    for old, new in (("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""),
                     ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", "")):  # fmt: skip
        text = text.replace(old, new)
    text = (
        text.split("\\text{ ")[0]
        .replace("\\%", "")
        .replace("%", "")
        .replace(" .", " 0.")
        .replace("{.", "{0.")
    )
    text = f"0{text}" if text.startswith(".") else text
    if text.count("=") == 1 and text.index("=") <= 2:
        text = text.split("=")[1]
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac([^{])\{", r"\\frac{\1}{", text)
    text = "\\frac{1}{2}" if text == "0.5" else text
    return re.sub(r"^(0|-?[1-9]\d*)/(0|-?[1-9]\d*)$", r"\\frac{\1}{\2}", text)


def strip_prm800k(text: str) -> str:
    """The normalisation of PRM800K: no units, currency or braces, LaTeX as plain text, lower case, integers without a decimal point."""
    text = (
        re.sub(r"^\\text\{(.+?)\}$", r"\1", text)
        .replace("\\%", "%")
        .replace("\\$", "$")
        .replace("$", "")
        .replace("%", "")
    )
    text = text.replace(" or ", " , ").replace(" and ", " , ")
    for word, power in (("million", 6), ("billion", 9), ("trillion", 12)):
        text = text.replace(word, f"*10^{power}")
    for unit in _UNITS:
        text = re.sub(rf"{unit}(es)?(s)? *(\^[0-9]+)?", "", text)
    text = re.sub(r"\^ *\\circ", "", text)
    text = text[1:-1] if text[:1] == "{" and text[-1:] == "}" else text
    text = re.sub(r",\\! *", "", text)
    text = re.sub(r"([0-9]) +([0-9])", r"\1+\2", re.sub(r"- *", "-", _spelled(text))).replace(" ", "")
    text = text.replace("{", "").replace("}", "").lower()
    return str(int(float(text.replace(",", "")))) if _integer(text) else text


_MARKS = {
    "\\pi": "pi",
    "\\infty": "inf",
    "\\cup": "U",
    "\\cdot": "*",
    "\\times": "*",
    "\\left": "",
    "\\right": "",
    "\\,": " ",
    "\\ ": " ",
}


def _spelled(text: str) -> str:
    """LaTeX as the text that pylatexenc makes of it, for what occurs in answers."""
    text = re.sub(r"\\[dt]?frac", r" \\frac", text)
    before = None
    while before != text:
        before = text
        text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", text)
        text = re.sub(r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)", text)
        text = re.sub(r"\\(?:text|mathrm|mathbf|mbox)\{([^{}]*)\}", r"\1", text)
    for mark, word in _MARKS.items():
        text = text.replace(mark, word)
    return text.strip()
