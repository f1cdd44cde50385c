"""Certificates: every group of properties of one activation, and `gem-act certify`, which writes them to files."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import sympy as sp

from .. import __version__, catalog
from ..errors import ActivationNameError, SpecError, StoreError
from ..files import write_atomically
from ..grammar import parse_call, to_exact
from .formulas import Formula, cost
from .proofs import time_limit, within_share
from .propagation import propagation
from .relu import distance, gate
from .shape import inverse, stationarity
from .smoothness import boundedness, smoothness, smoothness_constants
from .source import Target, parse_target, read
from .values import GROUPS, Certificate, CertificateError, Property, UndecidedError, Value, to_markdown

EXTRA_MEMBERS = ("gem(n=2)", "gem(n=3)")
BUDGET = 60.0
MOST_PROCESSES = 2


def certify(target: Target, *, variance: float | Fraction = 1, budget: float = BUDGET) -> Certificate:
    """Prove the properties of an activation.

    Args:
        target: A string of the catalog such as `egem(eps=1/10000)`, an expression in x such as `x*tanh(x)` (see
            `gem_activations.analysis.expressions`), an `Activation`, a `GemSpec`, or a SymPy expression in one symbol
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
        rows = [row for group in GROUPS for row in _rows(group, makers[group], formula)]
    spelled = [f"{p.expression} on ({p.low}, {p.high})" for p in formula.pieces]
    text = "; ".join(spelled) if len(spelled) > 1 else str(formula.pieces[0].expression)
    tools = {"gem-activations": __version__, "sympy": sp.__version__, "python-flint": version("python-flint")}
    return Certificate(formula.name, formula.title, text, formula.reading, str(q), tools, tuple(rows))


def _rows(group: str, maker: Callable[[Formula], list[Property]], formula: Formula) -> list[Property]:
    try:
        return maker(formula)
    except CertificateError as error:
        return [Property(group, f"{group}_open", GROUPS[group], Value("open", note=f"not closed: {error}"))]


def certify_all(
    names: Sequence[str], out: Path | None = None, variance: str = "1", budget: float = BUDGET
) -> Iterator[Certificate]:
    """Return the certificates in the order asked for, and write the files of each as it is ready.

    Args:
        names: Strings of the catalog, or expressions in x; `all` stands for every entry at its defaults, and
            gem(n=2) and gem(n=3).
        out: Folder of the files NAME.json and NAME.md; None writes none. An earlier certificate of the same activation
            and variance is replaced, any other file refused.
        variance: Variance of the normal input of the signal-propagation rows, exact, above 0.
        budget: Seconds for each certificate; see `certify`.
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
        wanted += [*catalog.ENTRIES, *EXTRA_MEMBERS] if name.strip() == "all" else [name]
    return list(dict.fromkeys(str(parse_target(name)) for name in wanted))


def file_stem(name: str, variance: Fraction = Fraction(1)) -> str:
    """Return a file name for the certificate of an activation.

    Example:
        >>> file_stem("egem(n=2, eps=1e-4)", Fraction(1, 4))
        'egem-n-2-eps-1e-4-variance-1-4'
    """
    stem = re.sub(r"[^A-Za-z0-9.+-]+", "-", name).strip("-")
    if name.partition("(")[0] not in catalog.ENTRIES:
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
