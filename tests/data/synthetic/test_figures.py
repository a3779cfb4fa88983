"""Generated figures: answers checked by Python's own arithmetic, pictures by measuring them, splits by their values."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from PIL import Image

from openvlt.data.synthetic import figures, pretraining
from openvlt.errors import UserError
from openvlt.types import Problem

SPLITS = ("train", "val", "test")


def truth(problem: Problem) -> int:
    """The answer by Python's arithmetic, from the problem's values."""
    expression = problem.question.removeprefix("What is ").removesuffix("?")
    return eval(expression, {"__builtins__": {}}, dict(problem.meta["values"]))


def holds(equations: str) -> bool:
    """Whether every equation is true, starts where the one before ended, and no total is below 0."""
    pairs = [line.split("=") for line in equations.split(", ")]
    linked = all(right[0].startswith(left[1]) for left, right in itertools.pairwise(pairs))
    return linked and all(eval(left) == int(right) >= 0 for left, right in pairs)


def pixels(image: Image.Image, colour: str) -> set[tuple[int, int]]:
    """The (x, y) places of exactly this colour."""
    width = image.width
    data = image.tobytes()
    wanted = bytes(figures.COLOURS[colour])
    return {(i % width, i // width) for i in range(len(data) // 3) if data[3 * i : 3 * i + 3] == wanted}


def islands(places: set[tuple[int, int]]) -> int:
    """How many connected groups of places there are."""
    left, count = set(places), 0
    while left:
        count, edge = count + 1, [left.pop()]
        while edge:
            x, y = edge.pop()
            near = {(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)} & left
            left -= near
            edge += near
    return count


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("highest", "held_out"), [(5, 43), (9, 200)])
def test_splits_share_no_values_and_cover_all(highest, held_out):
    parts = {split: set(figures.combinations(split, highest)) for split in SPLITS}
    assert len(parts["test"]) == len(parts["val"]) == held_out
    assert set.union(*parts.values()) == set(itertools.product(range(highest + 1), repeat=3))
    assert sum(map(len, parts.values())) == (highest + 1) ** 3


def test_problems_of_different_splits_share_no_values_nor_questions_about_them():
    made = {split: figures.generate_figures(400, split=split, seed=3) for split in SPLITS}
    values = {split: {tuple(p.meta["values"].values()) for p in part} for split, part in made.items()}
    asked = {split: {(p.question, p.meta["caption"]) for p in part} for split, part in made.items()}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not values[one] & values[other] and not asked[one] & asked[other]
    for split in ("val", "test"):
        assert len({(p.meta["kind"], p.meta["caption"], p.question) for p in made[split]}) == 400
    assert len({p.id for part in made.values() for p in part}) == 1200


def test_more_held_out_problems_than_there_are_is_an_error():
    with pytest.raises(
        UserError, match=r"figures: 5000 test problems of bars, level 1: there aren't that many; ask for less"
    ):
        figures.generate_figures(5000, split="test", seed=0, kinds=("bars",), levels=(1,))


# --- problems --------------------------------------------------------------------------------------------------------


def test_answers_and_equations_are_right():
    for problem in figures.generate_figures(600, split="train", seed=5):
        assert int(problem.answer) == truth(problem) >= 0
        assert holds(problem.meta["equations"]) and problem.meta["equations"].endswith(f"={problem.answer}")


def test_a_level_is_its_number_of_operands_and_colours_keep_their_order():
    order = list(figures.COLOURS)
    for problem in figures.generate_figures(300, split="val", seed=1):
        names = re.findall("red|green|blue", problem.question)
        assert len(names) == problem.level + 1
        distinct = list(dict.fromkeys(names))
        assert distinct == sorted(distinct, key=order.index) and len(names) - len(distinct) <= 2


def test_kinds_and_levels_take_turns():
    made = figures.generate_figures(18, split="train", seed=0, kinds=("bars", "table"), levels=(1, 2, 2))
    assert [(p.level, p.meta["kind"]) for p in made] == list(
        itertools.product((1, 2, 2), ("bars", "table"))
    ) * 3


def test_the_same_seed_gives_the_same_pictures_and_another_gives_others():
    first, again, other = (figures.generate_figures(30, split="train", seed=seed) for seed in (1, 1, 2))
    assert [p.question for p in first] == [p.question for p in again]
    assert [p.images[0].tobytes() for p in first] == [p.images[0].tobytes() for p in again]
    assert sum(a.images[0].tobytes() == b.images[0].tobytes() for a, b in zip(first, other, strict=True)) < 3
    assert first[:10] == figures.generate_figures(10, split="train", seed=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("pie",)}, r"figures: kinds are \['pie'\]; choose from \['bars', 'shapes', 'table'\]"),
        ({"levels": (5,)}, r"figures: levels are \[5\]; choose from \[1, 2, 3, 4\]"),
        ({"levels": ()}, r"levels are \[\]"),
        ({"split": "dev"}, r"split is 'dev'; it is one of \['test', 'train', 'val'\]"),
    ],
)
def test_unknown_choices_are_errors(settings, message):
    with pytest.raises(UserError, match=message):
        figures.generate_figures(1, **({"split": "train", "seed": 0} | settings))


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [56, 84, 112])
@pytest.mark.parametrize("kind", figures.KINDS)
def test_pictures_have_the_size_asked_for(kind, size):
    picture = figures.draw_figure(kind, {"red": 5, "green": 0, "blue": 3}, random.Random(0), size)
    assert picture.size == (size, size) and picture.mode == "RGB"


def test_a_bar_is_as_high_as_its_value():
    for seed, values in enumerate(figures.combinations("val")):
        named = dict(zip(figures.COLOURS, values, strict=True))
        picture = figures.draw_figure("bars", named, random.Random(seed))
        for name, value in named.items():
            rows = {y for _, y in pixels(picture, name)}
            assert len(rows) == (1 + round(value * 52 / 5) if value else 0)


def test_there_are_as_many_shapes_as_the_value_says():
    for seed, values in enumerate(figures.combinations("val")):
        named = dict(zip(figures.COLOURS, values, strict=True))
        picture = figures.draw_figure("shapes", named, random.Random(seed))
        assert {name: islands(pixels(picture, name)) for name in named} == named


def test_every_value_looks_different_in_a_table():
    pictures = {
        figures.draw_figure("table", {"red": v, "green": 1, "blue": 1}, random.Random(0)).tobytes()
        for v in range(6)
    }
    assert len(pictures) == 6


# --- texts -----------------------------------------------------------------------------------------------------------


def test_captions_and_questions_are_read_back():
    values = {"red": 3, "green": 12, "blue": 0}
    assert figures.caption(values) == "red=3, green=12, blue=0"
    assert figures.parse_caption(f"I see {figures.caption(values)}.") == values
    assert (
        figures.parse_caption("red=3, green=1")
        is figures.parse_caption("red=3, red=1, green=1, blue=1")
        is None
    )
    assert figures.parse_question("What is red - blue + blue?") == [
        ("+", "red"),
        ("-", "blue"),
        ("+", "blue"),
    ]
    assert figures.parse_question("Describe the image.") is None
    assert figures.solve_question(values, "What is green - red + green?") == ("12-3=9, 9+12=21", 21)
    with pytest.raises(ValueError, match="not a question about figures"):
        figures.solve_question(values, "Why?")


# --- pretraining -----------------------------------------------------------------------------------------------------


def test_pretraining_never_answer_a_question_about_a_picture_and_show_training_values_only():
    train, tasks = set(figures.combinations("train")), set()
    for problem, response in pretraining.generate_pretraining(500, seed=4):
        tasks.add(problem.meta["task"])
        assert bool(problem.images) == (problem.meta["task"] == "caption")
        if problem.images:
            assert "<answer>" not in response and not re.search(r"\d[+-]\d", response)
        else:
            assert holds(re.search(r"So (.*?)\.", response)[1])
        if caption := figures.parse_caption(response if problem.images else problem.question):
            assert tuple(caption.values()) in train
    assert tasks == {"caption", "arithmetic", "algebra"}


def test_rows_of_ones_own_start_from_the_same_base_as_figures() -> None:
    """data=jsonl has no pretraining of its own: the base gets that of `Figures()`, which equals conf/data/figures.yaml."""
    from hydra import compose, initialize_config_dir

    from openvlt.config.build import build
    from openvlt.config.resolvers import CONF
    from openvlt.data.synthetic.sources import Figures

    with initialize_config_dir(str(CONF), version_base="1.3"):
        shipped = build(compose("train", ["name=x"]).data, "data")
    for name in ("kinds", "levels", "size", "lesson_amount"):
        ours, default = getattr(shipped, name), getattr(Figures(), name)
        assert (tuple(ours) if isinstance(ours, list) else ours) == default
