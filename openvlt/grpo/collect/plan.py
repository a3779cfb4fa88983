"""What is asked of each problem of a rollout: how many completions, seen through which view, and which texts are given beforehand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from openvlt.errors import UserError
from openvlt.grpo.parts.schedules import Schedule, resolve_schedules
from openvlt.types import Origin, Problem

CLEAN = "clean"


@dataclass(frozen=True)
class ViewSpec:
    """`n` completions of a problem generated while looking through `view` at `strength`; they are always trained on the clean image.

    `train` false: the rows are rewarded and compared with, but are no part of the baseline or the loss.
    """

    n: int
    view: Callable[..., Any] | None = None
    strength: float = 1.0
    train: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.n, Schedule):
            object.__setattr__(self, "n", round(self.n))  # a schedule's value may have a fraction
            if self.n < 1:
                raise UserError(f"plan: n={self.n} completions; it is at least 1")


class RolloutPlan(Protocol):
    """`specs` are the same for every problem, by name; `inject` gives texts that join a problem's group as if it had said them."""

    def specs(self, group_size: int) -> Mapping[str, ViewSpec]: ...

    def inject(self, problem: Problem) -> Sequence[str]: ...


@dataclass(frozen=True)
class MultiViewPlan:
    """`conf/recipe/*`: the group's `group_size` completions, and for every entry of `more` further ones (NoisyRollout: as many again)."""

    more: Mapping[str, ViewSpec] = field(default_factory=dict)
    texts: Callable[[Problem], Sequence[str]] | None = None

    def __post_init__(self) -> None:
        if CLEAN in self.more:
            raise UserError(
                f"plan: {CLEAN!r} names the completions of the plain image; give the view another name"
            )

    def specs(self, group_size: int) -> Mapping[str, ViewSpec]:
        """The clean view first."""
        return {CLEAN: ViewSpec(group_size), **self.more}

    def inject(self, problem: Problem) -> Sequence[str]:
        """Given texts of a problem."""
        return () if self.texts is None else self.texts(problem)


def inject_gold_answer(problem: Problem) -> Sequence[str]:
    """The known answer in its tags, without a thought (ViSurf's ground-truth row, arXiv 2510.10606)."""
    return (f"<answer>{problem.answer}</answer>",)


def tag_with_view(problem: Problem, name: str) -> Problem:
    """The problem as its generator gets it: under a name of its own, so that its draws are its own."""
    return problem if name == CLEAN else replace(problem, id=f"{problem.id}|{name}")


def row_origin(problem: Problem, spec: ViewSpec) -> Origin:
    """Where a generated row comes from."""
    if not spec.train:
        return Origin.REWARD_ONLY
    return Origin.AUXILIARY if "parent" in problem.meta else Origin.POLICY


def largest_group(rollout_plan: RolloutPlan, group_size: int, steps: int) -> int:
    """Completions of one problem that are learned from together, where a run of `steps` has most: at its beginning or at its end.

    Given texts, and whatever a plan of one's own injects, count as one.
    """
    given = not (isinstance(rollout_plan, MultiViewPlan) and rollout_plan.texts is None)
    return given + max(
        sum(spec.n for spec in specs if spec.train) for specs in _ends(rollout_plan, group_size, steps)
    )


def largest_draw(rollout_plan: RolloutPlan, group_size: int, steps: int) -> int:
    """Completions of one problem that are generated at once: each view's are drawn on their own."""
    return max(spec.n for specs in _ends(rollout_plan, group_size, steps) for spec in specs)


def _ends(rollout_plan: RolloutPlan, group_size: int, steps: int) -> list[Collection[ViewSpec]]:
    return [
        resolve_schedules(rollout_plan, step, steps).specs(group_size).values() for step in (0, steps - 1)
    ]


PASS_OUTPUTS = ("logp", "sym_kl")


@dataclass(frozen=True)
class ViewPass:
    """Fills `logp[<name>]` and, if asked for, `stats["sym_kl:<name>"]`: the symmetric KL between the predictions with and without the
    view, ½ KL(p, q) + ½ KL(q, p) over the whole vocabulary, which is never stored. One draw of the view per rollout and problem, the same
    that a plan's completions are generated from.
    """

    view: Callable[..., Any]
    strength: float = 0.5
    outputs: tuple[str, ...] = ("logp",)

    def __post_init__(self) -> None:
        if unknown := set(self.outputs) - set(PASS_OUTPUTS):
            raise UserError(f"passes: outputs {sorted(unknown)} unknown; they are {', '.join(PASS_OUTPUTS)}")
