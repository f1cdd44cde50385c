"""Property certificates: what is proved of an activation, each number exact or as a rigorous enclosure.

Needs the extra `certify` (SymPy, python-flint). The modules are imported when first used, so that `import
gem_activations.analysis` is cheap.

Example:
    >>> from gem_activations.analysis import certify
    >>> print(certify("gem(n=2)")["lipschitz"].value)
    25/16 = 1.5625
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError

if TYPE_CHECKING:
    from .approximation import Relaxation, relax
    from .certification import CONSTANTS, certify, certify_all
    from .proofs import Certificate, CertificateError, Property, Value

__all__ = [
    "CONSTANTS",
    "Certificate",
    "CertificateError",
    "Property",
    "Relaxation",
    "Value",
    "certify",
    "certify_all",
    "relax",
]

_HOMES = {
    **dict.fromkeys(["CONSTANTS", "certify", "certify_all"], ".certification"),
    **dict.fromkeys(["Relaxation", "relax"], ".approximation"),
    **dict.fromkeys(["Certificate", "CertificateError", "Property", "Value"], ".proofs"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOMES[name], __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "gem_activations"):
            raise
        raise MissingDependencyError(
            f"{error.name} is not installed; run: pip install 'gem-activations[certify]'"
        ) from None
    globals()[name] = value
    return value
