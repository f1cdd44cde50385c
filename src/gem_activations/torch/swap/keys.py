"""What a swap is asked for: the modules that a key chooses, and the module that a value makes."""

import copy
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList, type_before_parametrizations

from ... import catalog
from ...errors import ModelError
from ...grammar import quote
from ...spec import GemSpec
from ..inventory import as_activation, describe, is_activation, list_activations, named_activations, own_class
from ..modules import make_activation
from .functions import family_of

Value = catalog.Activation | nn.Module | Callable[[], nn.Module]
# What holds the parameters of the module around it, and is no layer.
_HOLDERS = (nn.ParameterList, nn.ParameterDict, ParametrizationList)


def read_choices(model: nn.Module, choices: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """Check the arguments of `swap` without looking inside the model; return each key with its value.

    Raises: ActivationNameError, SpecError: no activation; ModelError: no model, no choices, or no possible key.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected a torch.nn.Module as the model, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("a scripted model cannot be changed; swap before torch.jit.script or torch.jit.trace")
    if is_activation(model):
        raise ModelError(f"the model itself is the activation {describe(model)}: make another by make_activation")
    if not isinstance(choices, Mapping) or not choices:
        raise ModelError('nothing to swap: give what to change and to what, such as {nn.GELU: "gem(n=2)"}')
    for key in choices:
        if isinstance(key, nn.Module):
            raise ModelError(f"the key {describe(key)} is one module; give the class {type(key).__name__} or a name")
        known = issubclass(key, nn.Module) if isinstance(key, type) else isinstance(key, str) or callable(key)
        if not known:
            raise ModelError(f"{quote(key)} is no key: give a module class, a name pattern, a predicate or a function")
    kinds = (str, catalog.Activation, GemSpec)  # A GemSpec can be called, too.
    read: list[tuple[Any, Any]] = []
    for key, value in choices.items():
        if isinstance(value, str) and catalog.parse_printed(value)[1]:
            read.append((key, make_activation(value)))  # Its options hold for every place, which else chooses its own.
        else:
            read.append((key, as_activation(value) if isinstance(value, kinds) or not callable(value) else value))
    return read


def make(value: Value, overwrites: bool, keeps_input: bool) -> nn.Module:
    """Make the module for one place.

    Args:
        value: An activation of the catalog or a module class, which get the options below; a module, which is copied;
            or a factory.
        overwrites: What was there overwrites its input; so does the new one, if it has the option.
        keeps_input: What was there keeps its input for the backward pass, so that its output may be changed; so does
            the new one, if it has the option, which rules out the other.
    Raises: ModelError: a class that needs arguments, or a factory that gives no module.
    """
    if isinstance(value, nn.Module):
        return copy.deepcopy(value)
    if not isinstance(value, catalog.Activation) and not (isinstance(value, type) and issubclass(value, nn.Module)):
        made = value()
        if not isinstance(made, nn.Module):
            raise ModelError(f"{quote(value)} was called for a new activation, and gave a {type(made).__name__}")
        return made
    kind: Any = partial(make_activation, value) if isinstance(value, catalog.Activation) else value
    for wanted, options in ((keeps_input, {"save": "input"}), (overwrites, {"inplace": True})):
        try:
            if wanted:
                return kind(**options)
        except TypeError:  # It has no such option.
            continue
    try:
        return kind()
    except TypeError as error:
        raise ModelError(f"{quote(value)} cannot be made without arguments ({error}); give a factory") from error


def choose(
    modules: Iterable[nn.Module], activations: Iterable[nn.Module], names: dict[int, list[str]], key: Any
) -> list[nn.Module]:
    """Return the modules that a key other than a function asks for, each once, without the model itself.

    Args:
        modules: Those of the model, itself included.
        activations: The known activations among them; what is inside one goes with it.
        names: The dotted names of each module, by id.
        key: A class, a name, a pattern or a predicate.
    Raises: ModelError: the key chooses what is no activation, or is a predicate that fails.
    """
    inside = [module for module in modules if "" not in names[id(module)]]
    if isinstance(key, type):
        chosen = [module for module in inside if own_class(module) is key]
    elif not isinstance(key, str):
        chosen = [module for module in inside if any(_ask(key, name, module) for name in names[id(module)])]
    elif _is_pattern(key):
        chosen = [module for module in activations if any(fnmatchcase(name, key) for name in names[id(module)])]
    else:
        chosen = [module for module in inside if key in names[id(module)]]
    for module in chosen:
        reason = _reason_to_refuse(key, module)
        if reason:
            raise ModelError(f"{names[id(module)][0]!r} is chosen, a {type(module).__name__}{reason}")
    return chosen


def _is_pattern(key: str) -> bool:
    return not {*"*?["}.isdisjoint(key)


def _ask(predicate: Callable[..., Any], name: str, module: nn.Module) -> bool:
    try:
        return bool(predicate(name, module))
    except Exception as error:  # It is the user's code, or a function of torch that swap does not know.
        called = getattr(predicate, "__name__", type(predicate).__name__)
        first = next(iter(str(error).splitlines()), "")
        raise ModelError(
            f"{called} is no activation function of torch, and fails as a predicate (name, module) -> bool on "
            f"{name!r}, a {type(module).__name__}: {type(error).__name__}: {first}"
        ) from error


def _reason_to_refuse(key: Any, module: nn.Module) -> str:
    """Return why a chosen module is not taken for an activation, to follow "a Linear"; "" if it is taken."""
    home = type_before_parametrizations(module).__module__
    by_torch = home.startswith(("torch.nn.", "torch.ao.", "gem_activations.torch."))
    for name, part in () if by_torch else module.named_modules():
        if part is module or is_activation(part) or isinstance(part, _HOLDERS):
            continue
        if any(True for _ in (*part.parameters(recurse=False), *part.buffers(recurse=False))):
            layer = f"{name!r} ({type(part).__name__})"
            return f" with the layer {layer} inside, whose weights would be lost; give a key of the activation inside"
    # A class that is not torch's is the user's word that it is one: its learnt slope goes with it.
    if is_activation(module) or (isinstance(key, type) and not by_torch):
        return ""
    if any(True for _ in (*module.children(), *module.parameters(), *module.buffers())):
        which = "is no activation" if by_torch else "is not known to be an activation; if it is one, give its class"
        return f" with parts of its own, which {which}"
    # A predicate is the user's own judgement of what has nothing to lose.
    by_name = isinstance(key, (type, str))
    return ", which is no activation" if by_name and by_torch and type(module) is not nn.Identity else ""


def nothing_matches(model: nn.Module, names: dict[int, list[str]], key: Any) -> str:
    """Return the sentence that a key other than a function chooses nothing in a model, and what there is."""
    held = sorted({family for module in model.modules() for family in held_functions(module).values()})
    functions = ", ".join(f"torch.nn.functional.{name}" for name in held)
    there = list_activations(model)
    if isinstance(key, str):
        there += next((f"; one is called {name!r}" for name, _ in named_activations(model)), "")
        what = f"no module is called {key!r}"
        if _is_pattern(key):
            others = (
                f"; it matches {name!r}, a {type(module).__name__}, which is not known to be one"
                for module in model.modules()
                for name in names[id(module)]
                if name and fnmatchcase(name, key)
            )
            what = f"no activation has a name that matches the pattern {key!r}{next(others, '')}"
    else:
        what = (
            f"no module is of the class {key.__name__}" if isinstance(key, type) else "the predicate chooses no module"
        )
    return f"{what}; {there}{f'; functions it holds: {functions}' if functions else ''}"


def held_functions(module: nn.Module) -> dict[str, str]:
    """Return the attributes of a module that hold a function of torch or a partial of one, and the function's name."""
    functions = {name: value.func if isinstance(value, partial) else value for name, value in vars(module).items()}
    return {name: family for name, function in functions.items() if (family := family_of(function)) is not None}
