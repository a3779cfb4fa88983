"""Choices in the forms that files have, and answers that name one of them or are refused."""

from __future__ import annotations

import pytest

from openvlt.data.rows.choices import name_choice, read_choices
from openvlt.errors import UserError

RED = ("red", "blue")


@pytest.mark.parametrize(
    "cell",
    [
        ["red", "blue"],
        ("red", "blue"),
        {"A": "red", "B": "blue"},
        {"B": "blue", "A": "red"},
        {"A": "red", "B": "blue", "C": None, "D": float("nan")},
        {"1": "red", "2": "blue"},
        {"label": ["A", "B"], "text": ["red", "blue"]},
        [["A", "red"], ["B", "blue"]],
        [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}],
        [{"key": "B", "value": "blue"}, {"key": "A", "value": "red"}],
        [{"A": "red"}, {"B": "blue"}],
        [{"text": "red"}, {"text": "blue"}],
        '["red", "blue"]',
        "['red', 'blue']",
        ' {"A": "red", "B": "blue"} ',
        ["A. red", "B. blue"],
        ["(A) red", "(B) blue"],
        ["a) red", "b) blue"],
        {"A": "A. red", "B": "B. blue"},
    ],
    ids=str,
)
def test_every_form_of_choices_gives_the_same_texts(cell):
    found = read_choices(cell)
    assert found is not None and found[0] == RED


@pytest.mark.parametrize("cell", [None, [], "", {}, "[]", float("nan")], ids=str)
def test_an_empty_cell_is_an_open_question(cell):
    assert read_choices(cell) is None


def test_texts_that_only_look_like_labels_stay():
    assert read_choices(["A", "B"]) == (("A", "B"), ())
    assert read_choices(["B. blue", "A. red"]) == (("B. blue", "A. red"), ())
    assert read_choices([1, 2.5]) == (("1", "2.5"), ())
    assert read_choices(["x", "X"]) == (("x", "X"), ())
    assert read_choices(["<image>", "<image>"]) == (("<image>", "<image>"), ())


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([str(number) for number in range(30)], r"holds 30 choices; .*at most 26"),
        (["", "x"], r"has an empty choice 1"),
        (["x", " "], r"has an empty choice 2"),
        (["x", None], r"has an empty choice 2"),
        (["red", "red", "blue"], r"has the choice 'red' twice"),
        (["red", " red "], r"has the choice 'red' twice"),
        (["A. red", "B. red"], r"has the choice 'red' twice"),
        ({"A": "red", "C": "blue"}, r"has choices A, C; labels go on without a gap"),
        ({"A": "red", "B": "", "C": "blue"}, r"has an empty choice 2"),
        ({"left": "red", "right": "blue"}, r"has the label 'left' for a choice"),
        ("red|blue", r"holds 'red\|blue' \(str\); expected a list"),
        ([{"bytes": b"x", "path": None}, {"bytes": b"y", "path": None}], r"has choice 1 .*pictures belong to"),
        (["half \ud83d", "x"], r"choice 1.*half a character"),
        (3, r"holds 3 \(int\); expected a list"),
    ],
    ids=str,
)  # fmt: skip
def test_choices_that_cannot_be_shown_are_refused(cell, message):
    with pytest.raises(UserError, match=message):
        read_choices(cell)


COLOURS = ("red", "blue", "green", "black")


@pytest.mark.parametrize(
    ("answer", "choices", "expected"),
    [
        ("B", COLOURS, "B"),
        ("blue", COLOURS, "blue"),
        ("BLUE", COLOURS, "BLUE"),
        ("b", COLOURS, "b"),
        ("(B)", COLOURS, "(B)"),
        ("B. blue", COLOURS, "B. blue"),
        ("(B) blue", COLOURS, "(B) blue"),
        ("Option B", COLOURS, "B"),
        ("A, C", COLOURS, "A, C"),
        ("2", ("1", "2", "3"), "2"),
        (2, ("1", "2", "3"), "2"),
        (2.0, ("1", "2", "3"), "2.0"),
        ("2.0", ("1", "2", "3"), "2.0"),
        ("0.5", ("1/2", "1/3"), "0.5"),
        ("a", ("a", "b"), "a"),
        ("E", ("D", "E"), "E"),
        ("AC", ("AB", "AC", "BC"), "AC"),
    ],
)
def test_an_answer_that_names_a_choice_is_taken(answer, choices, expected):
    assert name_choice(answer, str(answer), choices, (), False) == expected


@pytest.mark.parametrize(
    "answer", ["2", 2, 2.0, "2.0", "0", 0, "E", "e", "purple", "A, F", "none of these", "4)", "(E)", "E. pink", "B. red", -1]
)  # fmt: skip
def test_an_answer_that_names_no_choice_is_refused(answer):
    with pytest.raises(
        UserError, match=r"the answer .* is none of the choices \['red'.*write the letter or the text"
    ):
        name_choice(answer, str(answer), COLOURS, (), False)


def test_a_label_of_the_file_is_an_answer():
    texts, labels = read_choices({"1": "red", "2": "blue"}) or ((), ())
    assert name_choice("2", "2", texts, labels, False) == name_choice(2, "2", texts, labels, False) == "B"
