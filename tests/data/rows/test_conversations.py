"""Conversations of the common training files as rows: what is asked, what is kept before it, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openvlt.data.prompts import PromptStyle
from openvlt.data.rows.columns import Columns
from openvlt.data.rows.schema import convert_row, problem_row, to_problem
from openvlt.errors import UserError
from openvlt.types import Problem


def read(row: dict[str, Any], root: Path = Path("."), **columns: Any) -> Problem:
    """The problem of one row, as data=jsonl reads it."""
    names = Columns(**{"images": ["images", "image"], **columns})
    converted = convert_row(None, row, names, "line 1")
    return to_problem(converted, names, root=root, where="line 1", source="s", default_id="r-1")


def asked(problem: Problem) -> list[tuple[str, str]]:
    """(role, text) of every turn that the model is shown, `#` for an image."""
    return [
        (turn["role"], "".join(part.get("text", "#") for part in turn["content"]))
        for turn in PromptStyle().messages(problem)
    ]


USER, REPLY = {"role": "user", "content": "<image>How many?"}, {"role": "assistant", "content": "3"}
LLAVA = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "3"}]
PARTS = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "How many?"}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, REPLY], "images": ["a.png"]},
        {"messages": [USER, {"role": "assistant", "content": "<think>So.</think><answer>3</answer>"}], "image": "a.png"},
        {"conversations": LLAVA, "image": "a.png"},
        {"conversations": {"from": ["human", "gpt"], "value": ["<image>How many?", "3"]}, "image": "a.png"},
        {"conversations": json.dumps(LLAVA), "image": "a.png"},
        {"conversation": [{"human": "<image>How many?", "assistant": "3"}], "images": ["a.png"]},
        {"messages": [{"role": "user", "content": PARTS}, {"role": "assistant", "content": [{"type": "text", "text": "3"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, "How many?"]}, REPLY]},
        {"messages": [{"role": "user", "content": [{"image": "a.png"}, {"text": "How many?"}]}, REPLY]},
        {"messages": [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "How many?", "image": None}]}, REPLY], "images": ["a.png"]},
        {"prompt": [USER], "images": [{"path": "a.png", "bytes": None}], "reward_model": {"style": "rule", "ground_truth": "3"}},
        {"prompt": [USER], "completion": [REPLY], "images": ["a.png"]},
        {"messages": [USER], "images": ["a.png"], "solution": "<answer>3</answer>"},
        {"messages": [USER, {"role": "assistant", "content": "It is 4."}], "images": ["a.png"], "answer": "3"},
    ],
)  # fmt: skip
def test_the_common_files_ask_the_same(write, row):
    root = write([]).parent
    problem = read(row, root)
    assert asked(problem) == [("user", "#How many?")] and problem.answer == "3"
    assert [image.name for image in problem.images] == ["a.png"]


def test_earlier_turns_system_and_tools_are_kept(write):
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "zoom", "arguments": {"x": 1}}]}
    turns = [USER, call, {"role": "tool", "content": "a red bar"}, {"role": "assistant", "content": "One."},
             {"role": "user", "content": "And blue ones?"}, {"role": "assistant", "content": "The answer is 2."}]  # fmt: skip
    root = write([]).parent
    problem = read({"system": "Be brief.", "messages": turns, "images": ["a.png"]}, root)
    expected = [
        ("system", "Be brief."),
        ("user", "#How many?"),
        ("assistant", '<tool_call>\n{"name": "zoom", "arguments": {"x": 1}}\n</tool_call>'),
        ("tool", "a red bar"),
        ("assistant", "One."),
        ("user", "And blue ones?"),
    ]
    assert asked(problem) == expected and problem.answer == "2"
    back = to_problem(json.loads(json.dumps(problem_row(problem, root))), Columns(), root=root, where="x")
    assert asked(back) == expected and back.turns == problem.turns
    pairs = {"id": 1, "query": "And?", "response": "2", "history": [["Who?", "Me."]], "images": []}
    problem = read(pairs, question="query", answer="response", turns="history")
    assert asked(problem) == [("user", "Who?"), ("assistant", "Me."), ("user", "And?")]


def test_other_media_are_refused():
    with pytest.raises(UserError, match="line 1: the conversation has videos; only pictures can be shown"):
        read({"messages": [{"role": "user", "content": "Q"}, REPLY], "videos": ["v.mp4"]})


def test_a_question_beside_a_conversation_is_asked_alone():
    assert read({"question": "Q?", "answer": "1", "images": [], "messages": [USER, REPLY]}).turns == ()
    assert asked(read({"messages": [{"role": "user", "content": "Q?"}, REPLY]})) == [("user", "Q?")]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"role": "assistant", "content": "Hello"}, USER], r"line 1: the conversation has no reply after its last question"),
        ([REPLY], r"has no user turn"),
        ([{"role": "system", "content": "x"}, REPLY], r"has no user turn"),
        ([USER, REPLY, {"role": "tool", "content": "x"}, REPLY], r"goes on with tools or several turns"),
        ([USER, REPLY, REPLY], r"goes on with tools or several turns"),
        ([{"role": "narrator", "content": "x"}, USER, REPLY], r"turn 1 is from 'narrator'"),
        ([{"content": "x"}, REPLY], r"turn 1 is from None"),
        ([{"role": "user", "content": [{"type": "video", "video": "v.mp4"}]}, REPLY], r"turn 1 has a part of type 'video'"),
        ([{"role": "user", "content": 3.5j}, REPLY], r"turn 1 holds 3\.5j"),
        ([{"role": "user", "content": "<image><image> Which?"}, REPLY], r"2 marks of pictures .* 1 picture"),
        ([USER, {"role": "assistant", "content": " "}], r"column 'answer' is empty"),
        ([{"role": "user", "content": "half \ud83d<image>"}, REPLY], r"half a character"),
    ],
)  # fmt: skip
def test_a_conversation_that_asks_nothing_is_refused(write, turns, message):
    with pytest.raises(UserError, match=message):
        read({"messages": turns, "images": ["a.png"]}, write([]).parent)
