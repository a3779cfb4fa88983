"""Offline difficulty: shares counted by hand, and which problems are kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from openvlt.data.prompts import PromptStyle
from openvlt.errors import UserError
from openvlt.iteration.difficulty import DifficultyFilter
from openvlt.rollout.base import Sampling
from openvlt.types import Completion


@dataclass
class Scripted:
    """Answers each problem rightly as often as told, whatever the model; notes how many problems it was given at a time."""

    right: dict[str, int]
    sizes: list[int] = field(default_factory=list)

    def generate(self, vlm, problems, prompts, sampling, seed):
        self.sizes.append(len(problems))
        assert len(prompts) == len(problems) and seed == 7
        said = []
        for problem in problems:
            good, bad = f"<answer>{problem.answer}</answer>", "<answer>999</answer>"
            texts = [good] * self.right[problem.id] + [bad] * (sampling.n - self.right[problem.id])
            said += [Completion(token_ids=(1,), text=text, finished=True, logp=(0.0,)) for text in texts]
        return said


@pytest.fixture
def screen(problems):
    counts = [4, 0, 2, 3, 4, 1, 2, 4, 0, 3, 4, 4]
    generator = Scripted({problem.id: count for problem, count in zip(problems, counts, strict=True)})
    return DifficultyFilter(generator, PromptStyle(), Sampling(4, 8), keep=4, batch=5)


def test_shares_are_right_answers_by_answers(screen, vlm, problems):
    assert screen.solve_rates(vlm, problems, 7) == [1, 0, 0.5, 0.75, 1, 0.25, 0.5, 1, 0, 0.75, 1, 1]
    assert screen.generator.sizes == [5, 5, 2]


def test_the_least_sure_problems_stay_in_their_order_the_earlier_of_equals_first(screen, vlm, problems):
    assert [problems.index(kept) for kept in screen(vlm, problems, 7)] == [2, 3, 5, 6]


def test_fewer_problems_than_are_kept_all_stay(screen, vlm, problems):
    assert screen(vlm, problems[:3], 7) == problems[:3]


@pytest.mark.parametrize("change", [{"keep": -12}, {"keep": 0}, {"batch": 0}, {"deadline_s": 0}])
def test_what_keeps_or_answers_nothing_is_refused(screen, change):
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=f"difficulty_filter.{name}={value}; it is above 0"):
        replace(screen, **change)
