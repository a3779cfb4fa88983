"""A file of rows by key: what was filed is found, whatever happened to the process that filed it."""

from __future__ import annotations

import errno
import fcntl
import json
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.storage.ledger import Ledger, content_key
from openvlt.storage.locks import lock_folder


def test_rows_are_found_again_by_any_process(tmp_path):
    file, keys = tmp_path / "calls.jsonl", [content_key("row", number) for number in range(5000)]
    with Ledger(file) as ledger:
        assert keys[0] not in ledger and ledger.get(keys[0]) is None
        for number, key in enumerate(keys):
            ledger.append(key, {"text": f"数 \u2028 {number}"})
            assert key in ledger
        assert ledger.get(keys[17]) == {"text": "数 \u2028 17"} and len(ledger) == 5000
    with Ledger(file) as again:
        assert all(
            again.get(keys[number])["text"].endswith(f" {number}") for number in (0, 1, 2047, 2048, 4999)
        )
        assert content_key("row", 5000) not in again and [row["key"] for row in again.rows()] == keys


def test_the_first_row_of_a_key_counts_and_nothing_is_filed_twice(tmp_path):
    with Ledger(tmp_path / "calls.jsonl") as ledger:
        ledger.append(content_key(1), {"a": 1})
        ledger.append(content_key(1), {"a": 2})
        assert ledger.get(content_key(1)) == {"a": 1} and len(ledger) == 1
    assert (tmp_path / "calls.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize("left", [1, 5, 30, -1])
def test_a_half_written_last_row_is_forgotten_and_may_be_filed_again(tmp_path, left):
    file = tmp_path / "calls.jsonl"
    with Ledger(file) as ledger:
        ledger.append(content_key(1), {"a": "学"})
        whole = file.stat().st_size
        ledger.append(content_key(2), {"b": "学"})
    text = file.read_bytes()
    file.write_bytes(text[:whole] + text[whole:][:left])
    with Ledger(file) as ledger:
        assert ledger.get(content_key(1)) == {"a": "学"} and content_key(2) not in ledger
        ledger.append(content_key(2), {"b": "学"})
    assert file.read_bytes() == text


@pytest.mark.parametrize("foreign", ['{"id": 1}', '{"key": "short"}', "", '{"key": "' + "x" * 32 + '"}'])
def test_a_file_that_is_no_ledger_is_not_touched_and_its_line_is_named(tmp_path, foreign):
    file = tmp_path / "rows.jsonl"
    with Ledger(file) as ledger:
        ledger.append(content_key(1), {"a": 1})
    text = file.read_text() + foreign + "\n"
    file.write_text(text)
    with pytest.raises(
        UserError, match=r"rows.jsonl, line 2 has no key, so this is no ledger; restore the file"
    ):
        Ledger(file)
    assert file.read_text() == text


def test_a_row_that_was_spoilt_is_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    with Ledger(file) as ledger:
        ledger.append(content_key(1), {"a": 1})
        ledger.append(content_key(2), {"a": 2})
    file.write_text(file.read_text().replace('"a": 2}', '"a": 2'))
    with Ledger(file) as ledger:
        assert ledger.get(content_key(1)) == {"a": 1}
        with pytest.raises(UserError, match="rows.jsonl, line 2 is not valid JSON"):
            ledger.get(content_key(2))
        with pytest.raises(UserError, match="line 2 is not valid JSON"):
            list(ledger.rows())


def test_two_writers_of_one_file_find_each_its_rows(tmp_path):
    file = tmp_path / "judge.jsonl"
    with Ledger(file) as one, Ledger(file) as other:
        for number in range(800):  # the locks of two open files exclude each other within a process too
            one.append(content_key("one", number), {"text": f"one {number}" * (1 + number % 7)})
            other.append(content_key("other", number), {"text": f"other {number}" * (1 + number % 5)})
            for ledger in (one, other):
                ledger.append(content_key("shared", number), {"text": "shared"})
        for number in (0, 1, 699, 799):
            assert one.get(content_key("one", number)) == {"text": f"one {number}" * (1 + number % 7)}
            assert other.get(content_key("other", number)) == {"text": f"other {number}" * (1 + number % 5)}
            assert (
                one.get(content_key("shared", number))
                == other.get(content_key("shared", number))
                == {"text": "shared"}
            )
        one.append(content_key("last"), {})
        assert len(one) == 3 * 800 + 1 and one.get(content_key("other", 799)) == other.get(
            content_key("other", 799)
        )
    assert len(file.read_text().splitlines()) == 3 * 800 + 1


def test_a_file_system_without_locks_serves_one_writer(tmp_path, monkeypatch):
    def none_here(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_here)
    with lock_folder(tmp_path), Ledger(tmp_path / "rows.jsonl") as ledger:
        ledger.append(content_key(1), {"a": 1})
        assert ledger.get(content_key(1)) == {"a": 1}


def test_a_folder_is_one_process_s_at_a_time(tmp_path):
    with lock_folder(tmp_path):
        other = f"from openvlt.storage.locks import lock_folder\nfrom pathlib import Path\nwith lock_folder(Path({str(tmp_path)!r})): print('mine')"
        done = subprocess.run(
            [sys.executable, "-c", other], capture_output=True, text=True, cwd=Path(__file__).parents[2]
        )
        assert done.returncode == 1 and "BlockingIOError" in done.stderr and not done.stdout
    with lock_folder(tmp_path):
        pass


def test_a_line_that_another_process_is_writing_is_waited_for_not_cut_off(tmp_path):
    file, key = tmp_path / "judge.jsonl", content_key(1)
    line = json.dumps({"key": key, "a": 1}).encode() + b"\n"
    with file.open("ab", buffering=0) as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        writer.write(line[:20])
        opened: list[Ledger] = []
        thread = threading.Thread(target=lambda: opened.append(Ledger(file)))
        thread.start()
        thread.join(0.2)
        assert not opened
        writer.write(line[20:])
        fcntl.flock(writer, fcntl.LOCK_UN)
    thread.join()
    with opened[0] as ledger:
        assert ledger.get(key) == {"a": 1}


def test_keys_follow_the_content():
    assert (
        content_key({"a": 1, "b": [2]}) == content_key({"b": [2], "a": 1}) != content_key({"a": 1, "b": [3]})
    )
    assert len(content_key("x")) == 32 and content_key("ab", "c") != content_key("a", "bc")


def test_memory_is_that_of_the_keys_not_of_the_rows(tmp_path):
    with Ledger(tmp_path / "calls.jsonl") as ledger:
        ledger.append(content_key("warm"), {"text": "x" * 1000})
        tracemalloc.start()
        for number in range(4000):
            ledger.append(content_key(number), {"text": "x" * 1000})
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert used < 1e6  # 4 MB of rows


def test_another_rank_reads_the_file_and_keeps_its_own_rows_in_memory(tmp_path, monkeypatch):
    file, (one, two) = tmp_path / "calls.jsonl", (content_key(1), content_key(2))
    with Ledger(file) as ledger:
        ledger.append(one, {"a": "学"})
    text = file.read_bytes() + b'{"key": "half'
    file.write_bytes(text)
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    with Ledger(file) as ledger:
        ledger.append(two, {"b": 2})
        ledger.append(two, {"b": 3})
        assert len(ledger) == 2 and ledger.get(one) == {"a": "学"} and ledger.get(two) == {"b": 2}
        assert [row["key"] for row in ledger.rows()] == [one, two]
    with Ledger(tmp_path / "none" / "calls.jsonl") as ledger:
        ledger.append(one, {"a": 1})
        assert one in ledger
    assert file.read_bytes() == text and not (tmp_path / "none").exists()
