"""What a swap is asked for: its arguments, and the modules that each key chooses."""

import copy
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple, Self

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

# What holds the parameters of the module around it, and is no layer.
_HOLDERS = (nn.ParameterList, nn.ParameterDict, ParametrizationList)


class Replacement(NamedTuple):
    """What makes the new activations that one key asks for.

    Attributes:
        given: An activation of the catalog; or as it was given a module class, a module or a factory.
    """

    given: Any

    @classmethod
    def read(cls, choice: Any) -> Self:
        """Read the value of a key. Raises: ActivationNameError, SpecError: no activation."""
        if isinstance(choice, (str, catalog.Activation, GemSpec)) or not callable(choice):
            return cls(as_activation(choice))
        return cls(choice)

    @property
    def string(self) -> str | None:
        """The string of the catalog, if it is one."""
        return str(self.given) if isinstance(self.given, catalog.Activation) else None

    def make(self, overwrites: bool, keeps_input: bool) -> nn.Module:
        """Make the module for one place.

        Args:
            overwrites: What was there overwrites its input; so does the new one, if it has the option.
            keeps_input: What was there keeps its input for the backward pass, so that its output may be changed; so
                does the new one, if it has the option, which rules out the other. A module and what a factory gives
                are taken as they are.
        Raises: ModelError: a class that needs arguments, or a factory that gives no module.
        """
        if isinstance(self.given, nn.Module):
            return copy.deepcopy(self.given)
        if not self._is_class and not isinstance(self.given, catalog.Activation):
            made = self.given()
            if not isinstance(made, nn.Module):
                raise ModelError(
                    f"{quote(self.given)} was called for a new activation, and gave a {type(made).__name__}"
                )
            return made
        for wanted, options in ((keeps_input, {"save": "input"}), (overwrites, {"inplace": True})):
            try:
                if wanted:
                    return self._call(options)
            except TypeError:  # It has no such option.
                continue
        try:
            return self._call({})
        except TypeError as error:
            raise ModelError(
                f"{quote(self.given)} cannot be made without arguments ({error}); give a factory"
            ) from error

    def _call(self, options: dict[str, Any]) -> nn.Module:
        return self.given(**options) if self._is_class else make_activation(self.given, **options)

    @property
    def _is_class(self) -> bool:
        return isinstance(self.given, type) and issubclass(self.given, nn.Module)


class Request(NamedTuple):
    """A model, and what is asked for as (key, what to put there) in order; checked without looking inside the model."""

    model: nn.Module
    choices: tuple[tuple[Any, Replacement], ...]

    @classmethod
    def read(cls, model: nn.Module, choices: Mapping[Any, Any]) -> Self:
        """Check and read the arguments of `swap`.

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
                raise ModelError(
                    f"the key {describe(key)} is one module; give the class {type(key).__name__} or a name"
                )
            known = isinstance(key, str) or (isinstance(key, type) and issubclass(key, nn.Module))
            if not known and (isinstance(key, type) or not callable(key)):
                raise ModelError(
                    f"{quote(key)} is no key: give a module class, a name pattern, a predicate or a function"
                )
        return cls(model, tuple((key, Replacement.read(choice)) for key, choice in choices.items()))


def choose(model: nn.Module, names: dict[int, list[str]], key: Any) -> list[nn.Module]:
    """Return the modules that a key other than a function asks for, each once, without the model itself.

    Args:
        model: Where to look.
        names: The dotted names of each of its modules, by id.
        key: A class, a name, a pattern or a predicate.
    Raises: ModelError: the key chooses what is no activation, or is a predicate that fails.
    """
    inside = [module for module in model.modules() if module is not model]
    if isinstance(key, type):
        chosen = [module for module in inside if own_class(module) is key]
    elif not isinstance(key, str):
        chosen = [module for module in inside if any(_ask(key, name, module) for name in names[id(module)])]
    elif _is_pattern(key):
        # What is inside an activation goes with it.
        known = [module for _, module in named_activations(model)]
        chosen = [module for module in known if any(fnmatchcase(name, key) for name in names[id(module)])]
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
    """Say why a chosen module is not taken for an activation, to follow "a Linear"; "" where it is taken."""
    home = type_before_parametrizations(module).__module__
    by_torch = home.startswith(("torch.nn.", "torch.ao.", "gem_activations.torch."))
    layer = "" if by_torch else _layer_inside(module)
    if layer:
        return f" with the layer {layer} inside, whose weights would be lost; give a key of the activation inside it"
    # A class that is not torch's is the user's word that it is one: its learnt slope goes with it.
    if is_activation(module) or (isinstance(key, type) and not by_torch):
        return ""
    if any(True for _ in (*module.children(), *module.parameters(), *module.buffers())):
        if by_torch:
            return " with parts of its own, which is no activation"
        return (
            " with parts of its own, which is not known to be an activation; where it is one, give its class as the key"
        )
    # A predicate is the user's own judgement of what has nothing to lose.
    by_name = isinstance(key, (type, str))
    return ", which is no activation" if by_name and by_torch and type(module) is not nn.Identity else ""


def _layer_inside(module: nn.Module) -> str:
    """Name the first module inside another that holds parameters or buffers and is no activation; "" for none."""
    for name, part in module.named_modules():
        if part is module or is_activation(part) or isinstance(part, _HOLDERS):
            continue
        if any(True for _ in (*part.parameters(recurse=False), *part.buffers(recurse=False))):
            return f"{name!r} ({type(part).__name__})"
    return ""


def nothing_matches(model: nn.Module, names: dict[int, list[str]], key: Any) -> str:
    """Say that a key other than a function chooses nothing in a model, and what there is."""
    held = sorted({family for module in model.modules() for family in held_functions(module).values()})
    hint = f"; functions it holds: {', '.join(f'torch.nn.functional.{name}' for name in held)}" if held else ""
    if isinstance(key, str):
        start = _no_name(model, names, key) if _is_pattern(key) else f"no module is called {key!r}"
        example = next((f"; one is called {name!r}" for name, _ in named_activations(model)), "")
        return f"{start}; {list_activations(model)}{example}{hint}"
    what = f"no module is of the class {key.__name__}" if isinstance(key, type) else "the predicate chooses no module"
    return f"{what}; {list_activations(model)}{hint}"


def held_functions(module: nn.Module) -> dict[str, str]:
    """Return the attributes of a module that hold a function of torch or a partial of one, and the function's name."""
    functions = {name: value.func if isinstance(value, partial) else value for name, value in vars(module).items()}
    return {name: family for name, function in functions.items() if (family := family_of(function)) is not None}


def _no_name(model: nn.Module, names: dict[int, list[str]], pattern: str) -> str:
    """Say that no activation matches a pattern, and what does."""
    others = (
        f"; it matches {name!r}, a {type(module).__name__}, which is not known to be one"
        for module in model.modules()
        for name in names[id(module)]
        if name and fnmatchcase(name, pattern)
    )
    return f"no activation has a name that matches the pattern {pattern!r}{next(others, '')}"
