"""Marks of pictures are places: the forms that files have, their number, and prompts with and without pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from openvlt.data.image_places import hide_images, place_images
from openvlt.data.prompts import PromptStyle, question_text
from openvlt.errors import UserError
from openvlt.types import Problem

A, B = Path("a.png"), Path("x/b.png")


def shown(problem: Problem) -> list[str]:
    """The user's turn as the model is shown it, `#` for an image."""
    return [part.get("text", "#") for part in PromptStyle().messages(problem)[-1]["content"]]


@pytest.mark.parametrize(
    ("text", "images", "expected"),
    [
        ("<image>\nHow many?", [A], ["#", "How many?"]),
        ("<image> <image>How many?", [A, B], ["#", "#", "How many?"]),
        ("How many? <image>", [A], ["How many? ", "#"]),
        ("Is <image> more than <image>?", [A, B], ["Is ", "#", " more than ", "#", "?"]),
        ("<IMAGE>Q", [A], ["#", "Q"]),
        ("Q <img>", [A], ["Q ", "#"]),
        ("Q <image/>", [A], ["Q ", "#"]),
        ("See <|vision_start|><|image_pad|><|vision_end|> now", [A], ["See ", "#", " now"]),
        ("See <|vision_start|><|image_pad|><|image_pad|><|vision_end|> now", [A], ["See ", "#", " now"]),
        ("Q <|image_pad|>", [A], ["#", "Q <|image_pad|>"]),  # a model's own mark: such a row is refused later
        ("Q <|image|> or <|image|>", [A, B], ["Q ", "#", " or ", "#"]),
        ("Q <start_of_image>", [A], ["Q ", "#"]),
        ("Q <ImageHere>", [A], ["Q ", "#"]),
        ("Q <image_placeholder>", [A], ["Q ", "#"]),
        ("Q [IMG]", [A], ["Q ", "#"]),
        ("Q <img>a.png</img>", [A], ["Q ", "#"]),
        ("Q <img src='a.png' width=3>", [A], ["Q ", "#"]),
        ("(<image>./</image>)\nQ", [A], ["(", "#", ")\nQ"]),
        ("<image 1> Q", [A], ["#", "Q"]),
        ("Q <|image_1|> <|image_2|>", [A, B], ["Q ", "#", " ", "#"]),
        ("<image>", [A], ["#"]),
        ("Plain words", [A, B], ["#", "#", "Plain words"]),
        ("Plain words", [], ["Plain words"]),
        ("Is a < b and image > 3?", [], ["Is a < b and image > 3?"]),
        ("An <imagine> tag", [], ["An <imagine> tag"]),
    ],
)
def test_a_picture_stands_where_its_mark_stood(text, images, expected):
    (question,), ordered = place_images([text], images)
    assert shown(Problem("q", question, "1", ordered)) == expected and ordered == tuple(images)


def test_numbers_and_file_names_choose_the_picture():
    assert place_images(["Q <image_2> then <image_1>"], [A, B]) == (["Q <image> then <image>"], (B, A))
    assert place_images(["Q <image 0>, <image 1>"], [A, B])[1] == (A, B)
    assert place_images(["<image1> as <image2>, not <image1>"], [A, B])[1] == (A, B, A)
    assert place_images(["Q <img>data/b.png</img> <img>a.png</img>"], [A, B])[1] == (B, A)
    # places without numbers count, and numbers then only mention a picture
    assert place_images(["<image><image>What is in <image 2>?"], [A, B])[0] == ["What is in image 2?"]


@pytest.mark.parametrize(
    ("text", "images", "message"),
    [
        ("<image><image>\nQ", [A], r"2 marks of pictures \(<image>\), but the row has 1 picture"),
        ("<image>Q", [A, B], r"the mark of a picture \(<image>\), but the row has 2 pictures"),
        ("<image>Q", [], r"but the row has no picture; .*data\.columns\.images=null"),
        ("<image 1> <image 3>", [A, B], r"the marks <image 1>, <image 3>, but the row has 2 pictures"),
        ("<image_1> Q", [A, B], r"the marks <image_1>, but the row has 2 pictures"),
        ("<image_2> Q", [A], r"the marks <image_2>, but the row has 1 picture"),
        ("<img>c.png</img> Q", [A], r"the marks name c\.png, but the pictures are a\.png"),
        ("<image>" * 3, [A], r"3 marks of pictures"),
        ("<video>\nWhat happens?", [], r"the mark <video>; only pictures"),
        ("<|audio|> Q", [A], r"the mark <\|audio\|>"),
    ],
)
def test_another_number_of_marks_than_of_pictures_is_refused(text, images, message):
    with pytest.raises(UserError, match=message):
        place_images([text], images)


def test_options_and_earlier_turns_hold_places_too():
    texts, images = place_images(
        ["Be brief.", "<image>Who?", "Which?", "<image 9>"[:7] + ">", "two"], [A, B], 1
    )
    problem = Problem("q", texts[2], "A", images, choices=tuple(texts[3:]),
                      turns=(("system", texts[0]), ("user", texts[1])))  # fmt: skip
    turns = PromptStyle(system="You see.").messages(problem)
    assert [turn["role"] for turn in turns] == ["system", "user", "user"]
    assert [[part.get("text", "#") for part in turn["content"]] for turn in turns] == [
        ["You see.\n\nBe brief."],
        ["#", "Who?"],
        ["Which?\nChoices:\n(A) ", "#", "\n(B) two"],
    ]


def test_pictures_without_marks_stand_before_the_first_user_turn():
    problem = Problem("q", "And now?", "1", (A,), turns=(("user", "Who?"), ("assistant", "Me.")))
    first, second, third = PromptStyle(instruction="Think.").messages(problem)
    assert [part["type"] for part in first["content"]] == ["image", "text"]
    assert second == {"role": "assistant", "content": [{"type": "text", "text": "Me."}]}
    assert third["content"] == [{"type": "text", "text": "And now?\nThink."}]


def test_a_model_that_sees_no_picture_sees_no_mark():
    problem = Problem("q", "First: <image> Second: <image> Same?", "A", (A, B), ("<image>", "no"),
                      turns=(("user", "<image> hi"),))  # fmt: skip
    hidden = hide_images(problem)
    assert hidden.images == () and hidden.turns == (("user", "hi"),)
    assert question_text(hidden) == "First: Second: Same?\nChoices:\n(A) a picture\n(B) no"
    prose = Problem("q", "What does <image> mean in XML?", "1")
    assert hide_images(prose) is prose and shown(prose) == ["What does <image> mean in XML?"]
