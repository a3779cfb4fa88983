"""The restricted grammar: LaTeX or plain mathematics into the tuples of `nodes`, by recursive descent.

Knows numbers, a list of names and functions, operators and brackets, and nothing else: no text is ever evaluated.
Length, tokens, nesting and digits are bounded before a single node is made.
"""

from __future__ import annotations

from fractions import Fraction

from openvlt.verify.parse.expression import Node, Undefined, Unreadable, exact
from openvlt.verify.parse.lexer import FUNCTIONS, NAMES, RECIPROCALS, literal, tokens

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
    return Parser(tokens(text)).parse()


class Parser:
    """One pass over the tokens. Precedence from low to high: sum, product (also implicit), sign, power, postfix,
    atom."""

    def __init__(self, found: list[tuple[str, str]]) -> None:
        self.found, self.at, self.depth, self.bars = found, 0, 0, 0

    def parse(self) -> Node:
        node = self.sum()
        if self.at != len(self.found):
            raise Unreadable(f"{self.peek()!r} was not expected")
        return node

    def peek(self, ahead: int = 0) -> str | None:
        index = self.at + ahead
        return self.found[index][1] if index < len(self.found) else None

    def kind(self) -> str | None:
        return self.found[self.at][0] if self.at < len(self.found) else None

    def take(self, *wanted: str) -> str:
        token = self.peek()
        if token is None or (wanted and token not in wanted):
            raise Unreadable(f"{' or '.join(wanted) or 'more'} was expected, got {token!r}")
        self.at += 1
        return token

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("brackets nested more than 32 deep")
        terms = [self.product()]
        while self.peek() in ("+", "-"):
            terms.append(negate(self.product()) if self.take() == "-" else self.product())
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def product(self) -> Node:
        factors = [self.signed()]
        while True:
            token = self.peek()
            if token in _TIMES:
                self.take()
                factors.append(self.signed())
            elif token in _OVER:
                self.take()
                factors.append(inverse(self.signed()))
            elif self.starts_factor():
                self.juxtapose(factors)
            else:
                return factors[0] if len(factors) == 1 else ("mul", *factors)

    def starts_factor(self) -> bool:
        token, kind = self.peek(), self.kind()
        if token == "|":
            return not self.bars
        return (
            kind in ("num", "let")
            or token in ("(", "[", "{", "\\{", "\\lfloor", "\\lceil")
            or (kind == "cmd" and token[1:] in _COMMANDS)
        )

    def juxtapose(self, factors: list[Node]) -> None:
        """`2x` multiplies, `2\\frac12` is a mixed number, `2 3` is nothing."""
        before = self.found[self.at - 1]
        if before[0] == "num" and self.kind() == "num":
            raise Unreadable("two numbers side by side")
        is_fraction = self.peek() in ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac")
        factor = self.power()
        whole, part = factors[-1], exact(factor) if is_fraction and before[0] == "num" else None
        if part is not None and 0 < part < 1 and whole[0] == "num" and before[1].isdigit():
            factors[-1] = ("num", whole[1] + (part if whole[1] >= 0 else -part))
        else:
            factors.append(factor)

    def signed(self) -> Node:
        minus = False
        while self.peek() in ("+", "-"):
            minus ^= self.take() == "-"
        return negate(self.power()) if minus else self.power()

    def power(self) -> Node:
        node = self.postfix()
        if self.peek() not in ("^", "**"):
            return node
        self.take()
        if self.is_degree():
            return ("deg", node)
        return raise_power(node, self.exponent())

    def is_degree(self) -> bool:
        for shape in (("\\circ",), ("{", "\\circ", "}")):
            if tuple(self.peek(i) for i in range(len(shape))) == shape:
                self.at += len(shape)
                return True
        return False

    def exponent(self) -> Node:
        """Right-associative: 2^3^2 is 2^9."""
        minus = False
        while self.peek() in ("+", "-"):
            minus ^= self.take() == "-"
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("powers nested more than 32 deep")
        node = self.power()
        self.depth -= 1
        return negate(node) if minus else node

    def postfix(self) -> Node:
        node = self.atom()
        while self.peek() in ("!", "%", "\\%", "\\degree"):
            token = self.take()
            node = (
                ("call", "factorial", node)
                if token == "!"
                else ("deg" if token == "\\degree" else "pct", node)
            )
        return node

    def atom(self) -> Node:
        kind, token = self.kind(), self.take()
        if kind == "num":
            return ("num", literal(token))
        if kind == "let":
            return ("const", token) if token in CONSTANTS and self.peek() != "_" else self.named(token)
        if token in _CLOSERS:
            return self.bracket(token)
        if kind == "cmd" and token[1:] in _COMMANDS:
            return self.command(token[1:])
        raise Unreadable(f"{token!r} was not expected")

    def bracket(self, opener: str) -> Node:
        bars, self.bars = self.bars, opener == "|"
        node = self.sum()
        self.take(_CLOSERS[opener])
        self.bars = bars
        names = {"|": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}
        return ("call", names[opener], node) if opener in names else node

    def named(self, name: str) -> Node:
        """A symbol with its subscript and primes."""
        if self.peek() == "_":
            self.take()
            name += "_" + self.raw_group()
        while self.peek() == "'":
            name += self.take()
        return ("sym", name)

    def raw_group(self) -> str:
        """The text of a subscript, unread."""
        if self.peek() != "{":
            return self.take()
        parts, level = [], 0
        while True:
            token = self.take()
            level += (token == "{") - (token == "}")
            if level == 0:
                return "".join(parts[1:])
            parts.append(token)

    def command(self, name: str) -> Node:
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            top = self.group(single_digit=True)
            return ("mul", top, inverse(self.group(single_digit=True)))
        if name in ("binom", "dbinom", "tbinom"):
            return ("call", "binom", self.group(single_digit=True), self.group(single_digit=True))
        if name == "sqrt":
            return self.root()
        if name in ("pi", "infty"):
            return ("const", "pi" if name == "pi" else "oo")
        if name in GREEK:
            return self.named(name.removeprefix("var"))
        if name in ("angle", "triangle", "measuredangle"):
            return self.figure(name)
        return self.function(name)

    def figure(self, name: str) -> Node:
        """`\\angle ABC` is one name."""
        letters = ""
        while self.kind() == "let":
            letters += self.take()
        return self.named(name + letters)

    def root(self) -> Node:
        degree: Node = ("num", Fraction(2))
        if self.peek() == "[":
            self.take()
            degree = self.sum()
            self.take("]")
        radicand = self.group()
        if degree == ("num", Fraction(2)):
            return ("call", "sqrt", radicand)
        return raise_power(radicand, inverse(degree))

    def group(self, *, single_digit: bool = False) -> Node:
        """A command's argument: braces, or the next token; of `\\frac12` only the next digit."""
        kind, token = self.kind(), self.peek()
        if single_digit and kind == "num" and token is not None and len(token) > 1 and token.isdigit():
            self.found[self.at] = ("num", token[1:])
            return ("num", literal(token[0]))
        return self.postfix() if token != "-" else negate((self.take(), self.atom())[1])

    def function(self, name: str) -> Node:
        base = self.log_base(name)
        exponent = None
        if self.peek() in ("^", "**"):
            self.take()
            exponent = self.group()
        argument = self.argument()
        if exponent is not None and exact(exponent) == -1 and FUNCTIONS.get(name) in ("sin", "cos", "tan"):
            return ("call", "a" + FUNCTIONS[name], argument)
        node = apply_function(name, argument, base)
        return node if exponent is None else raise_power(node, exponent)

    def log_base(self, name: str) -> Node | None:
        if name not in ("log", "lg"):
            return None
        if self.peek() != "_":
            return ("num", Fraction(10))
        self.take()
        return self.group()

    def argument(self) -> Node:
        """Brackets, or the factors up to the next operator or function: `\\sin 2x \\cos x` is sin(2x)·cos(x)."""
        if self.peek() in ("(", "{", "["):
            return self.power() if self.peek() != "[" else self.atom()
        factors = [self.signed()]
        while (
            self.starts_factor()
            and not (self.kind() == "cmd" and (self.peek() or "")[1:] in NAMES and self.peek() != "\\pi")
            and self.peek() not in ("(", "[")
        ):
            self.juxtapose(factors)
        return factors[0] if len(factors) == 1 else ("mul", *factors)


_COMMANDS = frozenset(
    (
        "frac",
        "dfrac",
        "tfrac",
        "cfrac",
        "binom",
        "dbinom",
        "tbinom",
        "angle",
        "triangle",
        "measuredangle",
        "infty",
        *NAMES,
        *GREEK,
    )
)


def apply_function(name: str, argument: Node, base: Node | None) -> Node:
    """The node of a named function."""
    if base is not None:
        return ("call", "log", argument, base)
    if name in RECIPROCALS:
        return inverse(("call", RECIPROCALS[name], argument))
    return ("call", FUNCTIONS[name], argument)


def negate(node: Node) -> Node:
    return ("num", -node[1]) if node[0] == "num" else ("mul", ("num", Fraction(-1)), node)


def inverse(node: Node) -> Node:
    return ("pow", node, ("num", Fraction(-1)))


def raise_power(base: Node, exponent: Node) -> Node:
    """A power; raises Unreadable at once when it would be too large to hold."""
    node = ("pow", base, exponent)
    try:
        exact(node)
    except Undefined as error:
        raise Unreadable(str(error)) from error
    return node
