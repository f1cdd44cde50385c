"""The constants of every activation that code needs, rounded outward to float64 and float32.

`CONSTANTS["gelu"].lipschitz_float32` is never below the truth. The certificate of an activation is made when one of its
constants is first asked for.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from ..catalog import ENTRIES, parse
from .certification import EXTRA_MEMBERS, certify
from .values import Certificate, CertificateError, Value, to_cell

# Constant -> (row of the certificate, -1 for an infimum, 1 for a supremum, 0 for a number between two bounds).
ROWS = {
    "lipschitz": ("lipschitz", 1),
    "slope_infimum": ("slope_infimum", -1),
    "infimum": ("infimum", -1),
    "second_derivative": ("gradient_lipschitz", 1),
    "mean": ("mean", 0),
    "second_moment": ("second_moment", 0),
    "gain": ("gain", 0),
    "chi": ("chi", 0),
}


@dataclass(frozen=True)
class Constants:
    """The constants of one activation: sup |f'|, inf f', inf f, sup |f''|, and E f, E f^2, gain and chi at N(0, 1).

    For each NAME of `ROWS` there are `NAME`, a Value with the exact expression and the enclosure, and `NAME_float64`
    and `NAME_float32`: the bound above for a supremum, the bound below for an infimum, and both for the others.

    Example:
        >>> CONSTANTS["hardswish"].lipschitz_float32, CONSTANTS["hardswish"].lipschitz.exact
        (1.5, '3/2')
    """

    name: str

    @property
    def infimum_at(self) -> tuple[Value, ...]:
        """Where inf f is taken."""
        return certificate(self.name)["infimum"].where

    @property
    def inflections(self) -> tuple[Value, ...]:
        """The inflection points."""
        return certificate(self.name)["inflection_points"].where

    def __getattr__(self, name: str) -> Any:
        row, _, dtype = name.partition("_float")
        if row not in ROWS or dtype not in ("", "32", "64"):
            raise AttributeError(f"{name!r} is no constant; expected one of {', '.join(ROWS)}, alone or with _float64")
        key, side = ROWS[row]
        value = certificate(self.name)[key].value
        if not dtype:
            return value
        bounds = tuple(outward(value, direction, np.float32 if dtype == "32" else np.float64) for direction in (-1, 1))
        return bounds if side == 0 else bounds[side > 0]


@cache
def certificate(name: str) -> Certificate:
    """Return the certificate that the constants of a name come from."""
    return certify(name)


def outward(value: Value, direction: int, dtype: type[np.floating[Any]]) -> float:
    """Return a number of the dtype at least (direction 1) or at most (-1) a value of a certificate.

    Raises: CertificateError: the row is open.
    """
    if value.kind == "open":
        raise CertificateError(f"the constant is not proved: {value.note}")
    if value.kind in ("infinite", "absent"):
        return -np.inf if value.exact == "-oo" else np.inf
    exact = Fraction(value.high if direction > 0 else value.low)
    with np.errstate(over="ignore"):
        near = dtype(float(exact))
    while (float(near) if np.isinf(near) else Fraction(float(near)) - exact) * direction < 0:
        near = np.nextafter(near, dtype(direction * np.inf))
    return float(near)


class _Table(Mapping[str, Constants]):
    """Name of an activation -> its constants: the catalog at its defaults, gem(n=2) and gem(n=3), or any parameters."""

    def __getitem__(self, name: str) -> Constants:
        return Constants(str(parse(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(str(parse(name)) for name in [*ENTRIES, *EXTRA_MEMBERS]))

    def __len__(self) -> int:
        return len(list(iter(self)))


CONSTANTS = _Table()


def constants_csv(certificates: Sequence[Certificate]) -> str:
    """Return the constants of activations as CSV: exact expression, enclosure, and numbers rounded outward."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "constant", "exact", "low", "high", "float64", "float32", "where", "note"])
    for found in certificates:
        for row, (key, side) in ROWS.items():
            value = found[key].value
            rounded = ["", ""]
            if value.kind != "open":
                pairs = [[repr(outward(value, d, dtype)) for d in (-1, 1)] for dtype in (np.float64, np.float32)]
                rounded = [" ".join(pair) if side == 0 else pair[side > 0] for pair in pairs]
            where = "; ".join(point.exact or point.low for point in found[key].where)
            writer.writerow([found.name, row, value.exact, value.low, value.high, *rounded, where, value.note])
        points = found["inflection_points"]
        where = "; ".join(point.exact or point.low for point in points.where)
        writer.writerow([found.name, "inflections", points.value.exact, "", "", "", "", where, points.value.note])
    return text.getvalue()


def typeset(value: Value) -> Value:
    """Return the value with its exact expression as LaTeX between dollars; a plain number stays."""
    if value.kind != "exact" or value.approx is None or value.exact == f"{value.approx:.10g}":
        return value
    return replace(value, exact=f"${sp.latex(sp.sympify(value.exact))}$")


def constants_markdown(certificates: Sequence[Certificate]) -> str:
    """Return the constants of activations as a Markdown page, to ten digits and exact if there is an expression."""
    lines = [
        "# Constants of every activation",
        "",
        "sup |f'|, inf f', inf f, sup |f''|, and E f, E f^2, gain and chi for a standard normal input. In Python",
        '`gem_activations.analysis.CONSTANTS["gelu"].lipschitz_float32` is the float32 next above the truth; an',
        "infimum is rounded down, and the others are pairs of bounds. [As CSV](constants.csv).",
        "",
        "| activation | " + " | ".join(name.replace("_", " ") for name in ROWS) + " |",
        "|---" * (len(ROWS) + 1) + "|",
    ]
    for found in certificates:
        cells = [
            str(replace(typeset(found[key].value), note="")) or found[key].value.note.partition(":")[0]
            for key, _ in ROWS.values()
        ]
        lines.append(f"| `{found.name}` | " + " | ".join(map(to_cell, cells)) + " |")
    return "\n".join(lines) + "\n"
