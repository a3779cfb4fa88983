"""Finds the last announced answer ("the answer is …") that is not corrected or withdrawn after it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openvlt.types import Verdict
from openvlt.verify.extract import patterns as p
from openvlt.verify.parse.normalize import clean
from openvlt.verify.parse.number_words import NOTHING, is_refusal


@dataclass(frozen=True)
class Extraction:
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

    A later correction replaces it; a withdrawal without a new answer leaves none.
    """
    lower = text.lower()
    lower = lower if len(lower) == len(text) else text
    claims = _find_claims(text, lower, p.CLAIMS)
    if choices and any(trigger in lower for trigger in p.CLAIM_BEFORE.triggers):
        claims += [(m.start(), m.end(), m[1] or m[2]) for m in p.CLAIM_BEFORE.regex.finditer(text)]
    return _last_claim(text, claims, choices) or _last_claim(
        text, _find_claims(text, lower, p.WEAK_CLAIMS), choices
    )


def _find_claims(text: str, lower: str, patterns: Iterable[p.Pattern]) -> list[tuple[int, int, str | None]]:
    """`(start, end, None)` of every announcement in `text`, whose lower-case form is `lower`."""
    found: list[tuple[int, int, str | None]] = []
    for pattern in patterns:
        if any(trigger in lower for trigger in pattern.triggers):
            for match in pattern.regex.finditer(lower):
                start, end = match.span()
                if (pattern.before is None or pattern.before.search(text[max(0, start - 40) : start])) and (
                    pattern.after is None or pattern.after.match(text, end)
                ):
                    found.append((start, end, None))
    return found


def _last_claim(
    text: str, claims: list[tuple[int, int, str | None]], choices: Sequence[str] | None
) -> Extraction | None:
    """The answer of the last claim that holds; a claim is `(start, end, answer before it)`."""
    for start, end, before in sorted(claims, key=lambda claim: claim[:2], reverse=True):
        if p.CONDITIONAL.search(text[max(0, start - 200) : start]):
            continue
        answer, stop = (before, end) if before else _read_claim(text, end)
        if p.OTHERWISE.search(text[start:stop] + text[stop : stop + 120].partition("\n")[0]):
            continue
        if (
            is_empty_answer(answer)
            or p.NEGATED.match(answer)
            or _is_option_list(answer, text[stop : stop + 40])
        ):
            continue
        if is_refusal(answer, choices):
            return Extraction(None, "a refusal")
        later = find_correction(text[stop:])
        if later is None and p.TENTATIVE.search(text[max(0, start - 100) : start]):
            continue
        return later or Extraction(answer, "announcement")
    return None


_DISPLAY = re.compile(r"(?:\\\[|\$\$|\\\()\s*(.+?)\s*(?:\\\]|\$\$|\\\))", re.DOTALL)


def _is_option_list(answer: str, following: str) -> bool:
    """Whether an answer only repeats the question's options: `(A) 1` with `(B) 2` on the next line."""
    first, following_label = re.match(r"\(?([A-Z])[).:]\s", answer), p.NEXT_OPTION.match(following)
    return bool(first and following_label and ord(following_label[1]) == ord(first[1]) + 1)


def _read_claim(text: str, start: int) -> tuple[str, int]:
    """The text after an announcement and where it ends: the rest of its sentence, else the next line."""
    rest = text[start : start + p.TRUNCATION]
    body = rest.lstrip(" \n\r\t}")  # the brace of \textbf{Answer:}
    if not re.match(r"-\s*[\d\\.$(]", body):
        body = body.lstrip(" \n\r\t}:：*_#>-")
    lead = len(rest) - len(body)
    display = _DISPLAY.match(body)
    if display:
        return display[1].strip(), start + lead + display.end()
    if p.EMPTY.match(body):
        newline = body.find("\n")
        return _read_claim(text, start + lead + newline) if newline >= 0 else ("", start)
    stop = _find_claim_end(body)
    return body[:stop].strip().strip("*_ "), start + lead + stop


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


def find_correction(tail: str) -> Extraction | None:
    """The answer of a correction after a claim; a withdrawal without a new claim leaves no answer."""
    match = p.CORRECTION.search(tail)
    if match is None:
        return None
    rest = tail[match.start() : match.start() + _CORRECTION_REACH]
    claims = list(p.WEAK_CLAIM.finditer(rest))
    for claim in reversed(claims):
        answer, _ = _read_claim(rest, claim.end())
        if re.match(r"[*$\\(]*-?(?:\d|\\frac|\(?[A-Z]\b)", answer):
            return Extraction(answer, "correction")
    return Extraction(None, "the answer was withdrawn") if p.WITHDRAWN.search(rest) else None
