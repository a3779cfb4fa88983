"""OpenVLThinker's own scoring, rewritten from yihedeng9/OpenVLThinker.

There it is evaluation/run_evaluation.py and verify_mathverse_gpt4.py. The answer is the text of the last
`<answer>…</answer>`. It has to equal the gold without regard to case, or to MathRuler's grader. That grader
normalises both texts and lets sympy subtract them; here an exact comparison of our own takes sympy's place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from openvlt.benchmark.prompts import OPTION_LETTERS, fill_template
from openvlt.benchmark.protocol import Answer, Case, JudgeModel
from openvlt.benchmark.scorers.formula import same_expression
from openvlt.benchmark.scorers.text import matching_brace
from openvlt.types import Problem, Verdict


def extract_tagged(response: str) -> list[str]:
    """The last answer between tags; [] without a closing tag."""
    return [response.split("<answer>")[-1].split("</answer>")[0].strip()] if "</answer>" in response else []


def extract_boxed_or_announced(response: str) -> list[str]:
    """The last box and the text after the last "answer:", as their script reads models without tags."""
    found, start = [], response.rfind("\\boxed{")
    if start != -1 and (end := matching_brace(response, start + len("\\boxed{"))) is not None:
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
    """Scores the extracted candidates of each response; one that equals the gold is enough.

    With `letters` a gold that is an option's text becomes its letter. A judge is asked only with a `prompt`.
    """
    found = [extract(case.response) for case in cases]
    golds = [gold_letter(case.problem) if letters else case.problem.answer for case in cases]
    if prompt is not None and judge is not None:
        return _ask_judge(cases, found, judge, prompt)
    answers = []
    for gold, candidates in zip(golds, found, strict=True):
        correct = any(
            gold.lower() == answer.lower() or grade_mathruler(gold, answer) for answer in candidates
        )
        answers.append(Answer.of(candidates[0] if candidates else None, correct))
    return answers


def gold_letter(problem: Problem) -> str:
    """`process_ground_truth`: the letter of the option that equals the gold, up to J; else the gold."""
    letters = OPTION_LETTERS[:10]
    if problem.choices and problem.answer in problem.choices:
        place = problem.choices.index(problem.answer)
        return letters[place] if place < len(letters) else problem.answer
    return problem.answer


def _ask_judge(
    cases: Sequence[Case], found: Sequence[list[str]], judge: JudgeModel, prompt: str
) -> list[Answer]:
    """verify_mathverse_gpt4.py: the judge sees answers as lists, a missing one as "Failed to extract."."""
    prompts = [
        fill_template(
            prompt,
            instruction=case.problem.meta["query"],
            groundtruth=case.problem.answer,
            prediction=str(candidates or ["Failed to extract."]),
        )
        for case, candidates in zip(cases, found, strict=True)
    ]
    answers = []
    for candidates, reply in zip(found, judge.ask(prompts), strict=True):
        judgement = reply.split("Judgement: ", 1)[-1]
        verdict = Verdict.UNPARSED
        if "Yes" in judgement:
            verdict = Verdict.CORRECT
        elif "No" in judgement and candidates:
            verdict = Verdict.WRONG
        answers.append(Answer(candidates[0] if candidates else None, verdict))
    return answers


# --- MathRuler's grader -------------------------------------------------------------------------------------

_UNITS = "degree cm centimeter meter mile second minute hour day week month year foot feet inch yard".split()
_BRACKETS = "()[]"
_HENDRYCKS_REPLACEMENTS = (
    ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""),
    ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""),
)  # fmt: skip


def grade_mathruler(one: str, other: str) -> bool:
    """`mathruler.grader.grade_answer`: equal after one of two normalisations, or element by element by value.

    An integer equals only what is written as that integer, and two fractions only each other's text.
    """
    if normalise_hendrycks(one) == normalise_hendrycks(other):
        return True
    one, other = normalise_prm800k(one), normalise_prm800k(other)
    if one == other or not other or not one:
        return one == other
    left, right = split_elements(one), split_elements(other)
    if len(left) != len(right) or len(left) > 1 and (one[0], one[-1]) != (other[0], other[-1]):
        return False
    return all(_same_element(a, b) for a, b in zip(left, right, strict=True))


def _same_element(one: str, other: str) -> bool:
    fraction = r"-?[0-9]+.?/0*[1-9][0-9]*.?"
    if re.fullmatch(fraction, one) and re.fullmatch(fraction, other):
        return one == other
    if _is_integer(one) != _is_integer(other):
        return False
    names = {letter for letter in (one + other).replace("sqrt", "").replace("frac", "") if letter.isalpha()}
    if len(names) > 2 or re.search(r"\^[0-9]+\^|\^[0-9][0-9]|\^[{(]", f"{one} {other}"):
        return False
    return same_expression(one, other)


def _is_integer(text: str) -> bool:
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


def split_elements(text: str) -> list[str]:
    """The parts of a tuple or interval, else the text alone."""
    text = _without_commas(text)
    bracketed = (
        len(text) > 2
        and text[0] in _BRACKETS
        and text[-1] in _BRACKETS
        and not set(_BRACKETS) & set(text[1:-1])
    )
    return [part.strip() for part in text[1:-1].split(",")] if bracketed else [text]


def normalise_hendrycks(text: str) -> str:
    """The normalisation of the MATH data set: spaces, units in `\\text{ }`, degrees, percent, fractions."""
    text = re.sub(r"^\\text\{(.+?)\}$", r"\1", text.strip()).strip()
    for old, new in _HENDRYCKS_REPLACEMENTS:
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


def normalise_prm800k(text: str) -> str:
    """The normalisation of PRM800K: LaTeX as plain text in lower case, without units, currency and braces.

    Integers lose their decimal point.
    """
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
    text = re.sub(r"([0-9]) +([0-9])", r"\1+\2", re.sub(r"- *", "-", _latex_to_text(text))).replace(" ", "")
    text = text.replace("{", "").replace("}", "").lower()
    return str(int(float(text.replace(",", "")))) if _is_integer(text) else text


_SYMBOLS = {
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


def _latex_to_text(text: str) -> str:
    """LaTeX as the text that pylatexenc makes of it, as far as it occurs in answers."""
    text = re.sub(r"\\[dt]?frac", r" \\frac", text)
    before = None
    while before != text:
        before = text
        text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", text)
        text = re.sub(r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)", text)
        text = re.sub(r"\\(?:text|mathrm|mathbf|mbox)\{([^{}]*)\}", r"\1", text)
    for mark, word in _SYMBOLS.items():
        text = text.replace(mark, word)
    return text.strip()
