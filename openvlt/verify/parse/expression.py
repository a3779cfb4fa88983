"""Expressions as nested tuples, and their value: exactly as a fraction, or in floats, or in sixty digits.

A node is `(kind, …)`: num Fraction · sym name · const name · add/mul nodes · pow base exponent · call name
node… · pct node · deg node.

Sizes are checked before anything is computed: a power, factorial or root is built only if its size is known
to be small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Protocol

MAX_BITS = 4_096
"""Largest numerator or denominator, in bits; about 1,200 digits."""
MAX_EXPONENT = 4_096
MAX_FACTORIAL = 170
Node = tuple[Any, ...]
"""An expression: its kind, then its parts."""


class Unreadable(ValueError):
    """The text is outside the grammar or its bounds, which doesn't make it a wrong answer."""


class Undefined(ArithmeticError):
    """The expression has no finite value here (division by zero, overflow, outside a function's domain)."""


def _bits(value: Fraction) -> int:
    return max(abs(value.numerator).bit_length(), value.denominator.bit_length())


def _check_size(value: Fraction) -> Fraction:
    if _bits(value) > MAX_BITS:
        raise Unreadable("a number of more than 4,096 bits")
    return value


def _root(value: Fraction, degree: int) -> Fraction | None:
    """The exact real root of a fraction if it is rational."""
    if value < 0:
        root = _root(-value, degree) if degree % 2 else None
        return None if root is None else -root
    top, bottom = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _integer_root(n: int, degree: int) -> int | None:
    """The root of a natural number if it is a natural number too."""
    low, high = 0, 1 << (n.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= n else (low, middle - 1)
    return low if low**degree == n else None


def power(base: Fraction, exponent: Fraction) -> Fraction | None:
    """`base ** exponent` if it is rational, else None.

    Raises Unreadable when the result would be too large, Undefined for a negative power of zero.
    """
    if base == 0 and exponent <= 0:
        raise Undefined("zero to a power that isn't positive")
    if abs(exponent) > MAX_EXPONENT and base not in (0, 1, -1):
        raise Unreadable("an exponent above 4,096")
    if exponent.denominator > 60:
        return None
    if (_bits(base) - 1) * abs(exponent) > MAX_BITS:
        raise Unreadable("a power of more than 4,096 bits")
    root = base if exponent.denominator == 1 else _root(base, exponent.denominator)
    return (
        None if root is None else root ** (exponent.numerator % 2 if abs(root) == 1 else exponent.numerator)
    )


def _factorial(n: Fraction) -> Fraction | None:
    if n.denominator != 1 or n < 0:
        return None
    if n > MAX_FACTORIAL:
        raise Unreadable("a factorial above 170!")
    return Fraction(math.factorial(int(n)))


def _binomial(n: Fraction, k: Fraction) -> Fraction | None:
    if n.denominator != 1 or k.denominator != 1 or not 0 <= n <= MAX_EXPONENT or k < 0:
        return None
    return Fraction(math.comb(int(n), int(k)))


def _permutations(n: Fraction, k: Fraction) -> Fraction | None:
    """n!/(n - k)!, the number of ordered selections."""
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n:
        return None
    if n > MAX_FACTORIAL:
        raise Unreadable("permutations of more than 170 things")
    return Fraction(math.perm(int(n), int(k)))


def _fold_integers(function: Callable[..., int]) -> Callable[..., Fraction | None]:
    """A function of integers as one of fractions; None if one isn't an integer."""

    def fold(*values: Fraction) -> Fraction | None:
        return (
            _check_size(Fraction(function(*map(int, values))))
            if all(v.denominator == 1 for v in values)
            else None
        )

    return fold


_EXACT: Mapping[str, Callable[..., Fraction | None]] = {
    "sqrt": lambda x: _root(x, 2),
    "abs": lambda x: abs(x),
    "floor": lambda x: Fraction(math.floor(x)),
    "ceil": lambda x: Fraction(math.ceil(x)),
    "factorial": _factorial,
    "binom": _binomial,
    "perm": _permutations,
    "root": lambda x, degree: _root(x, int(degree)),
    "gcd": _fold_integers(math.gcd),
    "lcm": _fold_integers(math.lcm),
    "mod": lambda x, y: x - y * math.floor(x / y) if y else None,
    "max": lambda *x: max(x),
    "min": lambda *x: min(x),
}


def exact(node: Node) -> Fraction | None:
    """The rational value of an expression; None if it cannot be found without approximation.

    Raises Unreadable (too large) and Undefined (division by zero): both before anything large is built.
    """
    kind = node[0]
    if kind == "num":
        return node[1]
    if kind in ("sym", "const"):
        return None
    found = [exact(child) for child in (node[2:] if kind == "call" else node[1:])]
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        return None
    if kind == "add":
        return _check_size(sum(values, Fraction(0)))
    if kind == "mul":
        return _check_size(math.prod(values, start=Fraction(1)))
    if kind == "pow":
        return power(values[0], values[1])
    if kind == "pct":
        return values[0] / 100
    return _EXACT[node[1]](*values) if kind == "call" and node[1] in _EXACT else None


class Backend(Protocol):
    """The arithmetic that `evaluate` computes in. Values are numbers of the backend's own type."""

    @property
    def constants(self) -> Mapping[str, Any]:
        """The values of pi, e, i and phi."""
        ...

    @property
    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """The functions by the names that `call` nodes use."""
        ...

    def number(self, value: Fraction) -> Any:
        """The backend's number for a fraction."""


class Floats:
    """Double-precision complex arithmetic for `evaluate`: enough to refute equality in microseconds."""

    import cmath as _c

    constants: Mapping[str, Any] = {"pi": math.pi, "e": math.e, "i": 1j, "phi": (1 + 5**0.5) / 2}
    functions: Mapping[str, Callable[..., Any]] = {
        "sqrt": _c.sqrt,
        "sin": _c.sin,
        "cos": _c.cos,
        "tan": _c.tan,
        "asin": _c.asin,
        "acos": _c.acos,
        "atan": _c.atan,
        "sinh": _c.sinh,
        "cosh": _c.cosh,
        "tanh": _c.tanh,
        "exp": _c.exp,
        "ln": _c.log,
        "abs": abs,
        "root": lambda x, degree: _odd_root(x, degree.real),
        "log": lambda x, base: Floats._c.log(x) / Floats._c.log(base),
        "floor": lambda x: math.floor(_real(x)),
        "ceil": lambda x: math.ceil(_real(x)),
        "max": lambda *x: max(map(_real, x)),
        "min": lambda *x: min(map(_real, x)),
        "factorial": lambda x: math.gamma(_real(x) + 1),
        "binom": lambda n, k: _gamma_binomial(n, k, math.gamma),
    }

    @staticmethod
    def number(value: Fraction) -> complex:
        """The nearest double."""
        return complex(value.numerator / value.denominator)


FLOATS = Floats()


class HighPrecision:
    """Arithmetic in 60 digits by mpmath, which sympy installs, for numbers that floats cannot tell apart."""

    def __init__(self) -> None:
        import mpmath

        self.mp = mp = mpmath.MPContext()
        mp.dps = 60
        self.constants = {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1), "phi": +mp.phi}
        self.functions = {
            name: getattr(mp, name)
            for name in ("sqrt sin cos tan asin acos atan sinh cosh tanh exp ln floor ceil factorial").split()
        } | {
            "abs": abs,
            "root": lambda x, degree: _odd_root(x, degree.real, mp.mpf(1)),
            "log": lambda x, base: mp.log(x) / mp.log(base),
            "max": lambda *x: max(v.real for v in x),
            "min": lambda *x: min(v.real for v in x),
            "binom": lambda n, k: _gamma_binomial(n, k, mp.gamma),
        }

    def number(self, value: Fraction) -> Any:
        """The nearest number of 60 digits."""
        return self.mp.mpf(value.numerator) / value.denominator


