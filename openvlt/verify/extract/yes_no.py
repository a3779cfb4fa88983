"""Tells whether a sentence says yes or no: `It isn't true`, `No doubt: yes`, `No solution exists`."""

from __future__ import annotations

import re

from openvlt.verify import denial_words as w
from openvlt.verify.parse.number_words import YES_NO

_CERTAIN = re.compile(
    r"\b(?:there(?:['’]s| is) )?(?:no|without(?: a| any)?|beyond(?: a| any| all)?)"
    r"(?: reasonable| shadow of a)? (?:doubt|question)\b(?: about (?:it|that|this)\b)?(?: that\b)?|毫无疑问",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"\b(?:maybe|perhaps|possibly|possible that|probably|likely|might|may|could|unclear|unsure|unknown|"
    r"uncertain|doubt\w*|not (?:sure|certain|clear|necessarily)|whether|if|depends?|depending|either|or|"
    r"neither|seems?|appears?|sometimes|hard to (?:say|tell))\b|"
    r"(?:cannot|can['’]t) (?:say|tell|be|determine)|"
    r"也许|可能|不一定|不确定|是否|或",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"(?P<not>\bnot\s+(?:\w+\s+)?|n['’]t\s+(?:\w+\s+)?)?\b(?P<word>yes|yeah|yep|true|correct|no|nope|false|incorrect|"
    r"wrong)\b(?P<noun>\s+(?!(?:it|its|they|there|the|this|that|these|those|he|she|we|you|i|because|since|as|not|and|"
    r"but|for|in|at|to|on|is|are|was|when|only)\b)[a-z]+)?",
    re.IGNORECASE,
)
"""A word for yes or no; before a noun (`no solution`, `the correct option`) it says something else."""
_LEADING = re.compile(
    r"\W*(?:(?:so|thus|hence|therefore|well|definitely|clearly|certainly|simply|of course)\b\W*)?",
    re.IGNORECASE,
)
_BOTH = re.compile(r"\W*(?:(?:or|and)\W+)?(yes|no|true|false)\b(?!\s+[a-z])", re.IGNORECASE)
_CORRECTED = re.compile(
    r"\b(?:wait|actually|sorry|correction)\W+(?:it(?:['’]s| is) )?(yes|no|true|false)\b", re.IGNORECASE
)
_LEADING_CHINESE = re.compile(
    r"\W*(?:(是的?|对的?|正确|真)|不是|不对|不正确|不|否|错误?|没有|没|假)(?=[,.;:，。；：\s]|$)"
)
_SHORT_ANSWER = re.compile(
    r"\b(?:it|they|this|that|he|she|there) (?:is|are|was|were|does|do|did|can|will|has|have)"
    r"(n['’]t| not)?\W*$",
    re.IGNORECASE,
)
"""`It is.`, `they do not`: says yes or no without the word."""


_SPOKEN = (
    YES_NO
    | dict.fromkeys(("absolutely", "definitely", "certainly", "of course", "indeed", "sure"), True)
    | dict.fromkeys(("not really", "not true", "not correct", "not right", "not at all", "not so"), False)
    | {"i think so": True, "i don't think so": False, "i do not think so": False, "i don’t think so": False}
    | dict.fromkeys(("absolutely not", "definitely not", "certainly not", "of course not"), False)
)
"""Whole answers that say yes or no."""


def is_truth(text: str) -> bool:
    """Whether a text is a word or two for yes or no, and nothing else."""
    return " ".join(text.split()).strip(" .\"'*!()").casefold() in _SPOKEN


def read_truth(text: str) -> bool | None:
    """True for a text that says yes, False for no; None if it doubts, says both, or says neither.

    A word at the beginning counts whatever explains it after that; elsewhere all of them must agree.
    """
    text = " ".join(text.split())
    bare = text.strip(" .\"'*!()").casefold()
    if bare in _SPOKEN:
        return _SPOKEN[bare]
    chinese = _LEADING_CHINESE.match(text)
    if chinese:
        return chinese[1] is not None
    text = _CERTAIN.sub(" ", text)
    said = [
        match for match in _STATED.finditer(text) if not match["noun"] or match["word"].casefold() == "yes"
    ]
    if said and _LEADING.fullmatch(text, 0, said[0].start()):
        return _leading_truth(text, said[0])
    if _DOUBT.search(text) or text.rstrip().endswith("?") or w.OPINION.search(text.lower()):
        return None
    if said:
        truths = {_truth(match) for match in said}
        return truths.pop() if len(truths) == 1 else None
    short = _SHORT_ANSWER.search(text)
    return short[1] is None if short else None


def _leading_truth(text: str, first: re.Match[str]) -> bool | None:
    """The truth of the word that a text begins with; None for a question and for `yes or no`."""
    truth, end = _truth(first), first.end("word")
    corrected = _CORRECTED.search(text, end)
    if corrected:
        return YES_NO[corrected[1].casefold()]
    both = _BOTH.match(text, end)
    asked = text[end:].lstrip().startswith("?")
    return None if asked or both and YES_NO[both[1].casefold()] != truth else truth


def begins_with_truth(text: str) -> bool:
    """Whether a text answers with yes or no and goes on, if at all, with the reason."""
    return _BEGINS.match(text) is not None and read_truth(text) is not None


_BEGINS = re.compile(r"\W*(?:yes|no|true|false)\b|\W*(?:是的|是(?=[,，。])|否|没有)", re.IGNORECASE)


def _truth(match: re.Match[str]) -> bool:
    return YES_NO[match["word"].casefold()] != bool(match["not"])
