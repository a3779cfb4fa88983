"""Finds the last announced answer ("the answer is …") that is not corrected or withdrawn after it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from openvlt.types import Verdict
from openvlt.verify.denial_words import may_deny
from openvlt.verify.denials import drop_denied, lower_case, tidy
from openvlt.verify.extract import patterns as p
from openvlt.verify.extract.conclusion import NAMED, find_conclusion, is_cut_off
from openvlt.verify.extract.markup import drop_emphasis
from openvlt.verify.extract.structured import join_lines
from openvlt.verify.extract.yes_no import is_truth
from openvlt.verify.parse.normalize import clean
from openvlt.verify.parse.number_words import NOTHING, is_refusal
from openvlt.verify.parse.wording.bounds import is_bound


class Extraction(NamedTuple):
    """An extracted answer with the rule that found it.

    `text` is None where there is no answer; `verdict` is then the verdict of the response.
    """

    text: str | None
    rule: str
    verdict: Verdict = Verdict.NO_ANSWER


def is_empty_answer(text: str) -> bool:
    """Whether a text is empty or a word for "no answer"."""
    return not text or len(text) < 40 and clean(text).casefold() in NOTHING


def find_announcement(text: str, choices: Sequence[str] | None) -> Extraction | None:
    """The answer after the last "the answer is …", else after the last "the result is …", else None.

    A later correction replaces it; a denial or withdrawal without a new answer leaves none.
    """
    text = drop_emphasis(text)
    for patterns in (p.CLAIMS, p.WEAK_CLAIMS):
        claims = _find_claims(text, patterns, choices if patterns is p.CLAIMS else None)
        found = _last_claim(text, claims, patterns, choices)
        if found is not None:
            return found
    return None


Claim = tuple[int, int, str | None]
"""Start and end of an announcement, and the answer where it stands before: `(B) is correct`."""


def _find_claims(text: str, patterns: Iterable[p.Pattern], choices: Sequence[str] | None) -> list[Claim]:
    """Every announcement in `text`, in order; with `choices` also those that follow their option."""
    lower = lower_case(text)
    found: list[Claim] = []
    for pattern in patterns:
        if _has_any(pattern.triggers, lower):
            for match in pattern.regex.finditer(lower):
                start, end = match.span()
                if (pattern.before is None or pattern.before.search(text[max(0, start - 40) : start])) and (
                    pattern.after is None or pattern.after.match(text, end)
                ):
                    found.append((start, end, None))
    if choices and _has_any(p.CLAIM_BEFORE.triggers, lower):
        found += [(m.start(), m.end(), m[1] or m[2]) for m in p.CLAIM_BEFORE.regex.finditer(text)]
    return sorted(found, key=lambda claim: claim[:2])


def _has_any(words: tuple[str, ...], text: str) -> bool:
    for word in words:  # noqa: SIM110 - any() costs three times as much on so short a loop
        if word in text:
            return True
    return False


def _last_claim(
    text: str, claims: Sequence[Claim], patterns: Iterable[p.Pattern], choices: Sequence[str] | None
) -> Extraction | None:
    """The answer of the last claim that holds; an extraction without text if all of them are denied."""
    denied = False
    for claim in reversed(claims[-_MOST_CLAIMS:]):
        start, end, before = claim
        if p.CONDITIONAL.search(text[max(0, start - 200) : start]):
            continue
        answer, stop = (before, end) if before else _read_claim(text, end)
        if p.OTHERWISE.search(text[start:stop] + text[stop : stop + 120].partition("\n")[0]):
            continue
        if not choices and (is_bound(answer) or is_truth(answer)) and is_upheld(text, end, stop):
            return find_correction(text[stop:]) or Extraction(answer, "announcement")
        opening, closing = _find_window(text, start, stop)
        window = text[opening:closing]
        settled = drop_denied(window, letters=bool(choices))
        if settled != window:
            found = _settle(settled, text[closing:], patterns, choices)
            denied = denied or found is None
            if found is not None:
                return found
            continue
        if is_empty_answer(answer) or _is_option_list(answer, text[stop : stop + 40]):
            continue
        if p.NEGATED.match(answer):
            denied = True
            continue
        if is_refusal(answer, choices):
            return Extraction(None, "a refusal")
        if not _SENTENCE_END.search(text, stop) and stop < len(text) and is_cut_off(text[-100:]):
            return Extraction(None, "cut off in a sentence")
        return find_correction(text[stop:]) or Extraction(answer, "announcement")
    return Extraction(None, "the claim is denied") if denied else None


_MOST_CLAIMS = 40
"""Announcements that are looked at, from the end of a response."""
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[\n。！？]")
_WINDOW = 160
"""Characters before a claim and after it in which a denial is looked for."""


def _find_window(text: str, start: int, stop: int) -> tuple[int, int]:
    """Where the sentence of a claim begins, and where the next sentence ends."""
    opening = max(0, start - _WINDOW)
    for end in _SENTENCE_END.finditer(text, opening, start):
        opening = end.end()
    closing = min(len(text), stop + _WINDOW)
    for count, end in enumerate(_SENTENCE_END.finditer(text, min(stop + 1, len(text)), closing)):
        if count == 1 or count == 0 and text[stop : stop + 1] in ".!?\n。":
            return opening, end.end()
    return opening, closing


def is_upheld(text: str, start: int, stop: int) -> bool:
    """Whether the words around the answer at `text[start:stop]` don't deny it."""
    if not may_deny(lower_case(text[max(0, start - _WINDOW) : stop + _WINDOW])):
        return True
    opening, closing = _find_window(text, start, stop)
    return "$0$" in drop_denied(f"{text[opening:start]} $0$ {text[stop:closing]}")


