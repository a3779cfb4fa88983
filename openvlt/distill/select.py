"""Which of a problem's verified traces is kept. Each takes distinct traces (at least one) and random numbers of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence


def keep_shortest(traces: Sequence[str], rng: random.Random) -> list[str]:
    """The shortest one (paper, section 3); the first of equals."""
    return [min(traces, key=len)]


def keep_second_longest(traces: Sequence[str], rng: random.Random) -> list[str]:
    """The longest after the longest is dropped (the released selector); a single trace is kept."""
    ranked = sorted(traces, key=len)
    return [ranked[-2] if len(ranked) > 1 else ranked[0]]


def keep_random(traces: Sequence[str], rng: random.Random) -> list[str]:
    """Any one of them."""
    return [rng.choice(list(traces))]


def keep_every_trace(traces: Sequence[str], rng: random.Random) -> list[str]:
    """All of them."""
    return list(traces)
