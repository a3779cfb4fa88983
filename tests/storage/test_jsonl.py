"""JSON lines survive a kill at any byte."""

import json

import pytest

from openvlt.errors import UserError
from openvlt.storage.jsonl import append_lines, read_lines

ROWS = [{"id": "a", "text": "two\u2028lines"}, {"id": "b", "text": "é" * 50_000}]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "rows.jsonl"


def test_rows_come_back(file):
    append_lines(file, ROWS[:1])
    append_lines(file, ROWS[1:])
    assert read_lines(file) == ROWS


def test_no_file_has_no_rows(file):
    assert read_lines(file) == [] and not file.exists()


@pytest.mark.parametrize("bytes_left", [0, 1, 20, 40, 60, 70_000, 100_060])
def test_a_cut_off_line_is_forgotten_and_the_next_one_is_whole(file, bytes_left):
    append_lines(file, ROWS)
    whole = file.read_bytes()
    file.write_bytes(whole[:bytes_left])
    kept = [
        row for row in ROWS if whole.index(b"\n", whole.index(json.dumps(row["id"]).encode())) < bytes_left
    ]
    assert read_lines(file) == kept
    assert file.read_bytes() == whole[:bytes_left], "reading wrote"
    append_lines(file, [{"id": "c"}])
    assert read_lines(file) == [*kept, {"id": "c"}]


def test_a_broken_line_is_named_with_its_number(file):
    file.write_text('{"id": 1}\nnot json\n')
    with pytest.raises(UserError, match="line 2 is not valid JSON"):
        read_lines(file)
