"""Certificates: every group of properties of one activation, as files and tables, and the constants that code needs.

`CONSTANTS["gelu"].lipschitz_float32` is never below the truth. The certificate of an activation is made when one of its
constants is first asked for.
"""

import csv
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial, reduce
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from .. import __version__
from ..catalog import ENTRIES, parse
from ..errors import ActivationNameError, SpecError, StoreError
from ..files import write_atomically
from ..grammar import parse_call, to_exact
from .approximation import distance
from .formulas import Formula, cost
from .proofs import GROUPS, Certificate, CertificateError, Property, UndecidedError, Value, time_limit, within_share
from .propagation import propagation
from .shape import gate, inverse, stationarity
from .smoothness import boundedness, smoothness, smoothness_constants
from .source import Target, parse_target, read

if TYPE_CHECKING:
    from rich.console import Console


EXTRA_MEMBERS = ("gem(n=2)", "gem(n=3)")
BUDGET = 60.0
MOST_PROCESSES = 2


def certify(target: Target, *, variance: float | Fraction = 1, budget: float = BUDGET) -> Certificate:
    """Prove the properties of an activation.

    Args:
        target: A string of the catalog such as `egem(eps=1/10000)`, an expression in x such as `x*tanh(x)` (see
            `gem_activations.analysis.source`), an `Activation`, a `GemSpec`, or a SymPy expression in one symbol
            with exact constants.
        variance: Variance q > 0 of the normal input of the signal-propagation rows.
        budget: Seconds that the proofs may take. A row may take a third of what is left; it is open after that.
    Returns: The certificate; a row that could not be proved is of kind "open", with the reason.
    Raises: GemError: an unknown name, a parameter out of range, or a function that has no certificate: free symbols,
        poles, rounded constants, unknown functions.
    Example:
        >>> certificate = certify("gelu")
        >>> print(certificate["lipschitz"].value)
        exp(-1)/sqrt(pi) + erf(1)/2 + 1/2 = 1.128904145
        >>> print(certificate["lipschitz"].where[0])
        sqrt(2) = 1.414213562
    """
    if not 0 < budget < float("inf"):
        raise CertificateError(f"budget={budget}: expected a finite number of seconds above 0")
    try:
        exact = to_exact(variance)
    except (TypeError, ValueError, OverflowError):
        exact = 0
    if exact <= 0:
        raise CertificateError(f"variance={variance}: expected a finite number above 0")
    q = sp.Rational(exact.numerator, exact.denominator)
    makers: dict[str, Callable[[Formula], list[Property]]] = {
        "class": smoothness,
        "bounds": boundedness,
        "stationarity": stationarity,
        "smoothness": smoothness_constants,
        "gate": gate,
        "distance": distance,
        "propagation": partial(propagation, variance=q),
        "inverse": inverse,
        "cost": cost,
    }
    with time_limit(budget):
        try:
            formula = within_share(lambda: read(target))
        except UndecidedError as error:
            raise CertificateError(f"{target} could not be read as analytic pieces: {error}") from None
        rows: list[Property] = []
        for group, title in GROUPS.items():
            try:
                rows += makers[group](formula)
            except CertificateError as error:
                rows.append(Property(group, f"{group}_open", title, Value("open", note=f"not closed: {error}")))
    spelled = [f"{p.expression} on ({p.low}, {p.high})" for p in formula.pieces]
    text = "; ".join(spelled) if len(spelled) > 1 else str(formula.pieces[0].expression)
    tools = {"gem-activations": __version__, "sympy": sp.__version__, "python-flint": version("python-flint")}
    return Certificate(formula.name, formula.title, text, formula.reading, str(q), tools, tuple(rows))


def certify_all(
    names: Sequence[str], out: Path | None = None, variance: str = "1", budget: float = BUDGET
) -> Iterator[Certificate]:
    """Return the certificates in the order asked for, and write the files of each as it is ready.

    Args:
        names: Strings of the catalog, or expressions in x; `all` stands for every entry at its defaults, and
            gem(n=2) and gem(n=3).
        out: Folder of the files NAME.json and NAME.md; None writes none. An earlier certificate of the same activation
            and variance is replaced, any other file refused.
        variance, budget: As for `certify`; the variance as text, exact.
    Raises: GemError: a bad name, parameter or variance, found before any work; StoreError: the folder cannot be
        written, or holds another file of that name.
    """
    names = expand(names)
    try:
        _, arguments = parse_call(f"normal(variance={variance})")
    except ActivationNameError:
        arguments = {}
    if not arguments.get("variance", 0) > 0:
        raise SpecError(f"variance {variance!r}: expected a number above 0, such as 2, 0.5 or 1/4")
    exact = Fraction(arguments["variance"])
    prove = partial(certify, variance=exact, budget=budget)
    if out is not None:
        for name in names:
            _require_free(out / f"{file_stem(name, exact)}.json", name, exact)
    if len(names) == 1:
        yield _written(prove(names[0]), out, exact)
        return
    processes = min(MOST_PROCESSES, os.cpu_count() or 1, len(names))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for certificate in pool.map(prove, names):
            yield _written(certificate, out, exact)


