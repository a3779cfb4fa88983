"""Handwritten digits: training and held-out scans and values disjoint, pictures made of the scans they name."""

from __future__ import annotations

import itertools
import random
import sys

import pytest

pytest.importorskip("sklearn")

from openvlt.data.errors import ExcludedLevels  # noqa: E402
from openvlt.data.sources.base import Selection  # noqa: E402
from openvlt.data.synthetic import digits, figures  # noqa: E402
from openvlt.data.synthetic.sources import Digits, Figures  # noqa: E402
from openvlt.errors import UserError  # noqa: E402
from openvlt.types import Problem  # noqa: E402

SPLITS = ("train", "val", "test")


def generate_digits(amount: int, *, split: str, seed: int) -> list[Problem]:
    return Digits().problems(Selection(amount=amount, split=split), seed)


def test_scans_are_split_without_overlap_and_show_the_digit_they_stand_for():
    from sklearn.datasets import load_digits

    target = load_digits().target
    parts = {split: set(itertools.chain(*digits.digit_scans(split).values())) for split in SPLITS}
    assert set.union(*parts.values()) == set(range(1797)) and sum(map(len, parts.values())) == 1797
    for split, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        for digit, rows in digits.digit_scans(split).items():
            assert {target[row] for row in rows} == {digit}
            assert abs(len(rows) - share * sum(target == digit)) <= 1


def test_values_reach_nine_and_are_disjoint_between_splits():
    made = {split: generate_digits(200, split=split, seed=2) for split in SPLITS}
    values = {split: {tuple(p.meta["values"].values()) for p in part} for split, part in made.items()}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not values[one] & values[other]
    assert {value for combination in values["train"] for value in combination} == set(range(10))
    assert len({(p.meta["caption"], p.question) for p in made["test"]}) == 200


def test_answers_are_right_and_problems_say_where_they_come_from():
    for problem in generate_digits(200, split="train", seed=1):
        expression = problem.question.removeprefix("What is ").removesuffix("?")
        assert int(problem.answer) == eval(expression, {}, dict(problem.meta["values"])) >= 0
        assert problem.source == "digits" and problem.id.startswith("digits-train-1-")


def test_the_same_seed_gives_the_same_pictures():
    first, again, other = (generate_digits(12, split="test", seed=seed) for seed in (1, 1, 2))
    assert [p.images[0].tobytes() for p in first] == [p.images[0].tobytes() for p in again]
    assert first[0].images[0].tobytes() != other[0].images[0].tobytes()


@pytest.mark.parametrize("size", [56, 112])
def test_three_quadrants_hold_one_colour_each_in_reading_order(size):
    for seed in range(20):
        picture = digits.draw_digits(
            "train", "digits", {"red": 8, "green": 3, "blue": 0}, random.Random(seed), size
        )
        assert picture.size == (size, size) and picture.mode == "RGB"
        cell, found = size // 2, []
        for quadrant in range(4):
            left, top = quadrant % 2 * cell, quadrant // 2 * cell
            inked = (
                picture.crop((left, top, left + cell, top + cell))
                .resize((1, 1), box=None, resample=4)
                .getpixel((0, 0))
            )
            if min(inked) < 250:
                found.append(list(figures.COLOURS)[inked.index(max(inked))])
        assert found == ["red", "green", "blue"]


def test_held_out_pictures_use_held_out_scans_only(monkeypatch):
    used = []
    pick = random.Random.choice
    monkeypatch.setattr(
        random.Random, "choice", lambda self, items: used.append(pick(self, items)) or used[-1]
    )
    digits.draw_digits("test", "digits", {"red": 1, "green": 2, "blue": 3}, random.Random(0))
    assert len(used) == 3 and all(
        row in digits.digit_scans("test")[digit] for row, digit in zip(used, (1, 2, 3), strict=True)
    )


def test_pretraining_covers_numbers_up_to_forty_five():
    totals, pictures = set(), 0
    for trace in Digits(lesson_amount=400).pretraining_traces(0):
        pictures += len(trace.problem.images)
        totals |= {
            int(line.split("=")[1])
            for line in trace.response.replace(".", ",").split(",")
            if line.count("=") == 1 and "+" in line
        }
    assert 180 < pictures < 300 and max(totals) >= 30 and len(totals) > 25


def test_the_source_selects_like_figures():
    problems = Digits(size=84).problems(Selection(amount=5, levels=(3,), split="test"), 0)
    assert len(problems) == 5 and {problem.level for problem in problems} == {3}
    assert problems[0].images[0].size == (84, 84)
    with pytest.raises(UserError, match=r"digits: levels are \[9\]; choose from \[1, 2, 3, 4\]"):
        Digits().problems(Selection(levels=(9,)), 0)
    with pytest.raises(UserError, match=r"split is 'dev'"):
        generate_digits(1, split="dev", seed=0)


@pytest.mark.parametrize("source", [Digits, Figures])
def test_levels_left_out_of_the_source_are_not_drawn(source):
    assert {problem.level for problem in source(levels=[3]).problems(Selection(amount=6), 0)} == {3}
    with pytest.raises(ExcludedLevels, match=r"levels \[1, 3\] wanted, data\.levels has \[3\]"):
        source(levels=[3]).problems(Selection(amount=6, levels=[1, 3]), 0)
    with pytest.raises(UserError, match=r"levels are \['a'\]; choose from \[1, 2, 3, 4\]"):
        source(levels=["a"]).problems(Selection(amount=6, levels=[1, 3]), 0)


def test_a_missing_scikit_learn_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits._scans.cache_clear()
    with pytest.raises(
        UserError, match=r"data=digits needs the package scikit-learn; run: pip install scikit-learn"
    ):
        digits._scans()
