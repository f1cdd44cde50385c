"""The names of the catalog in the configurations of transformers."""

import importlib
from typing import Any

from .. import catalog
from ..errors import RegistrationError
from ..extras import framework
from .names import CatalogNames, refuse_conflicts


def register() -> tuple[str, ...]:
    """Make every activation string valid in the configurations of transformers, with any parameters.

    `GPT2Config(activation_function="egem(n=2, eps=1e-4)")` then works, and so does loading a config.json that names it.
    transformers has to know the names before it makes a model: call this in every program that loads one. Without it,
    transformers stops with KeyError: 'egem(n=2, eps=1e-4)'. Calling it again changes nothing, and checks once more that
    no other package has taken a name.

    Returns: The bare names that transformers has itself, in the catalog's order (relu, leaky_relu, gelu, ...). They
        keep transformers' meaning; with parentheses, as in "leaky_relu(negative_slope=0.2)", they are the catalog's.
    Raises: MissingDependencyError: transformers is not installed or older than 5.0; RegistrationError: another package
        has put a name of the catalog into transformers' table, or this version of transformers keeps its activations in
        another way.
    Edge cases: A string with a name of the catalog and a wrong parameter raises SpecError or ActivationNameError where
        the model is made; any other unknown name is transformers' own KeyError.
    Example:
        >>> kept = register()
        >>> from transformers.activations import ACT2FN
        >>> ACT2FN["egem(n=2, eps=10)"], "gem" in ACT2FN, "gelu" in kept
        (EGEM(n=2, eps=10), True, True)
    """
    with framework("transformers", at_least="5.0", install="'gem-activations[huggingface]'"):
        home = importlib.import_module("transformers.activations")
    table: Any = getattr(home, "ACT2FN", None)
    own: Any = getattr(home, "ACT2CLS", None)  # What ACT2FN was made from.
    if not isinstance(table, getattr(home, "ClassInstantier", ())) or not isinstance(own, dict):
        raise RegistrationError(
            "this version of transformers does not keep its activations in ACT2CLS and in ACT2FN, a ClassInstantier; "
            "versions 5 do"
        )
    refuse_conflicts("transformers' ACT2FN", table, own)
    if not isinstance(table, CatalogNames):
        # The table itself is changed: every file of transformers holds a reference to it.
        table.__class__ = type("CatalogInstantier", (CatalogNames, type(table)), {"__slots__": ()})
    return tuple(name for name in catalog.ENTRIES if dict.__contains__(table, name))
