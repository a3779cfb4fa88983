"""Finds the final answer of a response: in tags, else boxes, else announcements, else at the end.

Only the last part of a very long response is searched, and every pattern runs in linear time, so no response
can make this slow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from openvlt.types import Verdict
from openvlt.verify.denials import drop_denied, says_something, tidy
from openvlt.verify.extract.announced import (
    Extraction,
    find_announcement,
    find_correction,
    is_empty_answer,
    is_upheld,
)
from openvlt.verify.extract.conclusion import SENTENCE_VERB, SEVERAL, denies_in_options, find_conclusion
from openvlt.verify.extract.markup import find_final_turn
from openvlt.verify.extract.structured import find_json_answer, join_lines
from openvlt.verify.extract.yes_no import read_truth
from openvlt.verify.parse.answer import Words
from openvlt.verify.parse.normalize import MAX_ANSWER_CHARS, drop_invisible, find_closing_brace
from openvlt.verify.parse.number_words import is_refusal
from openvlt.verify.parse.reader import read_answer
from openvlt.verify.parse.wording.bounds import is_bound

EXTRACTIONS = ("tag", "box", "any")
"""Where an answer may stand: in a tag only, in a box only, or anywhere, prose included."""
TAIL = 20_000
"""Characters of a response that are searched for boxes, announcements and conclusions, from its end."""


_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BOX = re.compile(r"(?:boxed|oxed|fbox|framebox|colorbox)\s*\{")  # the backslash may be lost
_PERCENT_AFTER = re.compile(r"\s*\$?\s*(\\?%|percent\b|pct\b|per cent\b)")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s,;.$、]|\\[()\[\] ,;]|\\q?quad\b|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|和|或)*|"
    # \boxed{3} apples and \boxed{5} pears; y_1 = \boxed{3} and y_2 = \boxed{5}
    r"(?:[\s$)]|\\\))*(?:\\text\{\s*)?(?:[A-Za-z()]{1,12}\s+){0,4}(?:and|or)\b\s*\}?(?:[\s$(]|\\\()*"
    r"(?:[A-Za-z](?:_\{?\w\}?)?\s*=\s*)?"
)


def find_answer(response: str, choices: Sequence[str] | None = None, extraction: str = "any") -> Extraction:
    """The final answer of `response` and the rule that found it.

    With `extraction` "tag" or "box" only the last complete tag or box holds it; nothing is read from prose.
    """
    is_word = len(response) <= 8 and response.isalnum()
    text = response if is_word else find_final_turn(response)
    if text is None:
        return Extraction(None, "the thinking was never closed")
    if extraction == "box":
        text = drop_invisible(text[-TAIL:])
        found = _extract_box(text) or Extraction(None, "no box")
        return Extraction(None, "nothing there") if found.text and is_empty_answer(found.text) else found
    if ("nswer>" in text or "NSWER>" in text) and _TAG.search(text):
        return _extract_tag(text, choices, strict=extraction == "tag")
    if extraction == "tag":
        return Extraction(None, "no answer tag")
    return _extract_content(drop_invisible(text[-TAIL:]), "", choices)


def _extract_tag(text: str, choices: Sequence[str] | None, *, strict: bool) -> Extraction:
    """The answer in the last tag that is closed before the next one opens; none if that answer is denied."""
    opened, span, outer = -1, None, (0, 0)
    for tag in _TAG.finditer(text):
        if tag[1] and opened >= 0:
            span, outer = (opened, tag.start()), (outer[0], tag.end())
        if not tag[1]:
            outer = tag.start(), outer[1]
        opened = -1 if tag[1] else tag.end()
    if span is None:
        return Extraction(None, "the answer tag was never closed")
    if span[1] - span[0] > MAX_ANSWER_CHARS * 10:
        return Extraction(None, "an answer of more than 20,000 characters", Verdict.UNPARSED)
    if not is_upheld(text, *outer):
        return Extraction(None, "the tagged answer is denied")
    content = drop_invisible(text[slice(*span)])
    if strict and not _is_short(content) and "\\boxed" not in content:
        return Extraction(None, "the tag holds an explanation")
    return _extract_content(content, "answer tag", choices)


def _extract_content(text: str, outer: str, choices: Sequence[str] | None) -> Extraction:
    """The answer in a piece of text by the first rule that applies; `outer` is how the piece was found."""
    text = text.strip()
    if is_empty_answer(text):
        return Extraction(None, "nothing there")
    if len(text) <= 16 and text.isascii() and text.isalnum():
        return Extraction(text, outer or "bare answer")
    field = find_json_answer(text) if "{" in text else None
    if field is None and _OPEN_OBJECT.match(text):
        return Extraction(None, "the JSON object was never closed")
    if field is not None:
        return _extract_content(field, f"{outer}, JSON" if outer else "JSON", choices)
    found = _extract_box(text)
    if found is not None and choices:
        found = _find_letter_after_box(text, found, choices) or found
    found = found or find_announcement(text, choices)
    if found is None and outer and len(text) <= MAX_ANSWER_CHARS and _is_short(text):
        return _extract_short(text, outer, choices)
    found = found or _extract_bare(text, choices)
    if found.text is not None and is_empty_answer(found.text):
        return Extraction(None, "nothing there")
    return Extraction(found.text, f"{outer}, {found.rule}" if outer else found.rule, found.verdict)


_OPEN_OBJECT = re.compile(r"(?:```\w{0,8}\s*)?\{\s*\"[^{}]*\Z")


def _extract_short(text: str, outer: str, choices: Sequence[str] | None) -> Extraction:
    """The content of a tag as it stands, without denied values; lines of values are a list."""
    if "\n" in text and "\\begin" not in text:
        listed = None if choices else join_lines(text.splitlines())
        text = listed or " ".join(text.split())
    # with choices, an option may deny: "not red"
    settled = text if choices or is_bound(text) else drop_denied(text)
    if settled == text or read_truth(text) is not None:
        return Extraction(text, outer)
    if not says_something(settled):
        return Extraction(None, "the claim is denied")
    found = _extract_bare(tidy(settled), choices)
    return Extraction(found.text, f"{outer}, {found.rule}", found.verdict)


def _is_short(text: str) -> bool:
    """Whether the content of a tag is an answer and not an explanation that contains one."""
    return len(text.split()) <= 25 or "\\begin" in text or len(re.findall(r"[a-z]{3,}", text)) < 10


# ---- boxes -------------------------------------------------------------------------------------------------


def _extract_box(text: str) -> Extraction | None:
    """The last complete box that isn't denied, several side by side as a list, or a later correction."""
    boxes = list(_BOX.finditer(text))[-50:] if "box" in text or "oxed" in text else []
    if not boxes:
        return None
    spans = [
        (
            m.start() - (text[m.start() - 1 : m.start()] == "\\"),
            m.end(),
            find_closing_brace(text, m.end() - 1),
        )
        for m in boxes
    ]
    complete = _outermost_spans([span for span in spans if span[2] > 0 and text[span[1] : span[2]].strip()])
    if not complete:
        return Extraction(None, "the box was never closed or is empty")
    while complete and not is_upheld(text, complete[-1][0], complete[-1][2] + 1):
        complete.pop()
    if not complete:
        return Extraction(None, "the boxed answer is denied")
    after = text[complete[-1][2] + 1 :]
    later = find_correction(after)
    if later is not None:
        return later
    answers = _adjacent_boxes(text, complete)
    distinct = list(
        dict.fromkeys(answer if "\\begin" in answer else " ".join(answer.split()) for answer in answers)
    )
    if len(distinct) > 1:
        return Extraction(", ".join(distinct), "several boxes")
    percent = _PERCENT_AFTER.match(after)
    inner = _extract_box(distinct[0])
    return inner or Extraction(distinct[0] + (percent[1] if percent else ""), "box")


