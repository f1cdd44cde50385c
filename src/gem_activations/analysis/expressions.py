"""Activations as text, such as `x*sin(x)` or `max(x, 0)^2`: a grammar of its own, so that no text is ever evaluated.

    sum      = product (("+" | "-") product)*
    product  = sign (("*" | "/") sign)*
    sign     = ("+" | "-") sign | power
    power    = atom (("^" | "**") sign)?
    atom     = number | "x" | "pi" | "e" | "(" sum ")" | function "(" sum ("," sum)* ")"
             | "piecewise" "(" ("(" sum "," condition ")" ","?)* ")"
    condition = "true" | sum ("<" | "<=" | ">" | ">=") sum

Numbers are exact: 0.1 is 1/10.
"""

import re
from collections.abc import Callable
from typing import Any

import sympy as sp

from .balls import Expr
from .values import CertificateError

LONGEST = 1_000
_DEEPEST = 50
_HIGHEST_POWER = 1_000
_LONGEST_NUMBER = 60
_MOST_BITS = 2_000
_TOKEN = re.compile(
    r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([A-Za-z_]\w*)|(\*\*|<=|>=|[-+*/^(),<>]))"
)
_INPUT = sp.Symbol("x", real=True)
_NAMES: dict[str, Expr] = {"x": _INPUT, "pi": sp.pi, "e": sp.E}
_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    **{f.__name__: (1, f) for f in (sp.exp, sp.log, sp.erf, sp.erfc, sp.tanh, sp.sinh, sp.cosh)},
    **{f.__name__: (1, f) for f in (sp.sin, sp.cos, sp.atan, sp.asinh)},
    "sqrt": (1, sp.sqrt),
    "abs": (1, sp.Abs),
    "relu": (1, lambda value: sp.Max(value, 0)),
    "sigmoid": (1, lambda value: 1 / (1 + sp.exp(-value))),
    "softplus": (1, lambda value: sp.log(1 + sp.exp(value))),
    "max": (2, sp.Max),
    "min": (2, sp.Min),
}
_ORDERS: dict[str, Callable[[Expr, Expr], Any]] = {"<": sp.Lt, "<=": sp.Le, ">": sp.Gt, ">=": sp.Ge}


def parse_expression(text: str) -> Expr:
    """Return the SymPy expression that a text stands for, in the real symbol x.

    Args:
        text: At most 1,000 characters of the grammar above. Functions: abs, asinh, atan, cos, cosh, erf, erfc, exp,
            log, max, min, piecewise, relu, sigmoid, sin, sinh, softplus, sqrt, tanh.
    Raises: CertificateError: the text is not of the grammar, or too long.
    Example:
        >>> parse_expression("x^3 / (0.5 + x^2)"), parse_expression("Piecewise((x, x < 1), (2*x - 1, True))")
        (x**3/(x**2 + 1/2), Piecewise((x, x < 1), (2*x - 1, True)))
    """
    if len(text) > LONGEST:
        raise CertificateError(f"an expression of {len(text)} characters; at most {LONGEST} are read")
    return _Reader(text).read()


class _Reader:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, int]] = []
        self.next = self.depth = 0
        place, end = 0, len(text.rstrip())
        while place < end:
            found = _TOKEN.match(text, place)
            if found is None:
                raise self.error("cannot be read", place)
            self.tokens.append((found[0].strip(), found.end() - len(found[0].strip())))
            place = found.end()

    def error(self, problem: str, place: int) -> CertificateError:
        return CertificateError(f"the expression {self.text!r} {problem} at {self.text[place : place + 20]!r}")

    @property
    def token(self) -> str:
        return self.tokens[self.next][0] if self.next < len(self.tokens) else ""

    @property
    def place(self) -> int:
        return self.tokens[self.next][1] if self.next < len(self.tokens) else len(self.text)

    def take(self, *wanted: str) -> str:
        """Take the next token if it is one of those wanted, else return ""."""
        token = self.token
        if token not in wanted:
            return ""
        self.next += 1
        return token

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            raise self.error(f"lacks {wanted!r}", self.place)

    def read(self) -> Expr:
        result = self.sum()
        if self.token:
            raise self.error("goes on unexpectedly", self.place)
        return result

    def sum(self) -> Expr:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.error(f"is nested more than {_DEEPEST} deep", self.place)
        result = self.product()
        while sign := self.take("+", "-"):
            result = result + self.product() if sign == "+" else result - self.product()
        self.depth -= 1
        return result

    def product(self) -> Expr:
        result = self.sign()
        while operator := self.take("*", "/"):
            place, factor = self.place, self.sign()
            if operator == "/" and factor == 0:
                raise self.error("divides by 0", place)
            result = result * factor if operator == "*" else result / factor
        return result

    def sign(self) -> Expr:
        negative = False
        while sign := self.take("+", "-"):
            negative ^= sign == "-"
        value = self.power()
        return -value if negative else value

    def power(self) -> Expr:
        base = self.atom()
        if not self.take("^", "**"):
            return base
        place, exponent = self.place, self.sign()
        if exponent.is_Rational and max(abs(exponent.p), exponent.q) > _HIGHEST_POWER:
            raise self.error(f"has a power beyond {_HIGHEST_POWER}", place)
        numbers = base.is_Rational and exponent.is_Rational
        if numbers and abs(exponent) * int(base.p * base.q).bit_length() > _MOST_BITS:
            raise self.error("has a power of too many digits", place)
        if base == 0 and exponent.is_negative:
            raise self.error("divides by 0", place)
        return base**exponent

    def atom(self) -> Expr:
        place, token = self.place, self.token
        self.next += 1
        if token[:1].isdigit() or token[:1] == ".":
            digits, _, power = token.lower().partition("e")
            if len(digits) > _LONGEST_NUMBER or abs(int(power or 0)) > _LONGEST_NUMBER:
                raise self.error(f"has a number of more than {_LONGEST_NUMBER} digits", place)
            return sp.Rational(token)
        if token == "(":
            value = self.sum()
            self.expect(")")
            return value
        name = token.lower()
        if name in _NAMES:
            return _NAMES[name]
        if name == "piecewise":
            return self.piecewise()
        if name not in _FUNCTIONS:
            if token[:1].isalpha() or token[:1] == "_":
                known = ", ".join(sorted([*_NAMES, *_FUNCTIONS, "piecewise"]))
                raise self.error(f"has the unknown name {token!r}; known are {known};", place)
            raise self.error("lacks a number, x or a function", place)
        self.expect("(")
        values = [self.sum()]
        while self.take(","):
            values.append(self.sum())
        self.expect(")")
        least, function = _FUNCTIONS[name]
        if len(values) < least or (least == 1 and len(values) > 1):
            raise self.error(f"gives {name} {len(values)} argument(s)", place)
        return function(*values)

    def piecewise(self) -> Expr:
        self.expect("(")
        pairs: list[tuple[Expr, Any]] = []
        while not pairs or self.take(","):
            self.expect("(")
            value = self.sum()
            self.expect(",")
            pairs.append((value, self.condition()))
            self.expect(")")
        self.expect(")")
        return sp.Piecewise(*pairs)

    def condition(self) -> Any:
        if self.token.lower() == "true":
            self.next += 1
            return sp.true
        left, place = self.sum(), self.place
        order = self.take(*_ORDERS)
        if not order:
            raise self.error("lacks a comparison", place)
        return _ORDERS[order](left, self.sum())
