"""The files that the benchmarks' authors publish, read as they are; the rows here are made up in their form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from openvlt.benchmark.rows.loading import load_rows
from openvlt.benchmark.tasks.emma import read_emma
from openvlt.errors import UserError
from openvlt.types import Problem
from tests.benchmark.test_rows_and_files import built

VISTA = {
    "question": "How far?",
    "image": "images/1.jpg",
    "choices": None,
    "unit": "m",
    "precision": 1,
    "answer": "1.2",
    "question_type": "free_form",
    "answer_type": "float",
    "metadata": {
        "language": "english", "source": "s", "category": "c", "task": "t", "context": "x", "grade": "g",
        "skills": ["arithmetic reasoning"],
    },
}  # fmt: skip


def image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 30), "red").save(file)


def write(folder: Path, name: str, rows: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(rows))
    return folder


def field(data_dir: Path) -> Path:
    return data_dir / "field" / "hallusionbench-own-file"


# --- HallusionBench.json --------------------------------------------------------------------------------------


def test_hallusionbench_gets_its_images(data_dir: Path) -> None:
    loaded = load_rows(built("hallusionbench").benchmark, str(field(data_dir) / "rows"), images=True)
    assert loaded.problems and all(
        isinstance(problem.images[0], Path) and problem.images[0].is_file() for problem in loaded.problems
    )
    assert set(loaded.left_out.values()) == {"non_image"} and not loaded.faults
    both = load_rows(built("hallusionbench_all").benchmark, str(field(data_dir) / "rows"), images=True)
    assert len(both.problems) == len(loaded.problems) + len(loaded.left_out) and not both.faults


def test_answers_to_rows_without_an_image_are_not_counted(data_dir: Path, tmp_path: Path) -> None:
    answers, words = field(data_dir) / "answers.json", [f"data_dir={field(data_dir) / 'rows'}"]
    one = built("hallusionbench", "protocol=official", *words).score_file(
        str(answers), "model_prediction", tmp_path
    )
    both = built("hallusionbench_all", "protocol=official", *words).score_file(
        str(answers), "model_prediction", tmp_path
    )
    blind = one["rows_of_other_subsets"]["non_image"]
    assert blind > 0 and len(one["without_a_row"]) == blind and not both["without_a_row"]
    assert both["total"] == one["total"] + blind and not both["rows_of_other_subsets"]


def hallusion(**columns: Any) -> dict[str, Any]:
    row = dict.fromkeys(["subcategory", "set_id", "figure_id", "question_id"], "1")
    return row | {"category": "VD", "visual_input": "1", "question": "Is it?", "gt_answer": "1"} | columns


@pytest.mark.parametrize("filename", [None, "", "./VD/gone.png"])
def test_an_image_that_should_be_there(tmp_path: Path, filename: str | None) -> None:
    rows = [hallusion(filename=filename)]
    with pytest.raises(UserError, match=r"gone.png does not exist|none of the 1 rows.*filename.*text_only"):
        load_rows(
            built("hallusionbench").benchmark,
            str(write(tmp_path, "HallusionBench.json", rows)),
            images=True,
        )


def test_some_rows_without_their_image_are_named(tmp_path: Path) -> None:
    image(tmp_path / "VD/1.png")
    rows = [hallusion(filename="./VD/1.png"), hallusion(question_id="2", filename=None)]
    folder = write(tmp_path, "HallusionBench.json", rows)
    loaded = load_rows(built("hallusionbench").benchmark, str(folder), images=True)
    assert list(loaded.faults.values()) == ["there is no image"]
    assert not load_rows(built("hallusionbench").benchmark, str(folder), images=False).faults


def test_a_limit_counts_the_rows_that_are_kept(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    blind = [hallusion(question_id=str(number), visual_input="0", filename=None) for number in range(3)]
    folder = write(tmp_path, "HallusionBench.json", [*blind, hallusion(question_id="9", filename="1.png")])
    loaded = load_rows(built("hallusionbench").benchmark, str(folder), images=True, limit=1)
    assert [problem.id for problem in loaded.problems] == ["VD_1_1_1_9"]


# --- MathVista's testmini.json, MathVerse's testmini.json -------------------------------------------------------


def test_mathvistas_object_of_rows(tmp_path: Path) -> None:
    image(tmp_path / "images/1.jpg")
    choice = {"choices": ["red ", "blue"], "question_type": "multi_choice", "answer_type": "text"}
    rows = {"7": VISTA, "8": VISTA | choice | {"answer": "blue", "precision": None, "unit": None}}
    loaded = load_rows(built("mathvista").benchmark, str(write(tmp_path, "testmini.json", rows)), images=True)
    assert [problem.id for problem in loaded.problems] == ["7", "8"] and not loaded.faults
    assert [problem.meta["query"] for problem in loaded.problems] == [
        "Hint: Please answer the question requiring a floating-point number with one decimal place and provide "
        "the final value, e.g., 1.2, 1.3, 1.4, at the end.\nQuestion: How far? (Unit: m)",
        "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\n"
        "Question: How far?\nChoices:\n(A) red \n(B) blue",
    ]


def test_every_query_of_mathvista_is_made_as_the_hub_has_it(data_dir: Path) -> None:
    from openvlt.benchmark.tasks.mathvista import mathvista_query

    file = data_dir / "recorded_outputs" / "mathvista" / "testmini.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 1000 and all(mathvista_query(row) == row["query"] for row in rows)


@pytest.mark.parametrize("content", [{}, {"1": "text"}, {"data": [VISTA]}])
def test_an_object_that_holds_no_rows(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="object that holds no rows|has no rows"):
        load_rows(built("mathvista").benchmark, str(write(tmp_path, "testmini.json", content)), images=True)


def test_mathverses_images_lie_in_a_folder_of_that_name(tmp_path: Path) -> None:
    image(tmp_path / "images/images_version_1-4/image_1.png")
    row = {
        "sample_index": "1", "problem_index": "1", "problem_version": "Text Lite", "question": "Find B.",
        "image": "images_version_1-4/image_1.png", "answer": "3", "question_type": "free-form",
        "metadata": {"subject": "Plane Geometry", "subfield": "Angle"},
    }  # fmt: skip
    loaded = load_rows(
        built("mathverse").benchmark, str(write(tmp_path, "testmini.json", [row])), images=True
    )
    assert isinstance(loaded.problems[0].images[0], Path) and loaded.problems[0].images[0].is_file()


def test_a_text_only_version_is_asked_without_an_image(data_dir: Path, tmp_path: Path) -> None:
    rows = json.loads((data_dir / "mathverse_sample" / "testmini_text_only.json").read_text())
    folder = write(tmp_path, "testmini_text_only.json", rows)
    assert len(load_rows(built("mathverse").benchmark, str(folder), images=True).problems) == 788


# --- EMMA's labels ----------------------------------------------------------------------------------------------


def emma(**columns: Any) -> Problem:
    row = {"pid": "Coding_1", "question": "Which?", "options": ["a", "b"], "answer": "A"}
    row |= {"subject": "Coding", "type": "Multiple choice", "category": "", "task": ""}
    return read_emma(row | columns, "Coding")


def test_labels_of_coding_stand_apart() -> None:
    cells = emma(category="Polar; Alignment, Orientation, & Position;3D", task="Modify With Image").meta[
        "cells"
    ]
    assert cells["category"] == (
        "Coding: Polar",
        "Coding: Alignment, Orientation, & Position",
        "Coding: 3D",
    )
    assert cells["task"] == ("Coding: Modify With Image",) and cells["type"] == "multiple choice"
    assert emma().meta["cells"]["task"] == () and emma().meta["cells"]["category"] == ()
    assert emma(subject="Math", category="a;b").meta["cells"]["category"] == ("Math: a;b",)


def test_a_question_that_stands_in_the_image() -> None:
    asked = built("emma", "protocol=openvlt").protocol.prompt(emma(question=""))
    assert asked.question == "Answer the question shown in the image."


# --- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("response_1", "response_2"), ("response1", "response2"), ("response-0", "response-1")]
)
def test_samples_in_columns(tmp_path: Path, names: tuple[str, str]) -> None:
    from openvlt.benchmark.rows.responses import read_responses

    rows = [{"id": "1", names[1]: "B", names[0]: "A"}, {"id": "2", names[1]: None, names[0]: "C"}]
    write(tmp_path, "answers.json", rows)
    recorded = read_responses(str(tmp_path / "answers.json"), ["id"], "response")
    assert [(answer.id, answer.sample, answer.response) for answer in recorded] == [
        ("1", 0, "A"),
        ("1", 1, "B"),
        ("2", 0, "C"),
        ("2", 1, ""),
    ]
