"""Tables as they are written down here by hand."""

from __future__ import annotations

import pytest

from openvlt.storage.markdown import format_percent, markdown_table

ROWS = [("SFT", 1), ("all of it", 12345)]


def test_a_plain_table_has_one_space_around_each_cell():
    lines = ["| stage | n |", "| --- | --- |", "| SFT | 1 |", "| all of it | 12345 |"]
    assert markdown_table(("stage", "n"), ROWS) == "\n".join(lines)


def test_the_rule_may_be_narrow():
    assert markdown_table(("a", "b", "c"), [], rule="---") == "| a | b | c |\n|---|---|---|"


def test_an_aligned_table_pads_the_first_column_on_the_right_and_the_others_on_the_left():
    lines = [
        "| stage     |     n |",
        "| --------- | ----: |",
        "| SFT       |     1 |",
        "| all of it | 12345 |",
    ]
    assert markdown_table(("stage", "n"), ROWS, aligned=True) == "\n".join(lines)


def test_a_column_is_three_wide_at_least():
    assert markdown_table(("", "n"), [], aligned=True) == "|     |   n |\n| --- | --: |"


@pytest.mark.parametrize("aligned", [False, True])
def test_a_row_with_a_cell_too_few_is_refused(aligned: bool):
    with pytest.raises(ValueError, match="cells"):
        markdown_table(("a", "b"), [("1", "2"), ("3",)], aligned=aligned)


def test_percentages_have_one_decimal():
    assert [format_percent(share) for share in (0, 0.1234, 1)] == ["0.0", "12.3", "100.0"]
