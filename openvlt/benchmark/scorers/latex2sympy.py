"""The grammar of latex2sympy2 1.9.1, by which the benchmarks' scorers read formulas, without that package.

MathVision and EMMA compare `latex2sympy(text)` numerically, so their counts depend on that package's habits:
it reads the longest start of a text that is an expression and forgets the rest (`12)` is 12, `3triangles` is
3), multiplies what stands side by side (`3\\frac{1}{2}` is 1.5), divides at a colon, and gives up on
`\\frac12`. All of this is kept; nothing here judges what an answer means (`openvlt.verify` does). Texts
outside the grammar raise `Unreadable`.

A tree is `(kind, …)`: num Fraction · sym name · add/mul/div/pow a b · call name arguments… · less name a b.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from openvlt.verify.parse.expression import Node, Unreadable

LONGEST = 2000
DEEPEST = 60

_NUMBER = r"\d*(?:,\d{3})*\.\d+|\d+(?:,\d{3})*"
_WORDS = (  # these are tokens of the grammar, not products of letters
    "arsinh arcsinh arcosh arccosh artanh arctanh gcd lcm floor ceil eye zeros ones cols rows diag norm "
    "rank trace tr rref hstack vstack orth ortho orthogonal orthogonalize nullspace eig eigen diagonalize "
    "eigenvals eigenvalues eigenvects eigenvectors svd matrix pmatrix bmatrix vmatrix"
).split()
_ACCENTS = (
    "acute bar overline breve check widecheck dot ddot grave hat tilde widetilde vec overrightarrow bm "
    "boldsymbol text textit mathbb mathbin mathbf mathcal mathfrak mathnormal mathrm mathscr mathsf "
    "mathtt mathit"
).split()
_LETTERS = (
    "alpha beta Gamma gamma Delta delta epsilon varepsilon zeta eta Theta theta vartheta iota kappa "
    "Lambda lambda mu nu Xi xi omicron Pi varpi rho varrho Sigma sigma varsigma tau Upsilon upsilon Phi "
    "phi varphi chi Psi psi Omega omega nabla angle emptyset triangle ell hbar prime square infty partial"
).split()
_SINGLE = (
    "log ln exp sin cos tan csc sec cot arcsin arccos arctan arccsc arcsec arccot sinh cosh tanh arsinh "
    "arcosh artanh arcsinh arccosh arctanh floor ceil"
).split()
_OTHERS = (
    "over lgroup rgroup lbrace rbrace lbrack rbrack lvert rvert vert lfloor rfloor lceil rceil left right "
    "mleft mright lim to rightarrow Rightarrow int sum prod sqrt gcd lcm max min det times cdot div frac "
    "binom tbinom dbinom choose mod operatorname leftrightarrow Leftrightarrow in equiv leq le leqslant "
    "geq ge geqslant ne neq pi"
).split()
_COMMANDS = sorted({*_ACCENTS, *_LETTERS, *_SINGLE, *_OTHERS}, key=len, reverse=True)
_TOKEN = re.compile(
    rf"(?P<space>[ \t\r\n]+)|(?P<percent>(?:{_NUMBER})\\%)|(?P<number>{_NUMBER})|(?P<prime>'|\^\{{\\top\}})"
    rf"|(?P<word>{'|'.join(sorted(_WORDS, key=len, reverse=True))})"
    rf"|(?P<diff>d[ \t\r\n]*(?:[a-zA-Z]|\\[a-zA-Z]+))|(?P<name>[a-zA-Z])"
    rf"|(?P<command>\\(?:{'|'.join(_COMMANDS)}))"
    r"|(?P<mark><->|<=>|!==|!=|==|\\\\|\\\{|\\\}|\\\||[-+*/(){}\[\]|_^:;,.=<>!&])"
)
_CLOSING = {
    "(": ")",
    "{": "}",
    "\\{": "\\}",
    "[": "]",
    "\\lgroup": "\\rgroup",
    "\\lbrace": "\\rbrace",
    "\\lbrack": "\\rbrack",
    "|": "|",
    "\\lvert": "\\rvert",
    "\\vert": "\\vert",
    "\\lfloor": "\\rfloor",
    "\\lceil": "\\rceil",
}
_INSIDE = {"|": "abs", "\\lvert": "abs", "\\vert": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}
_PRODUCT = {
    "*": "mul",
    "\\times": "mul",
    "\\cdot": "mul",
    "/": "div",
    "\\over": "div",
    "\\div": "div",
    ":": "div",
    "\\mod": "mod",
}
_LESS = {
    "<": "lt",
    "\\leq": "le",
    "\\le": "le",
    "\\leqslant": "le",
    ">": "gt",
    "\\geq": "ge",
    "\\ge": "ge",
    "\\geqslant": "ge",
}
_FUNCTION_STARTS = ("\\sqrt", "\\operatorname", "\\gcd", "\\lcm")
_FACTOR_STARTS = (
    "\\left", "\\mleft", "\\frac", "\\binom", "\\tbinom", "\\dbinom", "\\|", "\\pi", "\\max",
    "\\min", "\\int", "\\sum", "\\prod", "\\lim", "\\det",
)  # fmt: skip
_RELATION = {*_LESS, "=", "==", "\\equiv", "!=", "!==", "\\ne", "\\neq", "\\in"}
_REPLACEMENTS = (
    (r"\dfrac", r"\frac"), (r"\tfrac", r"\frac"), (r"\displaystyle", " "), (r"\qquad", " "), (r"\quad", " "),
    ("~", " "), (r"\,", " "), ("$", " "),
)  # fmt: skip


def parse_latex(text: str, *, whole: bool = False) -> Node:
    """The tree of the longest readable start of a text; with `whole`, of the whole text.

    Raises Unreadable where latex2sympy2 raises, and for very long texts.
    """
    if len(text) > LONGEST:
        raise Unreadable("too long")
    for old, new in _REPLACEMENTS:
        text = text.replace(old, new)
    try:
        parser = _Parser(text)
        tree = parser.relation()
    except RecursionError:
        raise Unreadable("too deep") from None
    if whole and parser.kind != "end":
        raise Unreadable(f"{parser.token} after the end of an expression")
    return tree


class _Parser:
    """Recursive descent with one token of lookahead. A token is read when it is needed, as ANTLR does."""

    def __init__(self, text: str) -> None:
        self.text, self.place, self.depth = text, 0, 0
        self.open: list[str] = []  # brackets, innermost last
        self.kind, self.token = self._read()

    def _read(self) -> tuple[str, str]:
        while self.place < len(self.text):
            match = _TOKEN.match(self.text, self.place)
            if match is None:
                raise Unreadable(f"a character outside the grammar at {self.place}")
            self.place = match.end()
            if (kind := str(match.lastgroup)) != "space":
                return kind, match.group()
        return "end", ""

    def next(self) -> str:
        token = self.token
        self.kind, self.token = self._read()
        return token

    def expect(self, token: str) -> None:
        if self.token != token:
            raise Unreadable(f"{token} expected")
        self.next()

    def relation(self) -> Node:
        left = self.sum()
        while self.token in _RELATION:
            operator = self.next()
            right = self.sum()
            if operator not in _LESS or left[0] == "less":
                raise Unreadable("an equation has no value")
            left = ("less", _LESS[operator], left, right)
        if self.token in (",", ";"):
            raise Unreadable("a list has no value")
        return left

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable("too deep")
        left = self.product(self.unary)
        while self.token in ("+", "-"):
            minus = self.next() == "-"
            right = self.product(self.unary)
            left = ("add", left, negative(right) if minus else right)
        self.depth -= 1
        return left

    def product(self, factor: Callable[[], Node]) -> Node:
        left = factor()
        while self.token in _PRODUCT:
            kind = _PRODUCT[self.next()]
            right = factor()
            left = ("call", "mod", left, right) if kind == "mod" else (kind, left, right)
        return left

    def unary(self, functions: bool = True) -> Node:
        sign = False
        while self.token in ("+", "-"):
            sign ^= self.next() == "-"
        value = self.postfix()
        while self._starts(functions):
            value = ("mul", value, self.postfix())
        return negative(value) if sign else value

    def _starts(self, functions: bool) -> bool:
        """Whether the token begins a factor; a bar that closes the innermost bar doesn't."""
        if self.token in ("|", "\\vert") and self.open and self.open[-1] == self.token:
            return False
        name = self.token[1:] if self.kind == "command" else ""
        if name in _SINGLE or self.token in _FUNCTION_STARTS:
            return functions
        if name in _ACCENTS or name in _LETTERS or self.kind in ("number", "percent", "name", "diff"):
            return True
        return self.token in _CLOSING or self.token in _FACTOR_STARTS

    def postfix(self) -> Node:
        value = self.atom()
        while self.token == "^":
            self.next()
            value = ("pow", value, self.script())
            if self.token == "_":
                self.next()
                self.script()
        while self.token == "!" or self.kind == "prime":
            value = ("call", "factorial", value) if self.next() == "!" else value
        return value

    def script(self) -> Node:
        """The exponent or index after a `^` or `_`: one token, or an expression in braces."""
        if self.token == "{":
            return self.group()
        if self.kind not in ("number", "percent", "name", "diff") and self.token != "\\pi":
            raise Unreadable("an exponent in braces expected")
        return self.atom()

    def group(self, right: str = "") -> Node:
        """The expression in a pair of brackets; `right` is the command before the closing one, if any."""
        opening = self.next()
        self.open.append(opening)
        inside = self.sum()
        self.open.pop()
        if opening == "{" and self.token == "\\choose":
            self.next()
            inside = ("call", "binom", inside, self.sum())
        if right:
            self.expect(right)
        self.expect(_CLOSING[opening])
        return ("call", _INSIDE[opening], inside) if opening in _INSIDE else inside

    def atom(self) -> Node:
        kind, token = self.kind, self.token
        if token in ("\\left", "\\mleft"):
            self.next()
            if self.token not in _CLOSING:
                raise Unreadable("a bracket expected")
            return self.group("\\right" if token == "\\left" else "\\mright")
        if token in _CLOSING:
            return self.group()
        if kind in ("number", "percent"):
            value = Fraction(self.next().removesuffix("\\%").replace(",", ""))
            return ("num", value / 100 if kind == "percent" else value)
        if kind == "name" or kind == "diff":
            return self.letter()
        return self.command()

    def letter(self) -> Node:
        """A letter with its index. `e` is Euler's number; before a bracket it is an unknown function."""
        name = self.next()
        if name == "e":
            if self.token == "^":
                self.next()
                return ("call", "exp", self.script())
            return ("call", "exp", ("num", Fraction(1)))
        if self.token == "_":
            self.next()
            name += f"_{self.script()}"
        if self.token in ("(", "["):
            raise Unreadable("an unknown function")
        return ("sym", name)

    def command(self) -> Node:
        token = self.next()
        name = token[1:]
        if token == "\\pi":
            return ("call", "pi")
        if token == "\\frac":
            return ("div", self._in_braces(), self._in_braces())
        if token in ("\\binom", "\\tbinom", "\\dbinom"):
            return ("call", "binom", self._in_braces(), self._in_braces())
        if token == "\\sqrt":
            return self._root()
        if name in _ACCENTS:
            return ("sym", f"{name}{self._in_braces()}")
        if name in _SINGLE:
            return self._function(name)
        if name in _LETTERS and name not in ("infty", "partial"):
            return ("sym", name)
        raise Unreadable(f"{token or 'the end'} can't stand here")

    def _in_braces(self) -> Node:
        if self.token != "{":
            raise Unreadable("{ expected")
        self.next()
        inside = self.sum()
        self.expect("}")
        return inside

    def _root(self) -> Node:
        degree: Node = ("num", Fraction(2))
        if self.token == "[":
            degree = self.group()
        return ("pow", self._in_braces(), ("div", ("num", Fraction(1)), degree))

    def _function(self, name: str) -> Node:
        base, power = None, None
        while self.token in ("^", "_"):
            if self.next() == "^":
                power = self.script()
            else:
                base = self.script()
        argument = self.group() if self.token == "(" else self.product(lambda: self.unary(functions=False))
        if name in ("log", "ln"):
            value = (
                "call",
                "log",
                argument,
                base or (("num", Fraction(10)) if name == "log" else ("call", "exp", ("num", Fraction(1)))),
            )
        elif power == ("num", Fraction(-1)) and name in ("sin", "cos", "tan", "sinh", "cosh", "tanh"):
            return ("call", f"a{name}", argument)
        else:
            value = ("call", re.sub(r"^arc?(?=[sct])", "a", name), argument)
        return value if power is None else ("pow", value, power)


def negative(node: Node) -> Node:
    """The tree of minus another."""
    return ("num", -node[1]) if node[0] == "num" else ("mul", ("num", Fraction(-1)), node)
