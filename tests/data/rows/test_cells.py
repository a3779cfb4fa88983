"""Cells: texts that no model can read are refused, lists and objects as text are read."""

from __future__ import annotations

import pytest

from openvlt.data.rows.cells import check_text, parse_cell
from openvlt.errors import UserError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("half \ud83d", r"half a character \(\\ud83d, letter 6\)"),
        ("\udc00x", r"half a character"),
        ("a\0b", r"the character NUL \(letter 2\)"),
        ("\boxed{3}", r"control character before 'oxed': \\boxed written with one backslash; in JSON write \\\\boxed"),
        ("x \frac{1}{2}", r"\\frac written with one backslash"),
        ("2 \times 3", r"\\times written"),
        ("\theta", r"\\theta written"),
        ("a \text{cm}", r"\\text written"),
        ("x \neq 3", r"\\neq written"),
        ("\right)", r"\\right written"),
        ("\rho = 1", r"\\rho written"),
        ("\beta", r"\\beta written"),
    ],
)  # fmt: skip
def test_a_text_that_no_model_can_read_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        check_text(text, "row 1")


@pytest.mark.parametrize(
    "text",
    [
        "é 有 😀 \u200b",
        "two\nlines\tand a tab\r\n",
        "\\frac{1}{2} \\times",
        "a\n\nequal",
        "\tnew",
        "page\x0c1",
    ],
)
def test_other_texts_stay_as_they_are(text):
    assert check_text(text, "row 1") == text


def test_lists_and_objects_as_text():
    assert parse_cell('["a", null]') == ["a", None] and parse_cell("['a', None]") == ["a", None]
    assert parse_cell(' {"a": 1}\n') == {"a": 1}
    for text in ("[1, 2", "[see above]", "(1, 2)", "3", "{x}", "", "[" * 5000 + "]" * 5000):
        assert parse_cell(text) == text
    assert parse_cell(3) == 3 and parse_cell(None) is None
