"""What is generated and scored for each problem: completions, image views, injected texts."""

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
    """`n` completions of a problem, generated from its images under `view` at `strength`.

    They are always trained on the clean images. `train` false: they are rewarded and can be compared with,
    but are no part of the baseline or the loss.
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
    """What is generated for every problem (`specs`, by name), and the texts that join one (`inject`)."""

    def specs(self, group_size: int) -> Mapping[str, ViewSpec]: ...

    def inject(self, problem: Problem) -> Sequence[str]: ...


@dataclass(frozen=True)
class MultiViewPlan:
    """`group_size` completions from the clean images, and for every entry of `more` further ones.

    NoisyRollout has as many again. `texts(problem)` gives the injected texts.
    """

    more: Mapping[str, ViewSpec] = field(default_factory=dict)
    texts: Callable[[Problem], Sequence[str]] | None = None

    def __post_init__(self) -> None:
        if CLEAN in self.more:
            raise UserError(
                f"plan: {CLEAN!r} names the completions of the plain image; give the view another name"
            )

    def specs(self, group_size: int) -> Mapping[str, ViewSpec]:
        """What to generate for a problem, by the view's name; the clean one first."""
        return {CLEAN: ViewSpec(group_size), **self.more}

    def inject(self, problem: Problem) -> Sequence[str]:
        """The injected texts of a problem."""
        return () if self.texts is None else self.texts(problem)


def inject_gold_answer(problem: Problem) -> Sequence[str]:
    """The gold answer in its tags, without a chain (ViSurf's ground-truth row, arXiv 2510.10606)."""
    return (f"<answer>{problem.answer}</answer>",)


def tag_with_view(problem: Problem, name: str) -> Problem:
    """The problem as the generator gets it: every view has an id of its own, and so its own random draws."""
    return problem if name == CLEAN else replace(problem, id=f"{problem.id}|{name}")


def row_origin(problem: Problem, spec: ViewSpec) -> Origin:
    """The origin of a generated row."""
    if not spec.train:
        return Origin.REWARD_ONLY
    return Origin.AUXILIARY if "parent" in problem.meta else Origin.POLICY


def largest_group(rollout_plan: RolloutPlan, group_size: int, steps: int) -> int:
    """Completions of one problem that are learned from together, at a run's first or last step.

    Injected texts, and whatever a plan of one's own injects, count as one.
    """
    injected = not (isinstance(rollout_plan, MultiViewPlan) and rollout_plan.texts is None)
    return injected + max(
        sum(spec.n for spec in specs if spec.train) for specs in _ends(rollout_plan, group_size, steps)
    )


def largest_draw(rollout_plan: RolloutPlan, group_size: int, steps: int) -> int:
    """Completions of one problem that are generated at once: one view's, at a run's first or last step."""
    return max(spec.n for specs in _ends(rollout_plan, group_size, steps) for spec in specs)


def total_draw(rollout_plan: RolloutPlan, group_size: int, steps: int) -> int:
    """Completions of one problem that are generated in all views, at a run's first or last step."""
    return max(sum(spec.n for spec in specs) for specs in _ends(rollout_plan, group_size, steps))


def _ends(rollout_plan: RolloutPlan, group_size: int, steps: int) -> list[Collection[ViewSpec]]:
    return [
        resolve_schedules(rollout_plan, step, steps).specs(group_size).values() for step in (0, steps - 1)
    ]


PASS_OUTPUTS = ("logp", "sym_kl")


@dataclass(frozen=True)
class ViewPass:
    """A scoring pass over the completions under an image view. `outputs` name what it computes.

    `logp` fills `logp[<name>]`; `sym_kl` fills `stats["sym_kl:<name>"]`, the symmetric KL between the
    predictions with and without the view, ½ KL(p, q) + ½ KL(q, p) over the whole vocabulary, which is never
    stored. The view is drawn once per rollout batch and problem; a plan's completions are generated from the
    same draw.
    """

    view: Callable[..., Any]
    strength: float = 0.5
    outputs: tuple[str, ...] = ("logp",)

    def __post_init__(self) -> None:
        if unknown := set(self.outputs) - set(PASS_OUTPUTS):
            raise UserError(f"passes: outputs {sorted(unknown)} unknown; they are {', '.join(PASS_OUTPUTS)}")