def expand(names: Sequence[str]) -> list[str]:
    """Return the canonical strings that the names stand for, each once, `all` expanded.

    Raises: ActivationNameError, SpecError: as `catalog.parse`, or no name is given.
    Example:
        >>> expand(["gem", "gem( n = 1 )", "egem(eps=1/10000)", "x*sin(x)"])
        ['gem', 'egem(eps=1e-4)', 'x*sin(x)']
    """
    if not names:
        raise ActivationNameError(
            "name at least one activation, for example `gelu`, or `all`; `gem-act list` shows them"
        )
    wanted: list[str] = []
    for name in names:
        wanted += [*ENTRIES, *EXTRA_MEMBERS] if name.strip() == "all" else [name]
    return list(dict.fromkeys(str(parse_target(name)) for name in wanted))


def file_stem(name: str, variance: Fraction = Fraction(1)) -> str:
    """Return a file name for the certificate of an activation.

    Example:
        >>> file_stem("egem(n=2, eps=1e-4)", Fraction(1, 4))
        'egem-n-2-eps-1e-4-variance-1-4'
    """
    stem = re.sub(r"[^A-Za-z0-9.+-]+", "-", name).strip("-")
    if name.partition("(")[0] not in ENTRIES:
        # Different expressions may leave the same letters.
        stem = f"{stem[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return stem if variance == 1 else f"{stem}-variance-{variance.numerator}-{variance.denominator}"


def _require_free(path: Path, name: str, variance: Fraction) -> None:
    """Refuse a file that is there and is not an earlier certificate of the same activation and variance."""
    if not path.is_file():
        return
    try:
        found = Certificate.from_json(path.read_text(encoding="utf-8"))
        if (found.name, found.variance) == (name, str(variance)):
            return
    except (CertificateError, UnicodeDecodeError):
        pass
    raise StoreError(f"{path} is not a certificate of {name} made by this version; choose another --out, or remove it")


def _written(certificate: Certificate, folder: Path | None, variance: Fraction) -> Certificate:
    if folder is None:
        return certificate
    stem = file_stem(certificate.name, variance)
    try:
        write_atomically(folder / f"{stem}.json", certificate.to_json().encode())
        write_atomically(folder / f"{stem}.md", to_markdown(certificate).encode())
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from None
    return certificate


COMPARED = {
    "order": "C^k, k =",
    "dead_regions": "dead regions",
    "monotonicity": "monotone",
    "infimum": "inf f",
    "lipschitz": "sup |f'|",
    "slope_infimum": "inf f'",
    "gradient_lipschitz": "sup |f''|",
    "distance_sup": "sup distance to ReLU",
    "distance_l2": "L^2 distance to ReLU",
    "gain": "gain",
    "chi": "chi",
    "map_slope": "variance-map slope",
    "cost_value": "operations for f",
}


def to_markdown(certificate: Certificate) -> str:
    """Write a certificate as Markdown, its formulas as LaTeX: the definition, then a table for each group."""
    parts = [f"# {certificate.title}: `{certificate.name}`", "", f"f(x) = `{certificate.formula}`"]
    if certificate.reading:
        parts += ["", to_cell(certificate.reading)]
    for group, title in GROUPS.items():
        rows = [row for row in certificate.properties if row.group == group]
        if rows:
            parts += ["", f"## {title}", "", "| property | value | where | proved by |", "|---|---|---|---|"]
        for row in rows:
            cells = (row.title, str(typeset(row.value)), "; ".join(str(typeset(p)) for p in row.where), row.method)
            parts.append(f"| {' | '.join(map(to_cell, cells))} |")
    return "\n".join(parts) + "\n"


