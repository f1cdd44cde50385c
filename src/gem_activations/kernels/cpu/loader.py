"""Finds, checks and loads the C library; a library that cannot be trusted is refused with the reason."""

import hashlib
import hmac
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import BackendError
from ...spec import GemSpec
from .library import DTYPES, Library, spec_handle

LIBRARY = Path(__file__).with_name("gem_kernels.so")
_BUILD_ADVICE = "install the package again where a C compiler (gcc or clang) is present"


class Status(NamedTuple):
    """Whether the library is in use: the reason where it is not, the instruction set and the file where it is."""

    available: bool
    reason: str
    isa: str
    path: str


def load() -> Library | None:
    """Give the library, or None where it was not built or is refused; `status` has the reason. Loaded once."""
    return _load()[0]


def status() -> Status:
    """Tell whether the library is in use, and if not why.

    Example:
        >>> status().available or status().reason != ""
        True
    """
    library, reason = _load()
    return Status(library is not None, reason, library.isa if library else "", str(library.path) if library else "")


@cache
def _load() -> tuple[Library | None, str]:
    try:
        return open_library(LIBRARY), ""
    except BackendError as error:
        return None, str(error)


def open_library(path: Path) -> Library:
    """Load a library after checking its SHA-256, then check its version and a few of its values.

    The checksum stands beside the file, with `.sha256` added to its name. It comes first: a truncated library could
    end the process while it is mapped.

    Raises: BackendError: no file, no or another checksum, not loadable here, another version, or wrong values.
    """
    try:
        content = path.read_bytes()
    except OSError:
        raise BackendError(f"the C kernels were not built: there is no {path}; {_BUILD_ADVICE}") from None
    try:
        expected = path.with_name(path.name + ".sha256").read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise BackendError(f"{path} has no checksum beside it; {_BUILD_ADVICE}") from None
    if not hmac.compare_digest(hashlib.sha256(content).hexdigest(), expected):
        raise BackendError(f"{path} does not match its checksum: the file is damaged; {_BUILD_ADVICE}")
    library = Library(path)
    _check_values(library)
    return library


def _check_values(library: Library) -> None:
    """Raise BackendError where values, or gradients from the output, are not the oracle's."""
    x = np.linspace(-2, 4, 37, dtype=np.float32)
    ones = np.ones_like(x)
    got = np.full((2, x.size), np.nan, np.float32)
    for spec in (GemSpec(1, 1.0), GemSpec(3, 1e-4, 0.01)):
        handle, y = spec_handle(spec), spec(x).astype(np.float32)
        codes = (
            library.forward(handle, DTYPES["float32"], got[0].ctypes.data, x.ctypes.data, x.size, 1),
            library.backward_from_output(
                handle, DTYPES["float32"], got[1].ctypes.data, ones.ctypes.data, y.ctypes.data, x.size, 1
            ),
        )
        want = np.stack([spec(x), spec.derivative(x)])
        if codes != (0, 0) or not np.allclose(got, want, rtol=1e-5, atol=1e-30):
            raise BackendError(f"{library.path} computes wrong values on this machine; {_BUILD_ADVICE}")
