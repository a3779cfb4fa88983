"""Traits: what a part declares about itself, where its signature can't show it.

`openvlt.grpo.validate` reads them to refuse parts that don't go together; a part of one's own declares them
the same way, function or class:

    @declare_traits("divides_by_group_std", "needs_siblings")
    def my_advantage(reward_N, group_N): ...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

Part = TypeVar("Part", bound=Callable[..., Any])

TRAITS = {  # name: what it means
    # losses
    "sequence_level": "a loss with one value per completion, (N,1)",
    "on_policy_only": "a loss that is right only for samples of the policy that is being updated",
    # loss aggregations
    "sums_tokens": "a loss aggregation under which one value per completion would count once per token",
    # advantages
    "divides_by_group_std": "an advantage in which a factor that a group's rewards share cancels",
    "needs_siblings": "an advantage whose baseline is the group: it is 0 in a group of one",
    "uses_equal_groups": "an advantage that isn't 0 everywhere in a group of equal rewards",
    # group filters
    "drops_equal_groups": "a group filter that drops groups of equal rewards",
    "keeps_all_groups": "a group filter that drops nothing",
    # advantage shaping
    "reads_dropped_groups": "advantage shaping that has to see the groups that a group filter drops",
    # resampling
    "draws_again": "resampling that may draw more problems for the same step",
    "replays_groups": "resampling that brings back groups of earlier policies",
}


def declare_traits(*names: str) -> Callable[[Part], Part]:
    """A decorator that gives a part these traits. Raises ValueError for a name that is not in `TRAITS`."""
    if unknown := sorted(set(names) - set(TRAITS)):
        raise ValueError(f"unknown traits {unknown}; they are {', '.join(TRAITS)}")

    def declare(part: Part) -> Part:
        setattr(part, "traits", frozenset(names))  # noqa: B010  a function has no such attribute to assign
        return part

    return declare


def has_trait(part: Any, name: str) -> bool:
    """Whether a part (a function, a class, an instance, or a partial of one) has declared this trait."""
    assert name in TRAITS, name
    return name in getattr(part_function(part), "traits", ())


def part_function(part: Any) -> Any:
    """What a partial calls; everything else as it is."""
    return part.func if isinstance(part, partial) else part
