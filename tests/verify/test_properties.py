"""Properties over generated golds: an answer equals itself, a perturbed one doesn't, and layout doesn't matter."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openvlt.types import Verdict
from openvlt.verify import explain, verify
from openvlt.verify.parse.expression import Undefined, Unreadable, exact
from openvlt.verify.parse.grammar import parse_math

settings.register_profile("any pace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any pace")
integers = st.integers(-(10**6), 10**6)
decimals = st.decimals(-(10**4), 10**4, places=2, allow_nan=False).map(lambda d: f"{d:.2f}")
fractions = st.tuples(st.integers(-99, 99), st.integers(2, 99)).map(
    lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}"
)
roots = st.tuples(st.integers(1, 40), st.integers(2, 40)).map(lambda pair: rf"{pair[0]}\sqrt{{{pair[1]}}}")
lines = st.tuples(st.integers(2, 9), st.integers(1, 9)).map(lambda pair: f"{pair[0]}x+{pair[1]}")
pairs = st.tuples(integers, integers).map(lambda pair: f"({pair[0]}, {pair[1]})")
lengths = st.tuples(
    st.integers(1, 999), st.sampled_from(["cm", "m", "kg", "km/h", r"\text{ cm}^2", "%", "^\\circ"])
).map(lambda pair: f"{pair[0]} {pair[1]}")
words = st.sampled_from(["blue", "Saturday", "rectangle", "Yes", "No", "New York"])
golds = st.one_of(integers.map(str), decimals, fractions, roots, lines, pairs, lengths, words)


def right(gold: str, response: str) -> bool:
    return verify(gold, response) is Verdict.CORRECT


@given(golds)
def test_every_gold_answers_itself(gold: str) -> None:
    assert right(gold, f"<answer>{gold}</answer>"), explain(gold, f"<answer>{gold}</answer>")


@given(integers, st.integers(1, 50), st.booleans())
def test_another_integer_is_wrong(gold: int, step: int, down: bool) -> None:
    assert not right(str(gold), f"<answer>{gold - step if down else gold + step}</answer>")


@given(decimals, st.integers(2, 500))
def test_another_decimal_is_wrong(gold: str, steps: int) -> None:
    assert not right(gold, f"<answer>{Fraction(gold) + Fraction(steps, 100)}</answer>")


@given(st.integers(-99, 99), st.integers(2, 99), st.integers(1, 9))
def test_fractions_are_exact(top: int, bottom: int, factor: int) -> None:
    gold = rf"\frac{{{top}}}{{{bottom}}}"
    assert right(gold, f"<answer>{top * factor}/{bottom * factor}</answer>")
    assert not right(gold, f"<answer>{top * factor + 1}/{bottom * factor}</answer>")


PROSE = (
    "{}",
    "The answer is {}.",
    "<think>Let me see: 3 and 4.</think>\n<answer> {} </answer>",
    "So,\n\n\\boxed{{{}}}",
    "Therefore, the final answer is: {}",
    "<think>1\n2</think><answer>\n{}\n</answer>",
    "$\\boxed{{{}}}$.",
    "**Answer:** {}",
    "### Final Answer\n{}",
    "<answer>\\boxed{{{}}}</answer>",
    "答案是{}。",
)


@given(golds, st.sampled_from(PROSE))
def test_surrounding_prose_does_not_matter(gold: str, template: str) -> None:
    assert right(gold, template.format(gold)), explain(gold, template.format(gold))


@given(
    st.one_of(fractions, roots, lines, pairs),
    st.sampled_from(
        [
            lambda s: s.replace("frac", "dfrac"),
            lambda s: s.replace("frac", "tfrac"),
            lambda s: f"${s}$",
            lambda s: rf"\({s}\)",
            lambda s: rf"\left({s}\right)" if s[0] != "(" else s,
            lambda s: s.replace("{", "{ ").replace("}", " }"),
            lambda s: s.replace("+", " + "),
            lambda s: s.replace("-", "−"),
            lambda s: rf"\displaystyle {s}",
            lambda s: s.replace("(", r"\left( ").replace(")", r"\right)"),
            lambda s: s.replace(", ", ","),
            lambda s: rf"\mathbf{{{s}}}" if "{" not in s else s,
        ]
    ),
)
def test_latex_style_does_not_matter(gold: str, style: object) -> None:
    assert right(gold, f"<answer>{style(gold)}</answer>"), explain(gold, f"<answer>{style(gold)}</answer>")


@given(
    st.integers(1, 999),
    st.sampled_from(
        [("cm", "m", 100), ("mm", "cm", 10), ("g", "kg", 1000), ("minutes", "hours", 60), ("mL", "L", 1000)]
    ),
)
def test_units_convert_and_disagree(amount: int, units: tuple[str, str, int]) -> None:
    small, large, factor = units
    assert right(f"{amount * factor} {small}", f"<answer>{amount} {large}</answer>")
    assert not right(f"{amount} {small}", f"<answer>{amount} {large}</answer>")


CHOICES = ["10 cm", "12 cm", "14 cm", "16 cm"]


@given(
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(["{0}", "({0})", "{0}. {1}", "{1}", "option {0}", "({0}) {1}", "The answer is {0}."]),
)
def test_options_by_letter_and_by_text(gold: int, said: int, form: str) -> None:
    answer = form.format("ABCD"[said], CHOICES[said])
    assert (verify("ABCD"[gold], f"<answer>{answer}</answer>", choices=CHOICES) is Verdict.CORRECT) == (
        gold == said
    )


@settings(max_examples=400)
@given(st.text(max_size=300), st.text(max_size=60))
def test_no_text_crashes_it(response: str, gold: str) -> None:
    for wrapped in (response, f"<answer>{response}</answer>", rf"\boxed{{{response}}}"):
        assert isinstance(verify(gold, wrapped), Verdict)
        assert isinstance(verify(gold, wrapped, choices=["1", gold, "3 cm"]), Verdict)


PIECES = st.sampled_from(
    [
        r"\frac",
        r"\sqrt",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "^",
        "_",
        "12",
        "3.5",
        "x",
        "+",
        "-",
        "/",
        "!",
        "%",
        "=",
        "<",
        r"\le",
        ",",
        " or ",
        "|",
        r"\pi",
        r"\sin",
        r"\infty",
        r"\pm",
        r"\cup",
        "cm",
        r"\text{",
        "$",
        ":",
        r"\{",
        r"\}",
        "e",
        "9999",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        "&",
        r"\\",
        "°",
        "π",
        "½",
        "，",
        "。",
    ]
)


@settings(max_examples=600)
@given(st.lists(PIECES, max_size=25).map("".join), st.lists(PIECES, max_size=8).map("".join))
def test_no_mathematics_crashes_it(answer: str, gold: str) -> None:
    assert isinstance(verify(gold, f"<answer>{answer}</answer>"), Verdict)


@given(
    st.recursive(
        st.integers(0, 99).map(str),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
            inner.map(lambda s: f"(-{s})"),
            st.tuples(inner, st.integers(1, 9)).map(lambda t: f"({t[0]}/{t[1]})"),
        ),
        max_leaves=8,
    )
)
def test_arithmetic_agrees_with_python_fractions(text: str) -> None:
    import ast

    def value(node: ast.AST) -> Fraction:
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        if isinstance(node, ast.UnaryOp):
            return -value(node.operand)
        left, right_ = value(node.left), value(node.right)
        return (
            {ast.Add: left + right_, ast.Sub: left - right_, ast.Mult: left * right_}.get(type(node.op))
            if not isinstance(node.op, ast.Div)
            else left / right_
        )

    try:
        assert exact(parse_math(text)) == value(ast.parse(text, mode="eval").body)
    except (Unreadable, Undefined):
        assert len(text) > 60