def _real(value: complex | float) -> float:
    value = complex(value)
    if abs(value.imag) > 1e-9:
        raise Undefined("a real number was needed")
    return value.real


def _odd_root(x: Any, degree: Any, one: Any = 1.0) -> Any:
    """The root of odd degree, which is real for every real number."""
    if abs(x.imag) > 1e-9 * abs(x):
        return x ** (one / degree)
    return -((-x.real) ** (one / degree)) if x.real < 0 else x.real ** (one / degree)


def _gamma_binomial(n: Any, k: Any, gamma: Callable[[Any], Any]) -> Any:
    n, k = n.real, k.real
    return gamma(n + 1) / (gamma(k + 1) * gamma(n - k + 1))


def evaluate(node: Node, at: Mapping[str, Any], backend: Backend = FLOATS) -> Any:
    """The value of an expression, with the values of its symbols from `at`. Raises Undefined."""
    try:
        return _evaluate(node, at, backend)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise Undefined(str(error)) from error


def _evaluate(node: Node, at: Mapping[str, Any], backend: Backend) -> Any:
    kind = node[0]
    if kind == "num":
        return backend.number(node[1])
    if kind == "sym":
        return at[node[1]]
    if kind == "const":
        return backend.constants[node[1]]
    values = [_evaluate(child, at, backend) for child in (node[2:] if kind == "call" else node[1:])]
    if kind == "add":
        return sum(values[1:], values[0])
    if kind == "mul":
        return math.prod(values[1:], start=values[0])
    if kind == "pow":
        if abs(values[1]) > MAX_EXPONENT:
            raise Undefined("an exponent above 4,096")
        return values[0] ** values[1]
    if kind == "pct":
        return values[0] / 100
    if kind == "deg":
        return values[0] * backend.constants["pi"] / 180
    if node[1] not in backend.functions:
        raise Undefined(f"{node[1]} of numbers that aren't exact")
    return backend.functions[node[1]](*values)


def symbols(node: Node) -> frozenset[str]:
    """The names of the symbols of an expression."""
    if node[0] == "sym":
        return frozenset((node[1],))
    return frozenset().union(*(symbols(child) for child in node[1:] if isinstance(child, tuple)))


def substitute(node: Node, name: str, value: Fraction) -> Node:
    """The expression with a number in place of a symbol."""
    if node == ("sym", name):
        return ("num", value)
    return tuple(substitute(part, name, value) if isinstance(part, tuple) else part for part in node)


def format_expression(node: Node) -> str:
    """The expression in plain infix, fully bracketed."""
    kind = node[0]
    if kind in ("num", "sym", "const"):
        return str(node[1])
    if kind in ("add", "mul", "pow"):
        return "(" + {"add": " + ", "mul": "*", "pow": "^"}[kind].join(map(format_expression, node[1:])) + ")"
    if kind == "call":
        return f"{node[1]}({', '.join(map(format_expression, node[2:]))})"
    return format_expression(node[1]) + {"pct": "%", "deg": "°"}[kind]
