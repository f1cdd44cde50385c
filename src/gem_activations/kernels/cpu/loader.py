"""Finds, checks and loads the C library; a library that cannot be trusted is refused with the reason."""

import hashlib
import struct
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import BackendError
from ...spec import GemSpec
from .library import OPERATIONS, Library

LIBRARY = Path(__file__).with_name("gem_kernels.so")
_BUILD_ADVICE = (
    "with a C compiler (gcc or clang) installed, run: pip install --force-reinstall --no-deps --no-cache-dir "
    "--no-binary gem-activations gem-activations (or, for the last word, the path of your checkout)"
)


class Status(NamedTuple):
    """Whether the library is in use: the reason if not, else its instruction set, its file, whether it was altered."""

    available: bool
    reason: str
    isa: str
    path: str
    altered: bool = False
    """The file is not as it was built, by the checksum beside it: it was stripped, signed or linked anew since."""


def load() -> Library | None:
    """Return the library, or None where it was not built or is refused; `status` has the reason. Loaded once."""
    return _load()[0]


def status() -> Status:
    """Return whether the library is in use, and if not why.

    Example:
        >>> status().available or status().reason != ""
        True
    """
    library, reason = _load()
    if library is None:
        return Status(False, reason, "", "")
    return Status(True, "", library.isa, str(library.path), _is_altered(library.path))


@cache
def _load() -> tuple[Library | None, str]:
    try:
        return open_library(LIBRARY), ""
    except BackendError as error:
        return None, str(error)


def open_library(path: Path) -> Library:
    """Load a library, then check its version and a few of its values.

    Its checksum is not asked: packagers strip and sign libraries, after which it works as before.

    Raises: BackendError: no file, not loadable here, another version, or wrong values.
    """
    if not path.exists():
        raise BackendError(f"the C kernels were not built: there is no {path}; {_BUILD_ADVICE}")
    if _is_truncated(path):
        raise BackendError(f"{path} is damaged: its end is missing; {_BUILD_ADVICE}")
    library = Library(path)
    _check_values(library)
    return library


def _is_truncated(path: Path) -> bool:
    """Return whether an ELF file ends before its table of sections, which stands last.

    Such a library could end the process while it is mapped. Other systems refuse it themselves.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head[:6] != b"\x7fELF\x02\x01":
        return False
    if len(head) < 64:
        return True
    (table,), (width, count) = struct.unpack_from("<Q", head, 0x28), struct.unpack_from("<HH", head, 0x3A)
    return path.stat().st_size < table + width * count


def _is_altered(path: Path) -> bool:
    try:
        built = path.with_name(path.name + ".sha256").read_bytes().decode("ascii", "replace").strip()
    except OSError:
        return True
    return hashlib.sha256(path.read_bytes()).hexdigest() != built


def _check_values(library: Library) -> None:
    """Raise BackendError where values, or gradients from the output, are not the oracle's."""
    x = np.linspace(-2, 4, 37, dtype=np.float32)
    ones = np.ones_like(x)
    got = np.full((2, x.size), np.nan, np.float32)
    for spec in (GemSpec(1, 1.0), GemSpec(3, 1e-4, 0.01)):
        y = spec(x).astype(np.float32)
        address = [array.ctypes.data for array in (got[0], got[1], ones, x, y)]
        try:
            library.call(OPERATIONS["forward"], spec, 0, x.size, 1, address[0], address[3])
            library.call(OPERATIONS["backward_from_output"], spec, 0, x.size, 1, address[1], address[2], address[4])
        except BackendError as error:
            raise BackendError(f"{library.path}: {error}; {_BUILD_ADVICE}") from None
        want = np.stack([spec(x), spec.derivative(x)])
        if not np.allclose(got, want, rtol=1e-5, atol=1e-30):
            raise BackendError(f"{library.path} computes wrong values on this machine; {_BUILD_ADVICE}")
