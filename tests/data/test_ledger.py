"""A file of rows by key: what was filed is found, whatever happened to the process that filed it."""

from __future__ import annotations

import tracemalloc

import pytest

from openvlt.data.ledger import Ledger, content_key


def test_rows_are_found_again_by_any_process(tmp_path):
    file, keys = tmp_path / "calls.jsonl", [content_key("row", number) for number in range(20000)]
    with Ledger(file) as ledger:
        assert keys[0] not in ledger and ledger.get(keys[0]) is None
        for number, key in enumerate(keys):
            ledger.append(key, {"text": f"数 \u2028 {number}"})
            assert key in ledger
        assert ledger.get(keys[17]) == {"text": "数 \u2028 17"} and len(ledger) == 20000
    with Ledger(file) as again:
        assert all(again.get(keys[number])["text"].endswith(f" {number}") for number in (0, 1, 8191, 8192, 19999))
        assert content_key("row", 20000) not in again and [row["key"] for row in again.rows()] == keys


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


def test_a_file_that_is_no_ledger_is_not_touched(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match="this is no ledger"):
        Ledger(tmp_path / "rows.jsonl")
    assert (tmp_path / "rows.jsonl").read_text() == '{"id": 1}\n'


def test_keys_follow_the_content():
    assert content_key({"a": 1, "b": [2]}) == content_key({"b": [2], "a": 1}) != content_key({"a": 1, "b": [3]})
    assert len(content_key("x")) == 32 and content_key("ab", "c") != content_key("a", "bc")


def test_memory_is_that_of_the_keys_not_of_the_rows(tmp_path):
    with Ledger(tmp_path / "calls.jsonl") as ledger:
        ledger.append(content_key("warm"), {"text": "x" * 1000})
        tracemalloc.start()
        for number in range(10000):
            ledger.append(content_key(number), {"text": "x" * 1000})
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert used < 1.5e6  # 10 MB of rows
