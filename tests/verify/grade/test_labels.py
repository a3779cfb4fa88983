"""Labels that agree and labels that don't."""

from __future__ import annotations

import pytest

from openvlt.verify.grade.labels import is_same_label

SAME = [
    ("AB", "BA"),
    (r"\angle ABC", r"\angle CBA"),
    (r"\angle B", r"\angle ABC"),
    (r"m\angle A", r"\angle A"),
    ("S_{ABC}", "S"),
    (r"S_{\triangle ABC}", "S_{ACB}"),
    ("f(x)", "y"),
    ("Area", "S"),
    ("a_n", "a_{n}"),
    ("x", ""),
]
DIFFERENT = [
    ("AB", "CD"),
    ("AB", "AC"),
    (r"\angle A", r"\angle B"),
    (r"\angle C", r"\angle ABC"),
    ("P(A)", "P(B)"),
    ("f(2)", "f(3)"),
    ("f'(x)", "f(x)"),
    ("f^{-1}(x)", "f(x)"),
    ("S_{ABC}", "S_{BCD}"),
    ("x_1", "x_2"),
    ("x", "y"),
]


@pytest.mark.parametrize(
    ("a", "b", "same"), [(*pair, True) for pair in SAME] + [(*pair, False) for pair in DIFFERENT]
)
def test_labels(a: str, b: str, same: bool) -> None:
    assert is_same_label(a, b) is is_same_label(b, a) is same
