"""Certificates: every group of properties of one activation, proved or said to be open."""

from collections.abc import Callable
from fractions import Fraction

import sympy as sp

from ..grammar import to_exact
from .balls import Expr
from .formulas import Formula, cost
from .propagation import propagation
from .relu import distance, gate
from .shape import inverse, stationarity
from .smoothness import boundedness, smoothness, smoothness_constants
from .source import Target, read
from .values import GROUPS, Certificate, CertificateError, Property, Value


def certify(target: Target, *, variance: int | float | Fraction = 1) -> Certificate:
    """Prove the properties of an activation.

    Args:
        target: A string of the catalog such as `egem(eps=1/10000)`, an `Activation`, a `GemSpec`, or a SymPy
            expression in one symbol with exact constants.
        variance: Variance q > 0 of the normal input of the signal-propagation rows.
    Returns: The certificate; a group that could not be proved is one row of kind "open" with the reason.
    Raises: GemError: an unknown name, a parameter out of range, or a function that has no certificate: free symbols,
        poles, rounded constants, unknown functions.
    Example:
        >>> certificate = certify("gelu")
        >>> print(certificate["lipschitz"].value)
        exp(-1)/sqrt(pi) + erf(1)/2 + 1/2 = 1.128904145
        >>> print(certificate["lipschitz"].where[0])
        sqrt(2) = 1.414213562
    """
    formula, q = read(target), _variance(variance)
    makers: dict[str, Callable[[Formula], list[Property]]] = {
        "class": smoothness,
        "bounds": boundedness,
        "stationarity": stationarity,
        "smoothness": smoothness_constants,
        "gate": gate,
        "distance": distance,
        "propagation": lambda f: propagation(f, q),
        "inverse": inverse,
        "cost": cost,
    }
    rows = [row for group in GROUPS for row in _attempt(group, makers[group], formula)]
    return Certificate(formula.name, formula.title, _spell(formula), formula.reading, tuple(rows))


def _attempt(group: str, maker: Callable[[Formula], list[Property]], formula: Formula) -> list[Property]:
    try:
        return maker(formula)
    except CertificateError as error:
        return [Property(group, f"{group}_open", GROUPS[group], Value("open", note=f"not closed: {error}"), (), "")]


def _variance(variance: int | float | Fraction) -> Expr:
    try:
        exact = to_exact(variance)
    except (TypeError, ValueError, OverflowError):
        exact = 0
    if exact <= 0:
        raise CertificateError(f"variance={variance}: expected a finite number above 0")
    return sp.Integer(exact.numerator) / exact.denominator


def _spell(formula: Formula) -> str:
    if len(formula.pieces) == 1:
        return str(formula.pieces[0].expression)
    return "; ".join(f"{piece.expression} on ({piece.low}, {piece.high})" for piece in formula.pieces)
