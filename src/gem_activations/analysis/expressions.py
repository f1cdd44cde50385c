"""The variable of every formula, and the name that annotations use for SymPy expressions.

SymPy's inline annotations give `Basic` for most results that are `Expr`, so a checker would reject correct code; `Expr`
is therefore `Any` to it.
"""

from fractions import Fraction
from typing import Any, TypeAlias

import sympy as sp

Expr: TypeAlias = Any
X = sp.Symbol("x", real=True)


def arguments(node: Expr) -> tuple[Expr, ...]:
    """Give the arguments of a SymPy node."""
    return node.args


def to_fraction(number: Expr) -> Fraction:
    """Give a SymPy rational as a fraction."""
    return Fraction(int(number.p), int(number.q))