def _include_backslash(text: str, start: int) -> int:
    return start - 1 if text[start - 1 : start] == "\\" else start


_LETTER = re.compile(r"\W{0,8}(?:\\(?:text(?:bf)?|mathrm|mathbf)\s*\{)?\W{0,3}([A-Z])\b(?![A-Za-z'^_=])")


def _find_letter_after_box(text: str, box: Extraction, choices: Sequence[str]) -> Extraction | None:
    """The option letter announced after a box that holds some of that option's numbers."""
    if box.text is None or _LETTER.match(box.text):
        return None
    given = set(_DIGITS.findall(box.text))
    hold = [given < set(_DIGITS.findall(choice)) for choice in choices] if given else []
    if not any(hold):
        return None
    later = find_announcement(text[text.rfind("boxed") :], choices)
    letter = _LETTER.match(later.text) if later is not None and later.text else None
    return later if letter and any(hold[(index := ord(letter[1]) - 65) : index + 1]) else None


_DIGITS = re.compile(r"\d+(?:\.\d+)?")


def _adjacent_boxes(text: str, complete: list[tuple[int, int, int]]) -> list[str]:
    """The contents of the last box and of the boxes before it that only separators part from it."""
    answers = [text[complete[-1][1] : complete[-1][2]]]
    for earlier, later in zip(reversed(complete[:-1]), reversed(complete), strict=False):
        if not _BETWEEN_BOXES.fullmatch(text[earlier[2] + 1 : later[0]]):
            break
        answers.insert(0, text[earlier[1] : earlier[2]])
    return answers


