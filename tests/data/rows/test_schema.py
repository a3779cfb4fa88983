"""Rows <-> problems: what is read, what is refused and in which words, and that writing and reading agree."""

from __future__ import annotations

import json
import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from openvlt.data.images import open_image, open_images
from openvlt.data.rows.files import read_rows
from openvlt.data.rows.schema import Columns, problem_row, read_traces, to_problem
from openvlt.errors import UserError
from openvlt.types import Problem

HEAD = b"IHDR" + struct.pack(
    ">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0
)  # a PNG of 3.6 thousand million pixels in a few bytes
ENORMOUS = (
    b"\x89PNG\r\n\x1a\n"
    + struct.pack(">I", 13)
    + HEAD
    + struct.pack(">I", zlib.crc32(HEAD))
    + struct.pack(">I", 10)
    + b"IDAT"
    + bytes(14)
)
PLAIN = {"id": "q1", "question": "How many?", "answer": "3", "images": []}


def problem(
    row: dict, columns: Columns | None = None, root: Path = Path("."), default_id: str | None = None
) -> Problem:
    return to_problem(
        row, columns or Columns(), root=root, where="rows.jsonl, line 7", source="s", default_id=default_id
    )


# --- rows to problems ------------------------------------------------------------------------------------------------


def test_every_field_arrives_where_it_belongs(write):
    file = write([])
    full = PLAIN | {"images": ["a.png", "b.png"], "choices": ["2", 3], "answer_type": "integer", "level": "4"}
    assert problem(full, root=file.parent) == Problem(
        id="q1",
        question="How many?",
        answer="3",
        images=(file.parent / "a.png", file.parent / "b.png"),
        choices=("2", "3"),
        answer_type="integer",
        source="s",
        level=4,
    )


def test_numbers_become_text_and_the_number_of_the_row_an_id():
    made = problem({"question": 5, "answer": 2.5, "images": None, "choices": []}, default_id="rows-7")
    assert (made.id, made.question, made.answer, made.images, made.choices) == (
        "rows-7",
        "5",
        "2.5",
        (),
        None,
    )
    assert problem(PLAIN | {"id": 12}).id == "12"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": ""}, r"rows\.jsonl, line 7 \(id 'q1'\): column 'answer' is empty"),
        ({"question": " \n"}, r"column 'question' is empty"),
        ({"answer": None}, r"column 'answer' holds None \(NoneType\); expected text or a number"),
        ({"answer": ["3"]}, r"column 'answer' holds \['3'\] \(list\)"),
        ({"answer": True}, r"column 'answer' holds True \(bool\)"),
        ({"answer": float("nan")}, r"column 'answer' holds nan; expected text or a finite number"),
        ({"id": ""}, r"rows\.jsonl, line 7: column 'id' is empty"),
        ({"choices": "A B"}, r"column 'choices' holds 'A B' \(str\); expected a list"),
        (
            {"choices": ["x", "y"], "answer": 1},
            r"answer 1 is none of the choices \['x', 'y'\].*not its index",
        ),
        ({"level": "hard"}, r"column 'level' holds 'hard' \(str\); expected a whole number"),
        ({"level": 1.5}, r"column 'level' holds 1\.5"),
        ({"answer_type": 3}, r"column 'answer_type' holds 3 \(int\); expected text"),
        ({"images": 3}, r"an image is 3 \(int\); expected a path, bytes"),
        (
            {"images": ["none.png"]},
            r"\(id 'q1'\): image none\.png does not exist; image paths are relative to the data",
        ),
        ({"images": ["x" * 5000]}, r"does not exist"),
        ({"images": ["https://x.org/a.png"]}, r"image 'https://x\.org/a\.png' \(str\) is not a file"),
        ({"images": [b"not a picture"]}, r"\(id 'q1'\): 13 bytes are not a readable image"),
        (
            {"images": [ENORMOUS]},
            r"\(id 'q1'\): 55 bytes are not a readable image .*3600 million pixels, at most 179 million.*replace them",
        ),
    ],
)
def test_a_bad_cell_is_named_with_its_row(change, message):
    with pytest.raises(UserError, match=message):
        problem(PLAIN | change)


@pytest.mark.parametrize("column", ["question", "answer", "images", "id"])
def test_a_missing_column_says_which_there_are(column):
    row = {name: value for name, value in PLAIN.items() if name != column}
    with pytest.raises(
        UserError, match=rf"line 7.*no column {column} for the {column}; there are {', '.join(row)}$"
    ):
        problem(row)


def test_a_name_in_the_config_that_no_row_has_is_an_error_even_for_an_optional_field():
    Columns().check(PLAIN, "rows.jsonl")
    with pytest.raises(
        UserError, match=r"rows\.jsonl: no column optoins for the choices; there are id, question"
    ):
        Columns(choices="optoins").check(PLAIN, "rows.jsonl")
    with pytest.raises(UserError, match=r"no column pic or photo for the images"):
        Columns(images=["pic", "photo"]).check(PLAIN, "rows.jsonl")


# --- images ----------------------------------------------------------------------------------------------------------


