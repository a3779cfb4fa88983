"""Finding the final answer in a response: tags, then boxes, then phrases, then a bare answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from openvlt.types import Verdict
from openvlt.verify.text import balanced, plain, unwrap, visible


@dataclass(frozen=True)
class Found:
    """An extracted answer, or None and the verdict that its absence earns."""

    text: str | None
    rule: str
    verdict: Verdict = Verdict.NO_ANSWER


_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_PHRASE = re.compile(r"(?:answer|option|choice|result)\s*(?:is|:|=|：|是)\s*:?\s*([^\n]{1,200})|答案\s*(?:是|为|:|：)?\s*([^\n]{1,200})", re.I)
_NONE = {"", "none", "n/a", "unknown", "null", "nan"}


def find(response: str, choices: Sequence[str] | None = None) -> Found:
    """The final answer of `response` and the rule that found it."""
    text = visible(response)
    cut = text.rfind("</think>")
    if cut >= 0:
        text = text[cut + 8:]
    elif "<think>" in text:
        return Found(None, "the thinking was never closed")
    tags = list(_TAG.finditer(text))
    if tags:
        closing = next((i for i in range(len(tags) - 1, 0, -1) if tags[i][1] and not tags[i - 1][1]), None)
        if closing is None:
            return Found(None, "the answer tag was never closed")
        return _content(text[tags[closing - 1].end():tags[closing].start()], "answer tag")
    return _content(text, "")


def _content(text: str, outer: str) -> Found:
    boxes = list(_BOX.finditer(text))
    for match in reversed(boxes):
        end = balanced(text, match.end() - 1)
        if end > 0:
            return Found(text[match.end():end], f"{outer} box".strip())
    if boxes:
        return Found(None, "the box was never closed")
    phrases = list(_PHRASE.finditer(text))
    if phrases:
        return Found(_sentence(phrases[-1][1] or phrases[-1][2]), f"{outer} phrase".strip())
    bare = text.strip()
    if unwrap(plain(bare)).casefold() in _NONE:
        return Found(None, "nothing there")
    return Found(bare.splitlines()[-1].strip(), outer or "bare answer")


def _sentence(text: str) -> str:
    return re.split(r"(?<=[^\d])\.(?:\s|$)|。|\.$|, since|, because", text)[0].strip()
