"""The names of the catalog in the configurations of transformers."""

import importlib
import sys
import warnings
from typing import Any, NamedTuple

import torch
from torch import nn

from ... import catalog
from ...errors import RegistrationError
from ...extras import framework
from ..inventory import describe, named_activations, own_class
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
    Edge cases: A string with a name of the catalog and a wrong parameter raises SpecError or ActivationNameError when
        the model is made; any other unknown name raises KeyError, as without this, which offers near names.
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
    refuse_conflicts("transformers' ACT2FN", table, set(own))
    if not isinstance(table, CatalogNames):
        # The table itself is changed: every file of transformers holds a reference to it.
        spelling = {"__slots__": (), "__reduce__": lambda table: (_restore, (dict(dict.items(table)),))}
        table.__class__ = type("CatalogInstantier", (CatalogNames, type(table)), spelling)
    if not isinstance(own, CatalogNames):
        names = CatalogNames(own)  # A plain dict takes no other class.
        for file in [file for file in sys.modules.values() if getattr(file, "__dict__", {}).get("ACT2CLS") is own]:
            vars(file)["ACT2CLS"] = names
    return tuple(name for name in catalog.ENTRIES if dict.__contains__(table, name))


def _restore(entries: dict[str, Any]) -> Any:
    """Make a table that was pickled: its class is made by `register`, and cannot be imported."""
    register()
    return type(sys.modules["transformers.activations"].ACT2FN)(entries)


class Replaced(NamedTuple):
    """An activation module that `swap` has replaced: its dotted name, both modules, and the catalog's string if any."""

    name: str
    old: nn.Module
    new: nn.Module
    string: str | None


def follow_in_configurations(
    model: nn.Module, changed: list[str], replaced: list[Replaced]
) -> tuple[list[tuple[dict[str, Any], str, str]], list[str]]:
    """Return what the configurations of transformers must say so that a saved model comes back as it is now.

    `from_pretrained` makes a model of its configuration. A string is therefore changed only if the model that is made
    of the configuration with it (on the meta device, without weights) has each activation of the model as it is.

    Args:
        model: The model after the swap; looked at are the models of transformers in it.
        changed: The dotted names of all that was changed.
        replaced: Those of the changes that a configuration may name.
    Returns: (dictionary, key, value) of each entry to set, and a note for each model of transformers that was changed.
    """
    home = sys.modules.get("transformers.modeling_utils")
    edits: list[tuple[dict[str, Any], str, str]] = []
    notes: list[str] = []
    inside: set[int] = set()
    for name, part in model.named_modules():
        if not isinstance(part, getattr(home, "PreTrainedModel", ())) or id(part) in inside:
            continue
        inside.update(map(id, part.modules()))  # The outermost model decides for those in it.
        start = f"{name}." if name else ""
        if not any(place.startswith(start) for place in changed):
            continue
        found = _entries(part, [each for each in replaced if each.name.startswith(start)])
        whose = f"the configuration of {name or 'the model'}"
        if _comes_back(part, found):
            for entry in list(found):
                rest = [other for other in found if other is not entry]
                if _comes_back(part, rest):  # What this names is not in the model.
                    found = rest
            edits += [(vars(config), key, value) for config, key, value in found]
            shown = ", ".join(f"{type(config).__name__}.{key}={value!r}" for config, key, value in found)
            notes += [f"{whose} says {shown} now; call register() before from_pretrained"] if found else []
        else:
            notes.append(
                f"{whose} stays, since no string in it stands for all that was swapped: what save_pretrained writes, "
                "from_pretrained gives back with the old activations, to be swapped again"
            )
    return edits, notes


def _entries(part: Any, replaced: list[Replaced]) -> list[tuple[Any, str, str]]:
    """Return (configuration, key, new string) of what names an activation that was replaced."""
    try:
        register()
    except RegistrationError:
        return []
    table = sys.modules["transformers.activations"].ACT2FN
    waiting, found = [part.config], []
    while waiting:
        config = waiting.pop()
        waiting += [
            value for value in vars(config).values() if hasattr(value, "model_type") and hasattr(value, "to_dict")
        ]
        for key, value in vars(config).items():
            if "act" in key and isinstance(value, str) and value in table:
                named = _identity(table[value])
                strings = {(each.string, _identity(each.new)) for each in replaced if _identity(each.old) == named}
                # A bare name may be transformers' own; with parentheses it is the catalog's.
                spellings = [
                    spelling
                    for string, new in strings
                    if string is not None
                    for spelling in ([string] if "(" in string else [string, f"{string}()"])
                    if spelling in table and _identity(table[spelling]) == new
                ]
                if len(strings) == 1 and spellings:
                    found.append((config, key, spellings[0]))
    return found


def _comes_back(part: Any, entries: list[tuple[Any, str, str]]) -> bool:
    """Return whether the model that is made of the configuration with these entries has the model's activations."""
    before = [(config, key, vars(config)[key]) for config, key, _ in entries]
    try:
        for config, key, value in entries:
            vars(config)[key] = value
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = own_class(part)(type(part.config).from_dict(part.config.to_dict()))
        return all(_identity(made.get_submodule(name)) == _identity(module) for name, module in named_activations(part))
    except Exception:  # A model that cannot be made so cannot be promised to come back.
        return False
    finally:
        for config, key, value in before:
            vars(config)[key] = value


def _identity(module: nn.Module) -> Any:
    """Return what tells two activations apart by what they compute."""
    return getattr(module, "spec", None) or (own_class(module), describe(module).replace("inplace=True", ""))