def test_alternatives_take_the_first_filled_column_and_a_nested_list_reads_columns_together(write):
    root = write([]).parent
    base = {name: value for name, value in PLAIN.items() if name != "images"}
    alternatives = Columns(images=["images", "image", ["left", "right"]])

    def names(**cells: object) -> list[str]:
        return [image.name for image in problem(base | cells, alternatives, root).images]

    assert names(image="a.png") == ["a.png"]
    assert names(images=["b.png"], image="a.png") == ["b.png"]
    assert names(images=None, image="a.png") == ["a.png"]
    assert names(images=[], left="a.png", right=["b.png", None, "a.png"]) == ["a.png", "b.png", "a.png"]
    assert names(image=None) == []
    assert problem(base, Columns(images=None)).images == ()


def test_bytes_dicts_and_pictures_are_images_too(write):
    root = write([]).parent
    encoded, picture = (root / "a.png").read_bytes(), Image.new("RGB", (3, 2))
    cells = [encoded, {"bytes": encoded, "path": None}, {"bytes": None, "path": "b.png"}, picture]
    images = problem(PLAIN | {"images": cells}, root=root).images
    assert [open_image(image, "q1").size for image in images] == [(8, 6), (8, 6), (8, 6), (3, 2)]
    assert images[2] == root / "b.png" and images[3] is picture


def test_a_corrupt_image_is_found_when_it_is_opened_and_named_by_its_row(write):
    root = write([]).parent
    (root / "broken.png").write_bytes((root / "a.png").read_bytes()[:40])
    made = problem(PLAIN | {"images": "broken.png"}, root=root)
    with pytest.raises(UserError, match=r"row 'q1': image .*broken\.png can't be read"):
        open_images(made)


# --- problems to rows ------------------------------------------------------------------------------------------------


def test_a_problem_survives_the_round_trip(tmp_path, write):
    source, folder = write([]).parent, tmp_path / "run" / "01-traces"
    folder.mkdir(parents=True)
    picture = Image.new("RGB", (5, 4), "green")
    made = Problem("a/b:1", "Q?", "B", (source / "a.png", picture), ("x", "y"), "choice", "geos", 2)
    row = json.loads(json.dumps(problem_row(made, folder)))
    assert row["images"][0] == "../../a.png" and (folder / row["images"][1]).is_file()
    back = to_problem(row, Columns(), root=folder, where="row 1", source="geos", anywhere=True)
    assert back.images[0].samefile(source / "a.png") and open_images(back)[1].tobytes() == picture.tobytes()
    kept = ("id", "question", "answer", "choices", "answer_type", "source", "level")
    assert [getattr(back, name) for name in kept] == [getattr(made, name) for name in kept]


def test_rows_leave_out_what_is_none_but_always_say_images(tmp_path):
    assert problem_row(Problem("q", "Q?", "1"), tmp_path) == {
        "id": "q",
        "question": "Q?",
        "answer": "1",
        "images": [],
    }


def test_ids_that_are_no_file_names_never_share_a_picture(tmp_path):
    ids = ["a/b", "a_b", "a:b", "../b", "x" * 300]
    rows = [problem_row(Problem(name, "Q?", "1", (Image.new("RGB", (2, 2)),)), tmp_path) for name in ids]
    assert len({row["images"][0] for row in rows}) == len(os.listdir(tmp_path / "images")) == len(ids)


def test_a_picture_with_transparency_is_stored_as_it_will_be_seen(tmp_path):
    buffer = BytesIO()
    Image.new("CMYK", (2, 2)).save(buffer, "JPEG")
    row = problem_row(Problem("q", "Q?", "1", (Image.open(buffer),)), tmp_path)
    assert Image.open(tmp_path / row["images"][0]).mode == "RGB"


def test_traces_are_read_with_their_problems(write):
    rows = [
        PLAIN | {"images": ["../a.png"], "source": "geos", "response": text} for text in ("first", "second")
    ]
    traces = read_traces(write(rows, "01-traces/traces.jsonl"))
    assert [(trace.response, trace.origin, trace.problem.source) for trace in traces] == [
        ("first", "01-traces", "geos"),
        ("second", "01-traces", "geos"),
    ]
    with pytest.raises(UserError, match=r"traces\.jsonl, line 1: no column response for the response"):
        read_traces(write([PLAIN], "02-traces/traces.jsonl"))


# --- real files ------------------------------------------------------------------------------------------------------


def test_all_sixty_k12_rows_with_their_pictures(data_dir):
    file = data_dir / "train_sources" / "mm_eureka_k12" / "k12.json"
    columns = Columns(images=["images", "image", "image_path"])
    made = [
        to_problem(row, columns, root=file.parent, where=f"row {number}") for number, row in read_rows(file)
    ]
    assert len({item.id for item in made}) == 60
    sizes = [open_images(item)[0].size for item in made]
    assert len(set(sizes)) > 30 and all(item.question and item.answer for item in made)


def test_choices_given_with_an_index_are_refused_on_real_rows(data_dir):
    file = data_dir / "train_sources" / "scienceqa" / "problems.json"
    row = json.loads(file.read_text())["42"] | {"id": "42"}
    with pytest.raises(UserError, match=r"\(id '42'\): the answer 1 is none of the choices"):
        problem(row, Columns(images=None))
