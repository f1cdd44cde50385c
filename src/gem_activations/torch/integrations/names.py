"""Tables of activations that know every string of the catalog beside their own names."""

import difflib
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from torch import nn

from ... import catalog
from ...errors import RegistrationError
from ...spec import MEMBERS
from ..inventory import Choice
from ..modules import make_activation


def act_layer(activation: Choice) -> Callable[..., nn.Module]:
    """Return what makes the module of an activation when it is called, for libraries that take a module class.

    timm's models take it as `act_layer`, with nothing to register. `inplace` is taken as a keyword, and dropped if
    the activation has no such option.

    Args:
        activation: As for `make_activation`.
    Returns: A factory: call it with the options of the module class. It can be pickled.
    Raises: ActivationNameError, SpecError: as `make_activation`, at once and not when a layer is made.
    Example:
        >>> layer = act_layer("gem(n=2)")
        >>> layer(inplace=True), act_layer("gelu")(inplace=True)
        (GEM(n=2, inplace=True), GELU(approximate='none'))
    """
    if isinstance(activation, catalog.Activation):
        return partial(_make_layer, activation)
    read, options = catalog.parse_printed(str(activation))
    return partial(_make_layer, read, **options)


def _make_layer(activation: catalog.Activation, *, inplace: bool | None = None, **options: Any) -> nn.Module:
    if inplace:
        try:
            return make_activation(activation, inplace=True, **options)
        except TypeError:  # It has no such option.
            pass
    return make_activation(activation, **options)


class CatalogNames(dict[str, Any]):
    """A table that makes an activation of the catalog from any string it does not hold itself."""

    __slots__ = ()

    def __contains__(self, name: object) -> bool:
        """Return whether the table holds the name, or it begins with a name of the catalog."""
        return super().__contains__(name) or _is_ours(name)

    def __missing__(self, name: Any) -> Callable[..., nn.Module]:
        """Return the factory of an activation of the catalog. Raises: KeyError: it names none; GemError: parameters."""
        if not _is_ours(name):
            near = difflib.get_close_matches(str(name), {*self, *catalog.ENTRIES}, n=3)
            raise KeyError(f"{name}; did you mean {' or '.join(near)}?" if near else name)
        return act_layer(name)

    def get(self, name: Any, default: Any = None) -> Any:
        """Return what `self[name]` does, or the default if the table does not contain the name."""
        try:
            return self[name]
        except KeyError:
            return default


def refuse_conflicts(table: str, names: Iterable[str], own: Collection[str]) -> None:
    """Raise RegistrationError if somebody else has put a name of the catalog into a library's table.

    Args:
        table: What the table is called, for the message.
        names: The names that it holds. Those of this package are made when they are asked for, and never held.
        own: The names that the library itself has. A member of the family among them is refused as well.
    """
    taken = [
        name
        for name in names
        if name.partition("(")[0].strip() in catalog.ENTRIES and (name in MEMBERS or name not in own)
    ]
    if taken:
        raise RegistrationError(
            f"{table} has a {taken[0]!r} that is not this package's and not the library's own, so that the name would "
            "not be clear; remove that entry and register again"
        )


def _is_ours(name: object) -> bool:
    head = name.partition("(")[0].strip() if isinstance(name, str) else ""
    return head == "GemSpec" or catalog.find_name(head) is not None