# "inf f" is an infimum; elsewhere the three spellings mean the same.
_INFINITY = re.compile(r"\boo\b|(?<=[-+^])inf(?:inity)?\b|(?<=measure )inf\b|^inf(?:inity|inite)?(?=$|:)")
# The formulas of titles, notes and methods, plain and as LaTeX, # for any number.
_FORMULAS = {
    "f in C^k": r"f \in C^k", "C^k": "C^k", "C^∞": r"C^\infty", "C^(2n)": "C^{2n}", "f'": "f'", "f''": "f''",
    "inf f": r"\inf f", "sup f": r"\sup f", "inf f'": r"\inf f'", "lim f": r"\lim f", "f' = 0": "f' = 0",
    "sup |f'|": r"\sup \left\lvert f' \right\rvert",
    "sup |f''|": r"\sup \left\lvert f'' \right\rvert",
    "sup |f^(#)|": r"\sup \left\lvert f^{(#)} \right\rvert",
    "sup |f - ReLU|": r"\sup \left\lvert f - \mathrm{ReLU} \right\rvert",
    "L^∞": r"L^\infty", "L^#": "L^#", "L^p": "L^p", "f - ReLU = # x": r"f - \mathrm{ReLU} = # x",
    "|f - ReLU|^p": r"\left\lvert f - \mathrm{ReLU} \right\rvert^p",
    "|f - ReLU|^#": r"\left\lvert f - \mathrm{ReLU} \right\rvert^#",
    "|x|^-#": r"\left\lvert x \right\rvert^{-#}", "x^-#": "x^{-#}", "f(x)/x": "f(x)/x", "f(x) / x": "f(x)/x",
    "x ~ N(0, #)": r"x \sim N(0, #)", "x ~ N(0, q)": r"x \sim N(0, q)", "E f(x)": r"\operatorname{E} f(x)",
    "E f(x)^2": r"\operatorname{E} f(x)^2", "E f'(x)^2": r"\operatorname{E} f'(x)^2", "h/2": "h/2",
    "V(q)/q": "V(q)/q", "x^2": "x^2", "x = 1/t": "x = 1/t", "sqrt(q / E f^2)": r"\sqrt{q / \operatorname{E} f^2}",
    "q E f'^2 / E f^2": r"q \operatorname{E} f'^2 / \operatorname{E} f^2", "y = f(x)": "y = f(x)",
    "q -> E f(x)^2": r"q \to \operatorname{E} f(x)^2", "E 1/(x^2 + b)": r"\operatorname{E} 1/(x^2 + b)",
    "(dx/x) / (dy/y) = f / (x f')": r"(\mathrm{d}x/x) / (\mathrm{d}y/y) = f / (x f')",
    "sup |(df'/f') / (dy/y) = f f'' / f'^2|":
        r"\sup \left\lvert (\mathrm{d}f'/f') / (\mathrm{d}y/y) = f f'' / f'^2 \right\rvert",
    "sup |f''/f'|": r"\sup \left\lvert f''/f' \right\rvert", "x^(2n)": "x^{2n}", "eps > 0": r"\varepsilon > 0",
    "(1 - leak) (2n+1)! / eps": r"(1 - \mathrm{leak}) (2n+1)! / \varepsilon", "2n+1": "2n+1",
    "(1 - leak) a^-#": r"(1 - \mathrm{leak}) a^{-#}", "p (2n - 1) > 1": "p (2n - 1) > 1", "p > #": "p > #",
    "x = a (F / (1 - F))^(1/(2n))": "x = a (F / (1 - F))^{1/(2n)}", "x (1 - F)": "x (1 - F)",
    "(norm)^p = a^(p+1) / # * B((p+1)/#, p - (p+1)/#)":
        r"(\mathrm{norm})^p = (a^{p+1} / #) B((p+1)/#, p - (p+1)/#)",
    "a = eps^(#)": r"a = \varepsilon^{#}", "sup = # a": r"\sup = # a", "sup = #**(#)/# a": r"\sup = #^{#} a / #",
    "eps = (# d^p / B((p+1)/#, p - (p+1)/#))^(#/(p+1))":
        r"\varepsilon = (# d^p / B((p+1)/#, p - (p+1)/#))^{#/(p+1)}", "eps = # d^#": r"\varepsilon = # d^#",
    "x f'/f = 1 + 2n (1 - F)": "x f'/f = 1 + 2n (1 - F)", "-2*n*(F - 1)": "-2n (F - 1)", "2*F*n": "2F n",
    "0 < F < 1": "0 < F < 1",
    "dx/x = (dy/y) / (1 + 2n (1 - F))": r"\mathrm{d}x/x = (\mathrm{d}y/y) / (1 + 2n (1 - F))",
}  # fmt: skip
_PATTERNS = {re.escape(text).replace(r"\#", r"(\d+(?:/\d+)?)"): latex for text, latex in _FORMULAS.items()}
_FORMULA = re.compile(rf"(?<![\w'^|/])(?:{'|'.join(sorted(_PATTERNS, key=len, reverse=True))})(?![\w'^|(/])")


