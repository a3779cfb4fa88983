"""Intervals for scores."""

from __future__ import annotations

import math

Z95 = 1.959963984540054


def wilson(correct: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927): 95 % by default. Raises ValueError on counts that can't be."""
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"wilson: {correct} of {n} is no proportion")
    share, spread = correct / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    low, high = centre - half, centre + half
    return (0.0 if correct == 0 else low), (1.0 if correct == n else high)
