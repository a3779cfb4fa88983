"""Files of rows: formats that agree, bad rows and files that are named, encodings, separators, odd lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvlt.data.rows.files import read_rows
from openvlt.data.sources.base import Selection
from openvlt.data.sources.local import LocalRows
from openvlt.errors import UserError


def test_the_three_formats_give_the_same_rows(tmp_path, write):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [{"id": "ä", "answer": "1"}, {"id": "b", "answer": "2"}]
    jsonl = write(rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    expected = [(1, rows[0]), (2, rows[1])]
    assert (
        read_rows(jsonl)
        == read_rows(tmp_path / "rows.json")
        == read_rows(str(tmp_path / "rows.parquet"))
        == expected
    )


def test_empty_lines_and_a_byte_order_mark_are_harmless_and_lines_keep_their_numbers(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \r\n{"a": 2}')
    assert read_rows(file) == [(1, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "rows.jsonl",
            b'{"a": 1}\n{"a": \n',
            r"rows\.jsonl, line 2: not valid JSON .*one whole object per line",
        ),
        (
            "rows.jsonl",
            b'{"a": 1}\n[1, 2]\n',
            r"rows\.jsonl, line 2: expected an object with named columns, got \[1, 2\]",
        ),
        ("rows.json", b'[{"a": 1},\n{"a": }]', r"rows\.json, line 2: not valid JSON"),
        ("rows.json", b'{"a": 1}\n{"a": 2}', r"name it \.jsonl"),
        ("rows.json", b'{"a": 1}', r"rows\.json: expected a list of rows"),
        ("rows.json", b"[]", r"has no rows"),
        ("rows.jsonl", b"\n", r"has no rows"),
        ("rows.jsonl", '{"a": "ä"}'.encode("latin-1"), r"is not UTF-8 text"),
        ("rows.parquet", b"PAR1 not", r"not a readable parquet file"),
        (
            "rows.txt",
            b"a,b",
            r"suffix '\.txt' is not supported; use one of \.jsonl, \.json, \.parquet, \.csv, \.tsv",
        ),
        ("rows.csv", b"a,b\n1,2,3\n", r"rows\.csv, row 1: more cells than the header has columns"),
        ("rows.tsv", b'a\tb\n1\t"2\n', r"rows\.tsv is not a readable table"),
        ("rows.csv", b"a,b\n", r"has no rows"),
    ],
)
def test_a_bad_file_is_named_with_its_line_and_the_fix(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / name)


def test_a_missing_file_is_named_with_the_folder_that_was_looked_in(tmp_path):
    with pytest.raises(UserError, match=rf"none\.jsonl does not exist \(looked in {Path.cwd()}\)"):
        read_rows(tmp_path / "none.jsonl")


def test_tables_hold_what_other_formats_do(tmp_path):
    file = tmp_path / "rows.csv"
    for content in (
        'id, question ,"A"\n\n1,"x, ""y""",\u2028z\n,,\n2,"two\nlines",b\n',
        '\ufeffid,question,A\r1,"x, ""y""",\u2028z\r2,"two\nlines",b',
    ):
        file.write_bytes(content.encode())
        assert read_rows(file) == [
            (1, {"id": "1", "question": 'x, "y"', "A": "\u2028z"}),
            (2, {"id": "2", "question": "two\nlines", "A": "b"}),
        ]


def test_marks_inside_and_old_line_ends_are_harmless(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes('\ufeff{"a": 1}\r\ufeff{"a": "\u2028"}\r\n{"a": NaN}'.encode())
    assert [number for number, _ in read_rows(file)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", "question;answer\nq;3\n", r"separated by semicolons \(';'\); save it with commas"),
        ("r.csv", "question\tanswer\nq\t3\n", r"separated by tabs .*rename it to \.tsv"),
        ("r.csv", "question|answer\nq|3\n", r"separated by bars"),
        ("r.tsv", "question,answer\nq,3\n", r"separated by commas .*rename it to \.csv"),
        ("r.csv", "question,answer,answer\nq,3,4\n", r"column 'answer' occurs twice in the header"),
        ("r.csv", "a,b\n1,2\n3\n", r"r\.csv, row 2: fewer cells than the header has columns \(1, not 2\): the row is cut"),
        ("r.jsonl", '{"a": 1, "a": 2}\n', r"line 1: key 'a' occurs twice in an object"),
        ("r.json", '[{"a": {"b": 1, "b": 2}}]', r"key 'b' occurs twice"),
        ("r.jsonl", '{"a": 1' + "0" * 5000 + "}", r"line 1: a number has too many digits"),
        ("r.jsonl", "[" * 100000, r"line 1: .*(nested too deeply|not valid JSON)"),
        ("r.jsonl", '"only text"\n', r"line 1: expected an object with named columns, got 'only text'"),
        ("r.jsonl", '{"a": "x\0y"}', r"line 1: not valid JSON \(Invalid control character"),
        ("r.csv", "schlüssel,männer\nq,3\n".encode("latin-1"), r"not UTF-8 text \(.*line 1\); it looks like CP1252: .*iconv -f CP1252"),
        ("r.jsonl", '{"a": "x"}\n{"a": "有多少个苹果"}'.encode("gbk"), r"line 2\); it looks like GB18030"),
        ("r.csv", "a,b\n1,2\n".encode("utf-16"), r"it looks like UTF-16:"),
        ("r.csv", "a,b\n1,2\n".encode("utf-16-le"), r"NUL bytes\); it looks like UTF-16LE"),
        ("r.parquet", b"PAR1" + bytes(40) + b"PAR1", r"not a readable parquet file"),
    ],
)  # fmt: skip
def test_an_odd_file_is_named_with_the_fix(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / name)


def test_bad_lines_and_cut_rows_are_skipped_and_listed(tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("id,question,answer\nq1,How many?,3\nq2,How\nq3,Why?,so\n,,\n")
    skipped: dict[str, str] = {}
    assert [row["id"] for _, row in read_rows(table, skipped)] == ["q1", "q3"]
    assert list(skipped) == [f"{table}, row 2"] and "the row is cut" in skipped[f"{table}, row 2"]
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"id": "a", "question": "Q", "answer": 1, "images": []}\n{"id": "b", "ques\n[]\n')
    source = LocalRows(str(lines), skip_bad=True)
    assert [problem.id for problem in source.problems(Selection(), 0)] == ["a"]
    assert [where.rpartition(" ")[2] for where in source.skipped] == ["2", "3"]
    table.write_text("id,question,answer\nq2,How\n")
    with pytest.raises(UserError, match=r"has no usable row \(.*row 1: fewer cells"):
        read_rows(table, {})