def _as_latex(found: re.Match[str]) -> str:
    for pattern, latex in _PATTERNS.items():
        if parts := re.fullmatch(pattern, found[0]):
            return f"${reduce(lambda text, number: text.replace('#', number, 1), parts.groups(), latex)}$"
    raise AssertionError("one of the patterns matched")


def to_cell(text: str) -> str:
    """Return a text as a cell of a Markdown table, its formulas between dollars, with one spelling of infinity."""
    parts = re.split(r"(\$[^$]+\$)", _FORMULA.sub(_as_latex, _INFINITY.sub("∞", text)).replace("|", "\\|"))
    return "".join(part if part.startswith("$") else part.replace("*", "\\*") for part in parts)


def comparison_table(certificates: Sequence[Certificate], links: dict[str, str]) -> str:
    """Return one row for each activation, linked to its page: the properties of `COMPARED`, numbers to six digits."""
    lines = ["| activation | " + " | ".join(map(to_cell, COMPARED.values())) + " |", "|---" * (len(COMPARED) + 1) + "|"]
    for certificate in certificates:
        cells = [to_cell(brief_cell(certificate, key)) for key in COMPARED]
        lines.append(f"| [{certificate.title} `{certificate.name}`]({links[certificate.name]}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def brief_cell(certificate: Certificate, key: str) -> str:
    """Return a property for a table of many activations: a number to six digits, a few words, or "open"."""
    try:
        row = certificate[key]
    except CertificateError:
        return "open"
    if key == "dead_regions" and row.value.kind != "open":
        regions = ", ".join(region.note.split(", a half")[0].split(", measure")[0] for region in row.where)
        return _INFINITY.sub("∞", regions) or "none"
    value, text = row.value, row.value.note.partition(":")[0]
    if value.kind == "open":
        text = "open"
    elif value.low:
        text = value.low if value.approx is None else f"{value.approx:.6g}"
    elif value.kind == "infinite":
        text = value.exact
    elif value.kind == "absent":
        text = "inf" if value.note.startswith("infinite") else "none"
    return _INFINITY.sub("∞", text)


def print_certificate(certificate: Certificate, console: "Console") -> None:
    """Print the definition and every row, with the places and the method of each."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"[bold]{escape(certificate.title)}[/bold]  {escape(certificate.name)}", highlight=False)
    console.print(f"f(x) = {certificate.formula}", markup=False, highlight=False)
    if certificate.reading:
        console.print(certificate.reading, markup=False, highlight=False)
    for group, title in GROUPS.items():
        rows = [row for row in certificate.properties if row.group == group]
        if not rows:
            continue
        table = Table(
            "property", "value", "where", "proved by", title=title, title_justify="left", box=None, pad_edge=False
        )
        for row in rows:
            table.add_row(*map(escape, (row.title, str(row.value), "; ".join(map(str, row.where)), row.method)))
        console.print()
        console.print(table)
    console.print()


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
        return iter(expand(["all"]))

    def __len__(self) -> int:
        return len(expand(["all"]))


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
    """Return the value with its exact expression or asymptote as LaTeX between dollars; a plain number stays."""
    if value.note.startswith("y = "):
        return replace(value, note=f"$y = {sp.latex(sp.sympify(value.note[4:]))}$")
    if value.kind != "exact" or value.approx is None or value.exact == f"{value.approx:.10g}":
        return value
    return replace(value, exact=f"${sp.latex(sp.sympify(value.exact))}$")


def constants_markdown(certificates: Sequence[Certificate]) -> str:
    """Return the constants of activations as a Markdown page, to ten digits and exact if there is an expression."""
    lines = [
        "# Constants of every activation",
        "",
        r"$\sup \left\lvert f' \right\rvert$, $\inf f'$, $\inf f$, $\sup \left\lvert f'' \right\rvert$, and",
        r"$\operatorname{E} f$, $\operatorname{E} f^2$, gain and chi for a standard normal input. In Python",
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
