"""Parses LaTeX or plain mathematics into expression nodes by recursive descent.

The grammar has numbers, a list of names and functions, operators and brackets, and nothing else: no text is
ever evaluated. Length, tokens, nesting and digits are bounded before a node is made.
"""

from __future__ import annotations

from fractions import Fraction

from openvlt.verify.parse.expression import Node, Unreadable, exact
from openvlt.verify.parse.functions import (
    apply_function,
    inverse,
    negate,
    parse_arguments,
    parse_series,
    raise_power,
    respell_selections,
)
from openvlt.verify.parse.lexer import FUNCTIONS, NAMES, VARIADIC, read_literal, tokenize_math

MAX_DEPTH = 32

CONSTANTS = {"pi": "pi", "e": "e", "i": "i"}
GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho sigma "
    "tau phi varphi chi psi omega Delta Omega Gamma Sigma Phi Theta Lambda ell hbar".split()
)
_TIMES = frozenset(("*", "\\times", "\\cdot", "\\ast"))
_OVER = frozenset(("/", "\\div"))
_CLOSERS = {
    "(": ")",
    "[": "]",
    "{": "}",
    "\\{": "\\}",
    "\\lfloor": "\\rfloor",
    "\\lceil": "\\rceil",
    "|": "|",
}


def parse_math(text: str) -> Node:
    """The expression that `text` writes. Raises Unreadable."""
    return Parser(tokenize_math(respell_selections(text))).parse()


