"""Finding the final answer in a response: tags, then boxes, then announcements, then a bare answer at the end.

Only the last part of a very long response is looked at, and every pattern is linear, so no response can hold this up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from openvlt.types import Verdict
from openvlt.verify.extract.announced import Found, find_announcement, find_correction, says_nothing
from openvlt.verify.extract.conclusion import SENTENCE_VERB, SEVERAL, conclusion
from openvlt.verify.parse.answer import Words
from openvlt.verify.parse.normalize import has_balanced_braces, visible
from openvlt.verify.parse.number_words import refuses
from openvlt.verify.parse.reader import read_answer

TAIL = 20_000
"""Characters of a response that are searched for boxes, announcements and conclusions, from its end."""
MAX_ANSWER = 2_000


_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_CONTROL = re.compile(r"<\|[a-z_]{1,30}\|>|</?s>|<eos>|<end_of_turn>", re.IGNORECASE)
_BOX = re.compile(r"\\?(?:boxed|oxed|fbox|framebox|colorbox)\s*\{")
_PERCENT_AFTER = re.compile(r"\s*\$?\s*(\\?%|percent\b|pct\b|per cent\b)")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s,;.$、]|\\[()\[\] ,;]|\\q?quad\b|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|和|或)*"
)


def find_answer(response: str, choices: Sequence[str] | None = None) -> Found:
    """The final answer of `response` and the rule that found it."""
    cut = response.rfind("</think>")
    if cut >= 0:
        response = response[cut + 8 :]
    elif "<think>" in response:
        return Found(None, "the thinking was never closed")
    if ("nswer>" in response or "NSWER>" in response) and _TAG.search(response):
        return _tagged(response, choices)
    return _content(_CONTROL.sub("", visible(response[-TAIL:])), "", choices)


def _tagged(text: str, choices: Sequence[str] | None) -> Found:
    """The last opening tag that is closed before the next one opens."""
    opened, span = -1, None
    for tag in _TAG.finditer(text):
        if tag[1] and opened >= 0:
            span = opened, tag.start()
        opened = -1 if tag[1] else tag.end()
    if span is None:
        return Found(None, "the answer tag was never closed")
    if span[1] - span[0] > MAX_ANSWER * 10:
        return Found(None, "an answer of more than 20,000 characters", Verdict.UNPARSED)
    return _content(visible(text[slice(*span)]), "answer tag", choices)


def _content(text: str, outer: str, choices: Sequence[str] | None) -> Found:
    """The answer in a piece of text by the first rule that applies."""
    text = text.strip()
    if says_nothing(text):
        return Found(None, "nothing there")
    if len(text) <= 16 and text.isascii() and text.isalnum():
        return Found(text, outer or "bare answer")
    found = _boxed(text) or find_announcement(text, choices)
    if found is None and outer and len(text) <= MAX_ANSWER and _is_short(text):
        return Found(" ".join(text.split()) if "\\begin" not in text else text, outer)
    found = found or _bare(text, choices)
    if found.text is not None and says_nothing(found.text):
        return Found(None, "nothing there")
    return Found(found.text, f"{outer}, {found.rule}" if outer else found.rule, found.verdict)


def _is_short(text: str) -> bool:
    return len(text.split()) <= 25 or "\\begin" in text or len(re.findall(r"[a-z]{3,}", text)) < 10


# ---- boxes ---------------------------------------------------------------------------------------------------------


def _boxed(text: str) -> Found | None:
    """The last complete box, or a list of boxes that stand side by side; a correction after it counts more."""
    boxes = list(_BOX.finditer(text))[-50:]
    spans = [(m.start(), m.end(), has_balanced_braces(text, m.end() - 1)) for m in boxes]
    complete = _outermost([span for span in spans if span[2] > 0 and text[span[1] : span[2]].strip()])
    if not complete:
        return Found(None, "the box was never closed or is empty") if boxes else None
    after = text[complete[-1][2] + 1 :]
    later = find_correction(after)
    if later is not None:
        return later
    answers = _side_by_side(text, complete)
    distinct = list(
        dict.fromkeys(answer if "\\begin" in answer else " ".join(answer.split()) for answer in answers)
    )
    if len(distinct) > 1:
        return Found(", ".join(distinct), "several boxes")
    percent = _PERCENT_AFTER.match(after)
    return _boxed(distinct[0]) or Found(distinct[0] + (percent[1] if percent else ""), "box")


def _side_by_side(text: str, complete: list[tuple[int, int, int]]) -> list[str]:
    """The contents of the last box and of those before it with nothing but separators between."""
    answers = [text[complete[-1][1] : complete[-1][2]]]
    for earlier, later in zip(reversed(complete[:-1]), reversed(complete), strict=False):
        if not _BETWEEN_BOXES.fullmatch(text[earlier[2] + 1 : later[0]]):
            break
        answers.insert(0, text[earlier[1] : earlier[2]])
    return answers


def _outermost(spans: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    kept: list[tuple[int, int, int]] = []
    for span in spans:
        if not kept or span[0] > kept[-1][2]:
            kept.append(span)
    return kept


# ---- bare answers --------------------------------------------------------------------------------------------------


def _bare(text: str, choices: Sequence[str] | None) -> Found:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0]) <= 200 and _stands_alone(lines[0], choices):
        return Found(lines[0], "bare answer")
    answer, rule = conclusion(lines, choices)
    return Found(answer, rule, Verdict.WRONG if rule == SEVERAL else Verdict.NO_ANSWER)


def _stands_alone(line: str, choices: Sequence[str] | None) -> bool:
    """A value, or at most three words: not a sentence that has to be searched for its answer."""
    if refuses(line, choices) or SENTENCE_VERB.search(line):
        return False
    return (
        len(line.split()) <= 3
        and (line.isascii() or len(line) <= 8)
        or not isinstance(read_answer(line), Words)
    )
