"""The grammar that MathVision and EMMA compare by: every value below was given by latex2sympy2 1.9.1 with Python's `math`, rounded."""

from __future__ import annotations

import pytest

from openvlt.benchmark.scorers.formula import rounded_value, same_expression, same_rounded_value

GIVEN = {
    "12": 12, "12)": 12, "12)°": 12, "1,000": 1000, "1,234.5": 1234.5, "12.": 12, ".5": 0.5, "2 3": 6, "007": 7, "1 000": 0,
    "\\frac{1}{2}": 0.5, "3\\frac{1}{2}": 1.5, "\\sqrt{2}": 1.41, "2\\pi": 6.28, "\\pi^2": 9.87, "3\\pi/4": 2.36, "e^2": 7.39, "e^{0}": 1,
    "12\\%": 0.12, "12\\%5": 0.6, "5!": 120, "2^31": 2**31, "2^{31}": 2**31, "2^{-1}": 0.5, "2^3^2": 64, "1/2/3": 0.17, "3:4": 0.75,
    "3:2:1": 1.5, "--3": 3, "+3": 3, "{12}": 12, "[12]": 12, "\\{12\\}": 12, "\\left(12\\right)": 12, "3<4": 1, "3\\le4": 1,
    "\\sin30": -0.99, "\\sin(30)": -0.99, "\\sin^2(3)": 0.02, "\\log_2 8": 3, "\\log100": 2, "\\arcsin(1)": 1.57, "12.5.3": 3.75,
    "2\\times3": 6, "3\\cdot4\\div6": 2, "5-6": -1, "5~6": 30, "$12$": 12, "0.333...": 0.33, "3}": 3, "3{4}": 12, "3(4)": 12,
    "\\sqrt[3]{8}": 2, "3-\\sqrt{5}": 0.76, "1_2": 1, "12_": 12, "3\\,000": 0, "3'": 3, "\\lfloor3.5\\rfloor": 3, "\\binom{5}{2}": 10,
    "0.\\overline{3}": 0, "{3}{4}": 12, "3}{4": 3, "12&": 12, "1\\\\2": 1, "40'^{\\circ}": 40, "3triangles": 3,
}  # fmt: skip
REFUSED = (
    "(12", "12cm", "1,00", "3,4", "12,", "12;", "12°)", "\\frac12", "\\frac{1}{2", "\\sqrt2", "e", "2e", "i", "12%", "10^\\circ", "\\$12", "|3|",
    "(1,2)", "\\infty", "12 or 13", "1e5", "12:00", "2x3", "", "x-x", "3+", "3*", "12(", "12(3", "12^", "1/0", "0/0", "\\sqrt{-1}", "2^-1", "2.5!",
    "\\ln(2)", "10\\mod3", "\\max(1,2)", "(-8)^{1/3}", "9^{9^9}", "99999999999!", "\\boxed{3}", "3=3", "x+1=3", "triangle", "3#", "12、13",
    "2003^{2}_",
)  # fmt: skip


@pytest.mark.parametrize("text, number", GIVEN.items())
def test_a_value(text: str, number: float) -> None:
    assert rounded_value(text) == number


@pytest.mark.parametrize("text", REFUSED)
def test_no_value(text: str) -> None:
    assert rounded_value(text) is None


@pytest.mark.parametrize(
    "text", ["(" * 500, "2^" * 400, "\\frac{" * 200, "9" * 5000, "{" * 3000, "1+" * 900 + "1"]
)
def test_hostile_texts_end(text: str) -> None:
    assert rounded_value(text) is None or isinstance(rounded_value(text), (int, float))


@pytest.mark.parametrize(
    "one, other, equal",
    [
        ("1/3", "0.333", True),
        ("\\ln(2)", "0.693", True),
        ("|3|", "3", True),
        ("e", "2.72", True),
        ("1/3", "0.35", False),
        ("a+b", "b+a", False),
    ],
)
def test_equal_to_two_decimals(one: str, other: str, equal: bool) -> None:
    assert same_rounded_value(one, other) is equal


@pytest.mark.parametrize(
    "one, other, equal",
    [
        ("x^2+1", "1+x^{2}", True),
        ("2sqrt(3)", "sqrt(12)", True),
        ("2pi", "pi*2", True),
        ("1/3", "0.333", False),
        ("1:2", "1/2", False),
        ("12)", "12", False),
    ],
)
def test_the_same_expression(one: str, other: str, equal: bool) -> None:
    assert same_expression(one, other) is equal