def _outermost_spans(spans: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The boxes that are not inside another box."""
    kept: list[tuple[int, int, int]] = []
    for span in spans:
        if not kept or span[0] > kept[-1][2]:
            kept.append(span)
    return kept


# ---- bare answers ------------------------------------------------------------------------------------------


_BROKEN_DISPLAY = re.compile(r"(?m)^[ \t]*(\$\$|\\\[)[ \t]*\n\s*([^\n$]{1,300}?)[ \t]*\n[ \t]*(\$\$|\\\])")


_HEADING = re.compile(
    r"(?:In|As|So|Thus|Hence|Therefore)[ ,][a-z -]{2,60}:\s+(?=(?:\$[^$]+\$|\\\([^$]+\\\))[.\s]*$)"
)
"""`In standard form:` before nothing but a formula."""


def _join_display(text: str) -> str:
    """The text with each displayed formula on one line."""
    return _BROKEN_DISPLAY.sub(r"\1\2\3", text) if "$$" in text or "\\[" in text else text


def _extract_bare(text: str, choices: Sequence[str] | None) -> Extraction:
    """The answer of a text without tag, box and announcement."""
    lines = [line.strip() for line in _join_display(text).splitlines() if line.strip()]
    if len(lines) == 1 and not choices and is_bound(lines[0].rstrip(".")):
        return Extraction(lines[0], "bare answer")
    if len(lines) == 1 and len(lines[0]) <= 200:
        settled = drop_denied(lines[0], letters=bool(choices), words=bool(choices))
        denied = settled != lines[0] and not is_refusal(lines[0]) and not denies_in_options(choices)
        if denied and not says_something(settled) and read_truth(lines[0]) is None:
            return Extraction(None, "the claim is denied")
        if denied and _is_bare_answer(tidy(settled), choices) and says_something(settled):
            return Extraction(tidy(settled), "bare answer")
    heading = _HEADING.match(lines[0]) if len(lines) == 1 else None
    if heading:
        lines = [lines[0][heading.end() :]]
    if len(lines) == 1 and len(lines[0]) <= 200 and _is_bare_answer(lines[0], choices):
        return Extraction(lines[0], "bare answer")
    answer, rule = find_conclusion(lines, choices)
    return Extraction(answer, rule, Verdict.WRONG if rule == SEVERAL else Verdict.NO_ANSWER)


def _is_bare_answer(line: str, choices: Sequence[str] | None) -> bool:
    """Whether a line is itself an answer (a value or at most three words), not a sentence with one."""
    if is_refusal(line, choices) or SENTENCE_VERB.search(line):
        return False
    return (
        len(line.split()) <= 3
        and (line.isascii() or len(line) <= 8)
        or not isinstance(read_answer(line), Words)
    )
