"""The names of the catalog in the tables of transformers and timm: each string of it beside their own names.

`act_layer` asks nothing of timm; `register` and `register_timm` change a table of the library, which is imported then.
`follow_in_configurations` keeps the configuration of a swapped model of transformers true.
"""

import difflib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import catalog
from ..errors import RegistrationError
from ..extras import framework
from ..spec import MEMBERS
from .inventory import Choice, describe, named_activations, own_class
from .modules import make_activation

_TIMM_TABLE = "_ACT_LAYER_DEFAULT"
_TIMM_FIRST = "_ACT_LAYER_ME"  # Where get_act_layer looks before.


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


def register_timm() -> tuple[str, ...]:
    """Make every activation string valid as `act_layer` of timm: create_model("resnet18", act_layer="gem(n=2)").

    `act_layer("gem(n=2)")` gives a factory that timm takes without this, through its public interface. timm has no
    interface for new names: this replaces the table that its `get_act_layer` reads. Calling it again changes nothing,
    and checks once more that no other package has taken a name.

    Returns: The bare names that timm has itself, in the catalog's order. They keep timm's meaning; with parentheses, as
        in "leaky_relu(negative_slope=0.2)", they are the catalog's. timm writes names in lower case before it looks.
    Raises: MissingDependencyError: timm, or torchvision, which it needs, is not installed, or timm is older than 1.0;
        RegistrationError: another package has put a name of the catalog into timm's tables, or this version of timm
        keeps its activations in another way.
    """
    with framework("timm", at_least="1.0", install="timm"):
        home = importlib.import_module("timm.layers.create_act")
    table = getattr(home, _TIMM_TABLE, None)
    if not isinstance(table, dict) or not hasattr(home, "get_act_layer"):
        raise RegistrationError(
            f"this version of timm does not keep its activations in layers.create_act.{_TIMM_TABLE}, as 1.0 does; give "
            "act_layer=gem_activations.torch.act_layer(...) to its models instead"
        )
    # The file of the module once more, apart from the module: timm keeps no second list of its names.
    spec: Any = importlib.util.find_spec(home.__name__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    refuse_conflicts("timm's table of activations", _timm_names(home), _timm_names(fresh))
    if not isinstance(table, CatalogNames):
        table = CatalogNames(table)
        setattr(home, _TIMM_TABLE, table)
    return tuple(name for name in catalog.ENTRIES if dict.__contains__(table, name))


def _timm_names(home: Any) -> set[str]:
    return {*getattr(home, _TIMM_TABLE, ()), *getattr(home, _TIMM_FIRST, ())}
