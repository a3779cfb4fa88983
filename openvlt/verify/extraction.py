"""Finding the final answer in a response: tags, then boxes, then announcements, then a bare answer at the end.

Only the last part of a very long response is looked at, and every pattern is linear, so no response can hold this up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from openvlt.types import Verdict
from openvlt.verify import phrases as p
from openvlt.verify.prose import SEVERAL, conclusion
from openvlt.verify.reading import Words, read
from openvlt.verify.text import balanced, clean, visible
from openvlt.verify.words import NOTHING, REFUSAL

TAIL = 20_000
"""Characters of a response that are searched for boxes, announcements and conclusions, from its end."""
MAX_ANSWER = 2_000


@dataclass(frozen=True)
class Found:
    """An extracted answer, or None and the verdict that its absence earns."""

    text: str | None
    rule: str
    verdict: Verdict = Verdict.NO_ANSWER


_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_CONTROL = re.compile(r"<\|[a-z_]{1,30}\|>|</?s>|<eos>|<end_of_turn>", re.IGNORECASE)
_BOX = re.compile(r"\\?(?:boxed|oxed|fbox|framebox|colorbox)\s*\{")
_BETWEEN_BOXES = re.compile(r"(?:[\s,;.$、]|\\[()\[\] ,;]|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|和|或)*")


def find(response: str, choices: Sequence[str] | None = None) -> Found:
    """The final answer of `response` and the rule that found it."""
    cut = response.rfind("</think>")
    if cut >= 0:
        response = response[cut + 8:]
    elif "<think>" in response:
        return Found(None, "the thinking was never closed")
    tags = list(_TAG.finditer(response)) if "nswer>" in response or "NSWER>" in response else []
    if tags:
        return _tagged(response, tags, choices)
    return _content(_CONTROL.sub("", visible(response[-TAIL:])), "", choices)


def _tagged(text: str, tags: list[re.Match[str]], choices: Sequence[str] | None) -> Found:
    """The last opening tag that is closed before the next one opens."""
    for index in range(len(tags) - 1, 0, -1):
        if tags[index][1] and not tags[index - 1][1]:
            inner = text[tags[index - 1].end():tags[index].start()]
            if len(inner) > MAX_ANSWER * 10:
                return Found(None, "an answer of more than 20,000 characters", Verdict.UNPARSED)
            return _content(visible(inner), "answer tag", choices)
    return Found(None, "the answer tag was never closed")


def _content(text: str, outer: str, choices: Sequence[str] | None) -> Found:
    """The answer in a piece of text by the first rule that applies."""
    text = text.strip()
    if _says_nothing(text):
        return Found(None, "nothing there")
    if len(text) <= 16 and text.isalnum():
        return Found(text, outer or "bare answer")
    found = _boxed(text, choices) or _announced(text, choices)
    if found is None and outer and len(text) <= MAX_ANSWER and _is_short(text):
        return Found(" ".join(text.split()) if "\\begin" not in text else text, outer)
    found = found or _bare(text, choices)
    if found.text is not None and _says_nothing(found.text):
        return Found(None, "nothing there")
    return Found(found.text, f"{outer}, {found.rule}" if outer else found.rule, found.verdict)


def _says_nothing(text: str) -> bool:
    return not text or len(text) < 40 and clean(text).casefold() in NOTHING


def _is_short(text: str) -> bool:
    return len(text.split()) <= 25 or "\\begin" in text or len(re.findall(r"[a-z]{3,}", text)) < 10


# ---- boxes ---------------------------------------------------------------------------------------------------------

def _boxed(text: str, choices: Sequence[str] | None) -> Found | None:
    boxes = list(_BOX.finditer(text))[-50:]
    spans = [(m.start(), m.end(), balanced(text, m.end() - 1)) for m in boxes]
    complete = [span for span in spans if span[2] > 0 and text[span[1]:span[2]].strip()]
    if not complete:
        return Found(None, "the box was never closed or is empty") if boxes else None
    last = complete[-1]
    corrected = _corrected(text[last[2] + 1:])
    if corrected is not None:
        return corrected
    answers = [text[last[1]:last[2]]]
    for earlier, later in zip(reversed(complete[:-1]), reversed(complete), strict=False):
        if not _BETWEEN_BOXES.fullmatch(text[earlier[2] + 1:later[0]]):
            break
        answers.insert(0, text[earlier[1]:earlier[2]])
    percent = re.match(r"\s*\$?\s*(\\?%)", text[last[2] + 1:last[2] + 12])
    distinct = list(dict.fromkeys(" ".join(a.split()) if "\\begin" not in a else a for a in answers))
    inner = distinct[0] + (percent[1] if percent and len(distinct) == 1 else "")
    if len(distinct) == 1 and (nested := _boxed(inner, None)) is not None:
        return nested
    return Found(inner if len(distinct) == 1 else ", ".join(distinct), "box" if len(distinct) == 1 else "several boxes")


# ---- announcements -------------------------------------------------------------------------------------------------

def _announced(text: str, choices: Sequence[str] | None) -> Found | None:
    """The last "the answer is …", else the last "the result is …", unless it is withdrawn or corrected after."""
    claims = [(m.start(), m.end(), None) for m in p.CLAIM.finditer(text)]
    if choices:
        claims += [(m.start(), m.end(), m[1] or m[2]) for m in p.CLAIM_BEFORE.finditer(text)]
    weak = [(m.start(), m.end(), None) for m in p.WEAK.finditer(text)]
    return _last_claim(text, sorted(claims)) or _last_claim(text, weak)


def _last_claim(text: str, claims: list[tuple[int, int, str | None]]) -> Found | None:
    for start, end, before in reversed(claims):
        if p.CONDITIONAL.search(text[max(0, start - 200):start]):
            continue
        answer, stop = (before, end) if before else _claimed(text, end)
        if not answer or p.NEGATED.match(answer) or _says_nothing(answer) or _lists_options(answer, text[stop:stop + 40]):
            continue
        if REFUSAL.search(answer):
            return Found(None, "a refusal")
        return _corrected(text[stop:]) or Found(answer, "announcement")
    return None


def _lists_options(answer: str, following: str) -> bool:
    """`(A) 1` with `(B) 2` on the next line repeats the question."""
    first, following_label = re.match(r"\(?([A-Z])[).:]\s", answer), p.NEXT_OPTION.match(following)
    return bool(first and following_label and ord(following_label[1]) == ord(first[1]) + 1)


def _claimed(text: str, start: int) -> tuple[str, int]:
    """What follows an announcement, up to the end of its sentence; if that is nothing, the next line."""
    rest = text[start:start + p.TRUNCATION]
    lead = len(rest) - len(rest.lstrip(" \n\r\t:：*_#>-")) if not re.match(r"\s*-\s*[\d\\.$(]", rest) else len(rest) - len(rest.lstrip())
    body = rest[lead:]
    if p.EMPTY.match(body):
        newline = body.find("\n")
        return _claimed(text, start + lead + newline) if newline >= 0 else ("", start)
    stop = _claim_end(body)
    return body[:stop].strip().strip("*_ "), start + lead + stop


def _claim_end(body: str) -> int:
    for match in p.END.finditer(body):
        if body[:match.start()].strip(" *_$(") and not re.fullmatch(r"\(?[A-Z]\)?", body[:match.start()].strip()) or "\n" in match.group():
            if not _inside_math(body[:match.start()]):
                return match.start()
    return len(body)


def _inside_math(text: str) -> bool:
    return text.count("$") % 2 == 1 and not re.search(r"\$\s?\d[\d,.]*$", text) or text.count("\\[") > text.count("\\]")


def _corrected(tail: str) -> Found | None:
    """What a correction after a claim says; a withdrawal without a new claim is no answer."""
    match = p.CORRECTION.search(tail)
    if match is None:
        return None
    rest = tail[match.start():]
    claims = list(p.WEAK_CLAIM.finditer(rest))
    for claim in reversed(claims):
        answer, _ = _claimed(rest, claim.end())
        if re.match(r"[*$\\(]*-?(?:\d|\\frac|\(?[A-Z]\b)", answer):
            return Found(answer, "correction")
    return Found(None, "the answer was withdrawn") if p.WITHDRAWN.search(rest) else None


# ---- bare answers --------------------------------------------------------------------------------------------------

def _bare(text: str, choices: Sequence[str] | None) -> Found:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0]) <= 200 and _stands_alone(lines[0]):
        return Found(lines[0], "bare answer")
    answer, rule = conclusion(lines, choices)
    return Found(answer, rule, Verdict.WRONG if rule == SEVERAL else Verdict.NO_ANSWER)


def _stands_alone(line: str) -> bool:
    """A value, or at most three words: not a sentence that has to be searched for its answer."""
    if REFUSAL.search(line):
        return False
    return len(line.split()) <= 3 and (line.isascii() or len(line) <= 8) or not isinstance(read(line), Words)
