"""Which verified traces of a problem are kept: functions of its distinct traces and a random generator."""

from __future__ import annotations

import random
from collections.abc import Sequence


def keep_shortest(traces: Sequence[str], rng: random.Random) -> list[str]:
    """Keeps the shortest trace (paper, section 3); the first of equals."""
    return [min(traces, key=len)]


def keep_second_longest(traces: Sequence[str], rng: random.Random) -> list[str]:
    """Keeps the second longest trace (the released selector); a single trace is kept."""
    ranked = sorted(traces, key=len)
    return [ranked[-2] if len(ranked) > 1 else ranked[0]]


def keep_random(traces: Sequence[str], rng: random.Random) -> list[str]:
    """Keeps one trace at random."""
    return [rng.choice(list(traces))]


def keep_every_trace(traces: Sequence[str], rng: random.Random) -> list[str]:
    """Keeps all traces."""
    return list(traces)