def _settle(
    settled: str, rest: str, patterns: Iterable[p.Pattern], choices: Sequence[str] | None
) -> Extraction | None:
    """The answer that a claim's sentence still gives without what is denied in it, or that follows it."""
    at = 0
    for _, end, before in reversed(_find_claims(settled, patterns, choices)):
        answer, stop = (before, end) if before else _read_claim(settled, end)
        if not is_empty_answer(answer) and not p.NEGATED.match(answer):
            if is_refusal(answer, choices):
                return Extraction(None, "a refusal")
            return find_correction(settled[stop:] + rest) or Extraction(answer, "announcement")
        at = max(at, end)
    lines = [tidy(line) for line in (settled[at:] + rest[:_CORRECTION_REACH]).splitlines() if tidy(line)]
    answer, rule = find_conclusion(lines, choices)
    return Extraction(answer, "correction") if answer is not None and rule in NAMED else None


_DISPLAY = re.compile(r"(?:\\\[|\$\$|\\\()\s*(.+?)\s*(?:\\\]|\$\$|\\\))", re.DOTALL)


def _is_option_list(answer: str, following: str) -> bool:
    """Whether an answer only repeats the question's options: `(A) 1` with `(B) 2` on the next line."""
    first, following_label = re.match(r"\(?([A-Z])[).:]\s", answer), p.NEXT_OPTION.match(following)
    return bool(first and following_label and ord(following_label[1]) == ord(first[1]) + 1)


_LEAD = re.compile(r"(?:[ \t}:：】]|\*\*|__|\n[ \t]*(?:[-*+>#•]+[ \t]+)*)*")
"""What may stand before an announced answer; `-` and `>` only at the start of a line before a space."""


_PLURAL = re.compile(r"(?:answers|solutions|roots|zeros|values|results)\b[^.\n]*$", re.IGNORECASE)


def _read_claim(text: str, start: int) -> tuple[str, int]:
    """The text after an announcement, and its end: the rest of its sentence, else the next line or lines."""
    rest = text[start : start + p.TRUNCATION]
    lead = match.end() if (match := _LEAD.match(rest)) else 0
    if "\n" in rest[:lead]:
        first = rest.find("\n")
        marked = _PLURAL.search(text, max(0, start - 60), start) is None
        listed = join_lines(rest[first:].splitlines(), marked=marked)
        if listed is not None:
            return listed, start + first
    body = rest[lead:]
    if body[:1] in (".", ",", ";", "!", "?") and not body[1:2].isdigit():
        return "", start
    display = _DISPLAY.match(body)
    if display:
        return display[1].strip(), start + lead + display.end()
    if p.EMPTY.match(body):
        newline = body.find("\n")
        return _read_claim(text, start + lead + newline) if newline >= 0 else ("", start)
    stop = _find_claim_end(body)
    return body[:stop].strip().rstrip("*_ "), start + lead + stop


def _find_claim_end(body: str) -> int:
    """Where the sentence of a claim ends."""
    for match in p.END.finditer(body):
        before = body[: match.start()]
        # nothing yet, or the full stop of "B. 12 cm"
        label_only = not before.strip(" *_$(") or re.fullmatch(r"\(?[A-Z]\)?", before.strip())
        if ("\n" in match.group() or not label_only) and not _is_inside_math(before):
            return match.start()
    return len(body)


def _is_inside_math(text: str) -> bool:
    """Whether `text` ends inside `$…$` or `\\[…\\]`; `$5` is an amount."""
    return (
        text.count("$") % 2 == 1
        and not re.search(r"\$\s?\d[\d,.]*$", text)
        or text.count("\\[") > text.count("\\]")
    )


_CORRECTION_REACH = 400
"""Characters after "wait" or "actually" in which the new answer must stand."""


_NEW_CLAIM = re.compile(r"[*$\\(]*-?(?:\d|\\frac|\(?[A-Z]\b(?!\s*[\\(^_=+*/]))")


def find_correction(tail: str) -> Extraction | None:
    """The answer of a correction after a claim; a withdrawal without a new claim leaves no answer."""
    match = p.CORRECTION.search(lower_case(tail))
    if match is None:
        return None
    rest = tail[match.start() : match.start() + _CORRECTION_REACH]
    claims = list(p.WEAK_CLAIM.finditer(rest))
    for claim in reversed(claims[-_MOST_CLAIMS:]):
        answer, _ = _read_claim(rest, claim.end())
        if _NEW_CLAIM.match(answer):
            return Extraction(answer, "correction")
    return Extraction(None, "the answer was withdrawn") if p.WITHDRAWN.search(rest) else None
