"""Cuts of a verified trace before SFT: cut its reflections, drop it when it is long, or keep it whole."""

from __future__ import annotations

import re
from collections.abc import Sequence

from openvlt.verify import extract

_PARTS = re.compile(r"^(?P<open>\s*<think>)(?P<thought>.*?)(?P<rest></think>.*)$", re.DOTALL)
KEYWORDS = (
    "Wait",
    "But wait",
    "But the question",
    "Hmm",
    "Alternatively",
    "Let me double-check",
    "Let me verify",
)


def cut_reflections(trace: str, *, keywords: Sequence[str] = KEYWORDS) -> str | None:
    """Cuts a trace's reasoning at its first reflection; the final answer stays.

    Paper, section 3: split at keywords, drop what follows. A keyword counts where a sentence starts with it.
    A trace that would lose all of its reasoning is dropped (None).
    """
    parts = _PARTS.match(trace)
    if parts is None:
        return trace
    starts = "|".join(re.escape(keyword) for keyword in sorted(keywords, key=len, reverse=True))
    found = re.search(rf"(?:^\s*|(?<=[.!?\n])\s*|(?<=[.!?])\s+)(?:{starts})\b", parts["thought"])
    if found is None:
        return trace
    kept = parts["thought"][: found.start()].rstrip()
    return f"{parts['open']}{kept}{parts['rest']}" if kept.strip() else None


def tag_chain(trace: str, choices: Sequence[str] | None = None) -> str:
    """Puts a reasoner's chain into `<think>` and `<answer>` tags.

    R1 leaves out `<think>`, with which its prompt ends, and boxes its answer.
    """
    if "</think>" in trace and "<think>" not in trace:
        trace = f"<think>{trace}"
    if "<answer>" not in trace and (answer := extract(trace, choices=choices)) is not None:
        thought = trace.partition("</think>")[0] if "</think>" in trace else f"<think>{trace}"
        trace = f"{thought}</think><answer>{answer}</answer>"
    return trace


def drop_long(trace: str, *, max_words: int = 500) -> str | None:
    """Drops a trace (None) of more than `max_words` words: the paper's alternative filter."""
    return trace if len(trace.split()) <= max_words else None


def keep_whole(trace: str) -> str:
    """Returns the trace as it is: the paper's unfiltered control."""
    return trace
