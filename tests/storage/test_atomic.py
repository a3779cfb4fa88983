"""A file is written whole or not at all, whatever happens to its writer."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from openvlt import distributed
from openvlt.storage.atomic import atomic_write, write_json, write_text
from openvlt.storage.jsonl import append_lines


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "report.txt").write_text("old")
    return tmp_path / "report.txt"


def names(folder: Path) -> set[str]:
    return {place.name for place in folder.iterdir()}


def test_the_new_content_takes_the_place_of_the_old(file: Path) -> None:
    with atomic_write(file) as aside:
        aside.write_text("new")
        assert file.read_text() == "old" and aside.parent == file.parent
    assert file.read_text() == "new" and names(file.parent) == {"report.txt"}


def test_a_file_that_was_not_there_is_made(tmp_path: Path) -> None:
    write_text(tmp_path / "new.txt", "数 \u2028 é")
    assert (tmp_path / "new.txt").read_bytes().decode("utf-8") == "数 \u2028 é"


def test_an_error_inside_leaves_the_old_file_and_nothing_aside(file: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(file) as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "old" and names(file.parent) == {"report.txt"}


def test_a_value_that_is_no_json_leaves_the_old_file(file: Path) -> None:
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert file.read_text() == "old" and names(file.parent) == {"report.txt"}


def test_a_block_that_wrote_nothing_is_an_error_and_leaves_the_old_file(file: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(file):
        pass
    assert file.read_text() == "old"


@pytest.mark.parametrize("shared", [False, True])
def test_a_kill_leaves_the_old_file_and_the_next_writer_is_not_hindered(file: Path, shared: bool) -> None:
    writer = os.fork()
    if writer == 0:
        with atomic_write(file, shared=shared) as aside:
            aside.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(writer, 0)[1]) == signal.SIGKILL
    assert file.read_text() == "old" and len(names(file.parent)) == 2
    write_text(file, "new")
    assert file.read_text() == "new" and len(names(file.parent)) == 1 + shared


def test_processes_that_share_a_file_have_files_aside_of_their_own(file: Path) -> None:
    with atomic_write(file, shared=True) as aside:
        aside.write_text("ours")
        other = os.fork()
        if other == 0:
            with atomic_write(file, shared=True) as theirs:
                theirs.write_text("theirs")
            os._exit(0 if theirs != aside else 1)
        assert os.waitpid(other, 0)[1] == 0 and file.read_text() == "theirs"
    assert file.read_text() == "ours" and names(file.parent) == {"report.txt"}


def test_json_is_indented_text_in_utf_8(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"name": "é", "scores": [1]})
    text = (tmp_path / "results.json").read_bytes().decode("utf-8")
    assert text == '{\n  "name": "é",\n  "scores": [\n    1\n  ]\n}\n'


def test_what_another_rank_writes_goes_nowhere(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    write_text(file, "new")
    append_lines(file, [{"a": 1}])
    assert file.read_text() == "old" and names(file.parent) == {"report.txt"}