class Parser:
    """A parser of one list of tokens; every `parse_…` method raises Unreadable.

    Precedence from low to high: sum, product (also implicit), unary sign, power, postfix, atom.
    """

    def __init__(self, found: list[tuple[str, str]]) -> None:
        self.found, self.at, self.depth, self.bars = found, 0, 0, 0

    def parse(self) -> Node:
        """The expression of all tokens."""
        node = self.parse_sum()
        if self.at != len(self.found):
            raise Unreadable(f"{self.peek()!r} was not expected")
        return node

    def peek(self, ahead: int = 0) -> str | None:
        """The text of the next token, or of one further ahead; None at the end."""
        index = self.at + ahead
        return self.found[index][1] if index < len(self.found) else None

    def peek_kind(self) -> str | None:
        """The kind of the next token; None at the end."""
        return self.found[self.at][0] if self.at < len(self.found) else None

    def take(self, *wanted: str) -> str:
        """Moves past the next token, which must be one of `wanted` if given, and returns its text."""
        token = self.peek()
        if token is None or (wanted and token not in wanted):
            raise Unreadable(f"{' or '.join(wanted) or 'more'} was expected, got {token!r}")
        self.at += 1
        return token

    def parse_sum(self) -> Node:
        """Terms with plus and minus between them."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("brackets nested more than 32 deep")
        terms = [self.parse_product()]
        while self.peek() in ("+", "-"):
            terms.append(negate(self.parse_product()) if self.take() == "-" else self.parse_product())
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def parse_product(self) -> Node:
        """Factors with an operator between them, or nothing."""
        factors = [self.parse_unary()]
        while True:
            token = self.peek()
            if token in _TIMES:
                self.take()
                factors.append(self.parse_unary())
            elif token in _OVER:
                self.take()
                factors.append(inverse(self.parse_unary()))
            elif self.starts_factor():
                self.juxtapose(factors)
            else:
                return factors[0] if len(factors) == 1 else ("mul", *factors)

    def starts_factor(self) -> bool:
        """Whether the next token begins a factor."""
        token, kind = self.peek(), self.peek_kind()
        if token == "|":
            return not self.bars
        return (
            kind in ("num", "let")
            or token in ("(", "[", "{", "\\{", "\\lfloor", "\\lceil")
            or (kind == "cmd" and token is not None and token[1:] in _COMMANDS)
        )

    def juxtapose(self, factors: list[Node]) -> None:
        """Appends a factor without an operator: `2x`; `2\\frac12` is a mixed number, `2 3` an error."""
        before = self.found[self.at - 1]
        if before[0] == "num" and self.peek_kind() == "num":
            raise Unreadable("two numbers side by side")
        is_fraction = self.peek() in ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac")
        factor = self.parse_power()
        whole, part = factors[-1], exact(factor) if is_fraction and before[0] == "num" else None
        if part is not None and 0 < part < 1 and whole[0] == "num" and before[1].isdigit():
            factors[-1] = ("num", whole[1] + (part if whole[1] >= 0 else -part))
        else:
            factors.append(factor)

    def parse_unary(self) -> Node:
        """A power after any number of signs."""
        minus = False
        while self.peek() in ("+", "-"):
            minus ^= self.take() == "-"
        return negate(self.parse_power()) if minus else self.parse_power()

    def parse_power(self) -> Node:
        """A base with its exponent or degree sign, or alone."""
        node = self.parse_postfix()
        if self.peek() not in ("^", "**"):
            return node
        self.take()
        if self.take_degree():
            return ("deg", node)
        return raise_power(node, self.parse_exponent())

    def take_degree(self) -> bool:
        """Moves past a raised circle; False if there is none."""
        for shape in (("\\circ",), ("{", "\\circ", "}")):
            if tuple(self.peek(i) for i in range(len(shape))) == shape:
                self.at += len(shape)
                return True
        return False

    def parse_exponent(self) -> Node:
        """An exponent; powers are right-associative: 2^3^2 is 2^9."""
        minus = False
        while self.peek() in ("+", "-"):
            minus ^= self.take() == "-"
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("powers nested more than 32 deep")
        node = self.parse_power()
        self.depth -= 1
        return negate(node) if minus else node

    def parse_postfix(self) -> Node:
        """An atom with factorial, percent or degree signs."""
        node = self.parse_atom()
        while self.peek() in ("!", "%", "\\%", "\\degree"):
            token = self.take()
            node = (
                ("call", "factorial", node)
                if token == "!"
                else ("deg" if token == "\\degree" else "pct", node)
            )
        return node

    def parse_atom(self) -> Node:
        """A number, a symbol, a constant, a bracket or a command."""
        kind, token = self.peek_kind(), self.take()
        if kind == "num":
            return ("num", read_literal(token))
        if kind == "let":
            return ("const", token) if token in CONSTANTS and self.peek() != "_" else self.parse_symbol(token)
        if token in _CLOSERS:
            return self.parse_bracket(token)
        if kind == "cmd" and token[1:] in _COMMANDS:
            return self.parse_command(token[1:])
        raise Unreadable(f"{token!r} was not expected")

    def parse_bracket(self, opener: str) -> Node:
        """What is inside brackets, bars or floor and ceiling brackets."""
        bars, self.bars = self.bars, opener == "|"
        node = self.parse_sum()
        self.take(_CLOSERS[opener])
        self.bars = bars
        names = {"|": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}
        return ("call", names[opener], node) if opener in names else node

    def parse_symbol(self, name: str) -> Node:
        """A symbol with its subscript and primes."""
        if self.peek() == "_":
            self.take()
            name += "_" + self.take_subscript()
        while self.peek() == "'":
            name += self.take()
        return ("sym", name)

    def take_subscript(self) -> str:
        """The text of a subscript, which is not parsed."""
        if self.peek() != "{":
            return self.take()
        parts, level = [], 0
        while True:
            token = self.take()
            level += (token == "{") - (token == "}")
            if level == 0:
                return "".join(parts[1:])
            parts.append(token)

    def parse_command(self, name: str) -> Node:
        """A LaTeX command with its arguments."""
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            top = self.parse_group(single_digit=True)
            return ("mul", top, inverse(self.parse_group(single_digit=True)))
        if name in ("binom", "dbinom", "tbinom", "perm"):
            kind = "perm" if name == "perm" else "binom"
            return ("call", kind, self.parse_group(single_digit=True), self.parse_group(single_digit=True))
        if name in ("sum", "prod"):
            return parse_series(self, name)
        if name == "sqrt":
            return self.parse_root()
        if name in ("pi", "infty"):
            return ("const", "pi" if name == "pi" else "oo")
        if name in GREEK:
            return self.parse_symbol(name.removeprefix("var"))
        if name in ("angle", "triangle", "measuredangle"):
            return self.parse_figure(name)
        return self.parse_function(name)

    def parse_figure(self, name: str) -> Node:
        """The symbol of a named figure: `\\angle ABC` is one name."""
        letters = ""
        while self.peek_kind() == "let":
            letters += self.take()
        return self.parse_symbol(name + letters)

    def parse_root(self) -> Node:
        """A root with its degree in brackets, which is 2 if there are none."""
        degree: Node = ("num", Fraction(2))
        if self.peek() == "[":
            self.take()
            degree = self.parse_sum()
            self.take("]")
        radicand = self.parse_group()
        if degree == ("num", Fraction(2)):
            return ("call", "sqrt", radicand)
        return raise_power(radicand, inverse(degree))

    def parse_group(self, *, single_digit: bool = False) -> Node:
        """A command's argument: braces, or the next token; of `\\frac12` only the next digit."""
        kind, token = self.peek_kind(), self.peek()
        if single_digit and kind == "num" and token is not None and len(token) > 1 and token.isdigit():
            self.found[self.at] = ("num", token[1:])
            return ("num", read_literal(token[0]))
        return self.parse_postfix() if token != "-" else negate((self.take(), self.parse_atom())[1])

    def parse_function(self, name: str) -> Node:
        """A named function with its base, exponent and argument."""
        if FUNCTIONS.get(name) in VARIADIC:
            return ("call", FUNCTIONS[name], *parse_arguments(self))
        base = self.parse_log_base(name)
        exponent = None
        if self.peek() in ("^", "**"):
            self.take()
            exponent = self.parse_group()
        argument = self.parse_argument()
        if exponent is not None and exact(exponent) == -1 and FUNCTIONS.get(name) in ("sin", "cos", "tan"):
            return ("call", "a" + FUNCTIONS[name], argument)
        node = apply_function(name, argument, base)
        return node if exponent is None else raise_power(node, exponent)

    def parse_log_base(self, name: str) -> Node | None:
        """The base of a logarithm, by default 10; None for other functions."""
        if name not in ("log", "lg"):
            return None
        if self.peek() != "_":
            return ("num", Fraction(10))
        self.take()
        return self.parse_group()

    def parse_argument(self) -> Node:
        """A function's argument: brackets, or the factors up to the next operator or function.

        `\\sin 2x \\cos x` is sin(2x)·cos(x).
        """
        if self.peek() in ("(", "{", "["):
            return self.parse_power() if self.peek() != "[" else self.parse_atom()
        factors = [self.parse_unary()]
        while (
            self.starts_factor()
            and not (self.peek_kind() == "cmd" and (self.peek() or "")[1:] in NAMES and self.peek() != "\\pi")
            and self.peek() not in ("(", "[")
        ):
            self.juxtapose(factors)
        return factors[0] if len(factors) == 1 else ("mul", *factors)


_COMMANDS = frozenset(
    "frac dfrac tfrac cfrac binom dbinom tbinom perm sum prod angle triangle measuredangle infty".split()
) | GREEK.union(NAMES)
