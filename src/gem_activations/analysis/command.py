"""`gem-act certify`: print certificates, and write each as JSON and as Markdown. Imports nothing heavy at the top."""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from .. import catalog
from ..errors import ActivationNameError, SpecError, StoreError
from ..grammar import parse_call

if TYPE_CHECKING:
    from .values import Certificate

EXTRA_MEMBERS = ("gem(n=2)", "gem(n=3)")
MOST_PROCESSES = 2


@dataclass(frozen=True)
class CertifyRequest:
    """What to certify and where to write it.

    Attributes:
        names: Strings of the catalog; `all` stands for every entry at its defaults, and gem(n=2) and gem(n=3).
        out: Folder of the files NAME.json and NAME.md; None writes none.
        variance: Variance of the normal input of the signal-propagation rows, exact, above 0.
    """

    names: tuple[str, ...]
    out: Path | None = None
    variance: str = "1"


def certify_all(request: CertifyRequest) -> "Iterator[Certificate]":
    """Give the certificates in the order asked for, and write the files of each as it is ready.

    Raises: GemError: a bad name, parameter or variance, found before any work; MissingDependencyError: SymPy or
        python-flint is not installed; StoreError: the folder cannot be written.
    """
    names = expand(request.names)
    variance = _read_variance(request.variance)
    alone = len(names) == 1
    for certificate in [_certify(names[0], variance)] if alone else _in_parallel(names, variance):
        if request.out is not None:
            _write(certificate, request.out)
        yield certificate


def expand(names: Sequence[str]) -> list[str]:
    """Give the canonical strings that the names stand for, each once, `all` expanded.

    Raises: ActivationNameError, SpecError: as `catalog.parse`, or no name is given.
    Example:
        >>> expand(["gem", "gem( n = 1 )", "egem(eps=1/10000)"])
        ['gem', 'egem(eps=1e-4)']
    """
    if not names:
        raise ActivationNameError(
            "name at least one activation, for example `gelu`, or `all`; `gem-act list` shows them"
        )
    wanted: list[str] = []
    for name in names:
        wanted += [*catalog.ENTRIES, *EXTRA_MEMBERS] if name.strip() == "all" else [name]
    return list(dict.fromkeys(str(catalog.parse(name)) for name in wanted))


def file_stem(name: str) -> str:
    """Give a file name for an activation.

    Example:
        >>> file_stem("egem(n=2, eps=1e-4)")
        'egem-n-2-eps-1e-4'
    """
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", name).strip("-")


def _certify(name: str, variance: str) -> "Certificate":
    from . import certify

    return certify(name, variance=Fraction(variance))


def _in_parallel(names: list[str], variance: str) -> "Iterator[Certificate]":
    processes = min(MOST_PROCESSES, os.cpu_count() or 1, len(names))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_certify, names, [variance] * len(names))


def _read_variance(text: str) -> str:
    try:
        _, arguments = parse_call(f"normal(variance={text})")
    except ActivationNameError:
        arguments = {}
    if not arguments.get("variance", 0) > 0:
        raise SpecError(f"variance {text!r}: expected a number above 0, such as 2, 0.5 or 1/4")
    return str(arguments["variance"])


def _write(certificate: "Certificate", folder: Path) -> None:
    from ..files import write_atomically
    from .values import to_markdown

    stem = file_stem(certificate.name)
    try:
        write_atomically(folder / f"{stem}.json", certificate.to_json().encode())
        write_atomically(folder / f"{stem}.md", to_markdown(certificate).encode())
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from None
