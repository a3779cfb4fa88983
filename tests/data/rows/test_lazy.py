"""Large files: rows in the order that small ones have, made when asked for, and odd ones named where they are met."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openvlt.data.errors import BadRows, MissingColumn, TooFewProblems
from openvlt.data.fingerprint import Fingerprints
from openvlt.data.rows import load
from openvlt.data.rows.columns import Columns
from openvlt.data.rows.files import open_rows, read_rows
from openvlt.data.rows.ids import check_unique_ids
from openvlt.data.rows.lazy import LazyProblems, problem_finder, problem_ids
from openvlt.data.sources import usable
from openvlt.data.sources.base import Selection
from openvlt.data.sources.hub import HubRows
from openvlt.data.sources.local import LocalRows
from openvlt.data.sources.mixture import Mixture
from openvlt.data.sources.usable import check_source
from openvlt.errors import UserError
from openvlt.grpo.collect.sampler import EasyFirst, NearHalf, Shuffled
from openvlt.types import Problem

NO_IMAGES = Columns(images=None)
ALL = Selection()


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as large; two of its rows are looked at before a run."""
    monkeypatch.setattr(load, "LARGE", 0)
    monkeypatch.setattr(usable, "SAMPLE", 2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [{"id": f"q{n}", "question": f"{n} + 1?", "answer": str(n + 1), "level": n % 3} for n in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "rows.jsonl"


def ids(source: Any, seed: int = 0, **selection: Any) -> str:
    return " ".join(problem.id for problem in source.problems(Selection(**selection), seed))


# --- the same rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_seed_draws_the_rows_that_it_always_drew(
    size: str, file: Path, request: pytest.FixtureRequest
) -> None:
    if size == "large":
        request.getfixturevalue("large")
    source = LocalRows(str(file), columns=NO_IMAGES, heldout=0.2)
    assert ids(source) == "q10 q6 q11 q1 q12 q14 q2 q8"
    assert ids(source, 7, amount=5) == "q14 q10 q8 q6 q1"
    assert ids(source, split="test") == "q7 q15 q4 q5" and ids(source, split="val") == "q9 q13 q0 q3"
    assert ids(source, 3, levels=(1,)) == "q1 q10"
    mixture = Mixture({"a": source, "b": source})
    assert ids(mixture, 5, amount=6) == "b/q11 a/q1 a/q14 b/q14 a/q11 b/q1"
    assert ids(mixture, 5, sources={"a": 3, "b": 1}, amount=4) == "a/q1 a/q11 a/q14 b/q1"
    assert isinstance(source.problems(ALL, 0), LazyProblems) == (size == "large")


def test_problems_are_the_same_in_every_format(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [row for _, row in read_rows(file)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.jsonl", "rows.json", "rows.parquet"):
        source = LocalRows(str(tmp_path / name), columns=NO_IMAGES)
        eager = source.problems(ALL, 4)
        with monkeypatch.context() as patch:
            patch.setattr(load, "LARGE", 0)
            lazy = source.problems(ALL, 4)
            assert isinstance(lazy, LazyProblems) and list(lazy) == eager
            assert [problem.place for problem in lazy] == [problem.place for problem in eager]
            assert list(lazy[3:5]) == eager[3:5] and lazy[-1] == eager[-1]


def test_a_large_parquet_file_is_read_from_the_disk_and_without_its_pictures(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    write([])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = (tmp_path / "a.png").read_bytes()
    rows = [
        {"question": f"Q{n}?", "answer": "1", "images": [{"bytes": data, "path": None}]} for n in range(5)
    ]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    source = LocalRows(str(tmp_path / "rows.parquet"))
    eager = source.problems(ALL, 1)
    monkeypatch.setattr("openvlt.data.rows.formats.IN_MEMORY", 0)
    rows_of = open_rows(tmp_path / "rows.parquet")
    assert rows_of.large and "images" not in next(rows_of.scan(without=("images",)))[1]
    lazy = source.problems(ALL, 1)
    assert isinstance(lazy, LazyProblems) and list(lazy) == eager and lazy[0].images[0].data == data
    hub = HubRows(str(tmp_path / "rows.parquet"))
    assert isinstance(hub.problems(ALL, 1), LazyProblems) and hub.problems(ALL, 1)[0].images[0].data == data


def test_lines_are_found_again_whatever_ends_them(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes('\ufeff{"a": "ä"}\r\ufeff{"a": 2}\r\r\n\n  {"a": "\u2028"}\r\n{"a": 4}'.encode())
    rows = open_rows(file)
    scanned = list(rows.scan())
    assert [number for number, _ in scanned] == [1, 2, 5, 6]
    assert [(number, rows.read(number)) for number, _ in scanned] == scanned
    assert rows.place(5) == f"{file}, line 5"


def test_a_folder_with_metadata_is_its_rows(write: Callable[..., Path], tmp_path: Path) -> None:
    write([{"file_name": "a.png", "question": "Which colour?", "answer": "red"}], "metadata.jsonl")
    columns = Columns(images=("images", "file_name"))
    (problem,) = LocalRows(str(tmp_path), columns=columns).problems(ALL, 0)
    assert problem.images == (tmp_path / "a.png",) and problem.id == f"{tmp_path.name}-1"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty is a folder without metadata\.jsonl; .*data=hub"):
        LocalRows(str(tmp_path / "empty")).problems(ALL, 0)


# --- odd rows -----------------------------------------------------------------------------------------------------------


def spoil(file: Path, line: int, text: str) -> None:
    lines = file.read_text().splitlines()
    lines[line - 1] = text
    file.write_text("\n".join(lines))


def none_bad() -> Callable[[Sequence[Problem]], list[UserError | None]]:
    return lambda problems: [None] * len(problems)


@pytest.mark.parametrize(
    "text, reason",
    [
        ('{"id": "x", ', r"line 5: not valid JSON"),
        ('{"question": "?", "answer": "1", "level": "high"}', r"line 5.*'level' holds 'high'"),
        (
            '{"id": "q3", "question": "?", "answer": "1"}',
            r"id 'q3' occurs twice, in .*line 4 and in .*line 5",
        ),
    ],
)
def test_what_an_index_needs_is_checked_in_every_row(large: None, file: Path, text: str, reason: str) -> None:
    spoil(file, 5, text)
    with pytest.raises(UserError, match=reason):
        LocalRows(str(file), columns=NO_IMAGES).problems(ALL, 0)
    source = LocalRows(str(file), columns=NO_IMAGES, skip_bad=True)
    assert len(source.problems(ALL, 0)) == 15 and list(source.skipped) == [f"{file}, line 5"]


def test_another_fault_stops_the_run_when_the_row_is_drawn_or_the_next_takes_its_place(
    large: None, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(file, 9, '{"id": "q8", "question": "How many?", "answer": ""}')
    strict = check_source(LocalRows(str(file), columns=NO_IMAGES), none_bad).problems(ALL, 0)
    place = problem_ids(strict).index("q8")
    assert place > 2 and strict[place - 1].id != "q8"
    with pytest.raises(BadRows, match=r"rows is bad: .*line 9 .*'answer' is empty.*data\.skip_bad=true"):
        strict[place]
    assert "16 rows, of which 2 are checked now" in capsys.readouterr().out
    source = check_source(LocalRows(str(file), columns=NO_IMAGES, skip_bad=True), none_bad)
    lenient = source.problems(ALL, 0)
    assert lenient[place] == lenient[(place + 1) % 16] and list(source.skipped) == [f"{file}, line 9"]
    assert len({problem.id for problem in lenient}) == 15


def test_few_rows_of_a_large_file_are_all_checked(
    large: None, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(file, 9, '{"id": "q8", "question": "How many?", "answer": ""}')
    source = LocalRows(str(file), columns=NO_IMAGES)
    few = problem_ids(source.problems(ALL, 0)).index("q8") + 1
    monkeypatch.setattr(usable, "SAMPLE", few)
    assert isinstance(check_source(source, none_bad).problems(Selection(at_most=few - 1), 0), list)
    with pytest.raises(BadRows, match=rf"^1 of {few + 1} rows is bad: .*line 9"):
        check_source(source, none_bad).problems(Selection(at_most=few), 0)


def test_more_rows_than_there_are_is_told_before_they_are_read(large: None, file: Path) -> None:
    source = check_source(LocalRows(str(file), columns=NO_IMAGES), none_bad)
    with pytest.raises(TooFewProblems, match="17 problems wanted, 16 there"):
        source.problems(Selection(amount=17), 0)
    assert len(source.problems(Selection(amount=15), 0)) == 15


def test_a_column_that_no_row_has_raises_at_once(large: None, file: Path) -> None:
    with pytest.raises(MissingColumn, match="no column problem for the question"):
        LocalRows(str(file), columns=replace(NO_IMAGES, question="problem")).problems(ALL, 0)


def test_a_file_that_changes_is_read_again_and_never_half(large: None, file: Path) -> None:
    source = LocalRows(str(file), columns=NO_IMAGES)
    before = source.problems(ALL, 0)
    assert source.problems(ALL, 0).row_index.open_row is before.row_index.open_row  # the index is kept
    spoil(file, 1, json.dumps({"id": "new", "question": "An altogether longer question?", "answer": "1"}))
    with pytest.raises(UserError, match=r"line \d+: the file has changed since it was read first"):
        list(before)
    assert "new" in problem_ids(source.problems(ALL, 0))


def test_another_answer_in_a_large_file_is_noticed(large: None, file: Path, tmp_path: Path) -> None:
    prints, source = Fingerprints(tmp_path, "rows.jsonl"), LocalRows(str(file), columns=NO_IMAGES)
    prints.check("train", source.problems(ALL, 0))
    prints.check("train", source.problems(ALL, 0))
    with pytest.raises(UserError, match="16 rows then, 16 now, and they differ"):
        prints.check("train", source.problems(ALL, 1))
    spoil(file, 1, '{"id": "q0", "question": "0 + 1?", "answer": "2", "level": 0}')
    with pytest.raises(UserError, match="16 rows then, 16 now, and they differ"):
        prints.check("train", source.problems(ALL, 0))


# --- who uses them ------------------------------------------------------------------------------------------------------


def test_samplers_draw_the_same_from_both(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = LocalRows(str(file), columns=NO_IMAGES)
    eager = source.problems(ALL, 0)
    monkeypatch.setattr(load, "LARGE", 0)
    lazy = source.problems(ALL, 0)
    for sampler in (Shuffled, EasyFirst, NearHalf):
        one, other = sampler(eager, 3), sampler(lazy, 3)
        for step in range(5):
            drawn = one.next(4, step)
            assert drawn == other.next(4, step)
            one.observe({drawn[0].id: 1.0})
            other.observe({drawn[0].id: 1.0})


def test_a_worker_finds_the_row_of_a_problem_in_use(large: None, file: Path) -> None:
    lazy = LocalRows(str(file), columns=NO_IMAGES).problems(ALL, 0)
    find_row, open_row = problem_finder(lazy)
    drawn = EasyFirst(lazy, 1).next(3, 0)
    assert [open_row(find_row(problem)) is problem for problem in drawn] == [True] * 3
    assert find_row(replace(drawn[0])) is None  # another one, though equal


def test_a_mixture_of_a_large_and_a_small_part(file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "few.jsonl").write_text('{"id": "z", "question": "1 + 1?", "answer": "2"}\n')
    few = LocalRows(str(tmp_path / "few.jsonl"), columns=NO_IMAGES)
    mixture = Mixture({"many": LocalRows(str(file), columns=NO_IMAGES), "few": few})
    eager = mixture.problems(ALL, 2)
    monkeypatch.setattr(load, "LARGE", 5)
    lazy = mixture.problems(ALL, 2)
    assert isinstance(lazy, LazyProblems) and list(lazy) == eager
    check_unique_ids(lazy, "mixture")
    assert lazy.digest() == mixture.problems(ALL, 2).digest() != mixture.problems(ALL, 3).digest()
    assert {lazy.place(row).partition(", ")[0] for row in range(17)} == {
        str(file),
        str(tmp_path / "few.jsonl"),
    }
