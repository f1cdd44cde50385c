"""Optional frameworks: one clear error if one is not installed or too old."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata

from .errors import MissingDependencyError


@contextmanager
def framework(name: str, *, at_least: str, install: str = "", hint: str = "") -> Iterator[None]:
    """Guard the import of an optional framework, which is written inside the `with` block.

    A framework that is too old is refused before it is imported: its version is read from its installed metadata.

    Args:
        name: The framework's import name, which is also its name on the package index.
        at_least: First version that is supported, such as "0.8".
        install: What pip is to install, quoted for a shell; the extra of the framework's name if empty.
        hint: What else to do if the framework is there and something that it needs is not.
    Raises: MissingDependencyError: not installed, too old, of another layout, or without something that it needs
        itself.
    Example:
        >>> with framework("numpy", at_least="1.26"):
        ...     import numpy
        >>> with framework("numpy", at_least="99"):
        ...     import numpy
        Traceback (most recent call last):
        gem_activations.errors.MissingDependencyError: numpy ... is too old, expected 99 or later; run: pip install ...
    """
    quoted = install or f"'gem-activations[{name}]'"
    remedy = f"run: pip install --upgrade {quoted}"
    found = None
    # A framework can be importable without metadata: a nightly build has another name, a bundled copy has none.
    with suppress(metadata.PackageNotFoundError):
        found = metadata.version(name)
    if found is not None and _order(found) < _order(at_least):
        raise MissingDependencyError(f"{name} {found} is too old, expected {at_least} or later; {remedy}")
    try:
        yield
    except ModuleNotFoundError as error:
        missing = str(error.name)
        root = missing.partition(".")[0]
        if root == name and sys.modules.get(name):
            raise MissingDependencyError(
                f"{name} {found or '(unknown version)'} has no {missing}, as {at_least} has; install another version"
            ) from error
        if root == name:
            raise MissingDependencyError(f"{name} is not installed; {remedy}") from error
        what_to_do = hint or f"install it, or {remedy}"
        raise MissingDependencyError(f"{name} needs {root}, which is not installed; {what_to_do}") from error


def _order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:2]]
