"""The changes of a swap, made one after the other in the model; if one cannot be made, all are taken back."""

import inspect
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from ... import catalog
from ...errors import ModelError
from ...spec import GemSpec
from ..integrations import Replaced, follow_in_configurations
from ..inventory import describe, is_activation, is_known_class, list_activations, named_activations, own_class
from .calls import call_children, called_for_effect, find_calls, inside
from .functions import SERVED, class_that_serves, family_of
from .keys import Value, choose, held_functions, make, nothing_matches

_MISSING = object()
_OF_EVERY_MODULE = vars(nn.Module()).keys()
_HOOKS = [name for name in _OF_EVERY_MODULE if "hook" in name]
_FAST = "activation_relu_or_gelu"  # How torch's transformer layers remember an activation that their fast path knows.
# What torch keeps of these for the backward pass is their output, which must then not be changed in place; of all other
# activations it keeps the input, or a copy of it.
_KEEP_OUTPUT = {"relu", "sigmoid", "tanh"}
_KEEP_OUTPUT_IN_PLACE = {*_KEEP_OUTPUT, "celu", "elu", "leaky_relu", "rrelu", "selu"}
_FAMILY_OF_CLASS = {
    **{nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.CELU: "celu", nn.ELU: "elu", nn.SELU: "selu"},
    **{nn.LeakyReLU: "leaky_relu", nn.RReLU: "rrelu"},
}


@dataclass(frozen=True)
class Change:
    """One activation that was changed: where, what was there, what is there now."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Left:
    """One place that was asked for and left as it was, and why."""

    name: str
    reason: str


class Edit(NamedTuple):
    """One entry of a dictionary, or one attribute of a module: what it was and what it is now."""

    home: Any
    name: str
    old: Any
    new: Any

    def stands(self) -> bool:
        """Return whether what was put there still is there."""
        now = _get(self.home, self.name)
        # torch.export puts equal containers in the place of those that a module holds.
        return now is self.new or (isinstance(now, (str, dict)) and now == self.new)

    def revert(self) -> None:
        """Put back what was there."""
        if isinstance(self.old, nn.Module) and isinstance(self.new, nn.Module):
            _hand_over(self.new, self.old)
        _put(self.home, self.name, self.old)


def _get(home: Any, name: str) -> Any:
    return home.get(name, _MISSING) if isinstance(home, dict) else getattr(home, name)


def _put(home: Any, name: str, value: Any) -> None:
    if not isinstance(home, dict):
        setattr(home, name, value)
    elif value is _MISSING:
        home.pop(name, None)
    else:
        home[name] = value


def _hand_over(old: nn.Module, new: nn.Module) -> None:
    """Set a module to the training mode of the one whose place it takes, and let it share that one's hooks."""
    if new.training != old.training:
        new.train(old.training)
    # The same dictionaries, so that the handles of hooks still remove them.
    vars(new).update({hooks: vars(old)[hooks] for hooks in _HOOKS})


def _keeps_output(family: str, in_place: bool) -> bool:
    return family in (_KEEP_OUTPUT_IN_PLACE if in_place else _KEEP_OUTPUT)


def keeps_output(module: nn.Module) -> bool:
    """Return whether an activation keeps its output for the backward pass, or may; False if it is not known.

    Example:
        >>> keeps_output(nn.ReLU()), keeps_output(nn.ELU()), keeps_output(nn.ELU(inplace=True))
        (True, False, True)
    """
    if isinstance(getattr(module, "spec", None), GemSpec):
        return getattr(module, "save", None) != "input"
    return _keeps_output(_FAMILY_OF_CLASS.get(own_class(module), ""), _is_inplace(module))


def _is_inplace(module: nn.Module) -> bool:
    return getattr(module, "inplace", False) is True


def held_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (attribute, module) of the modules in the plain lists, tuples and dicts among a module's attributes.

    torch does not know of these, so that to replace a child does not replace it there.

    Example:
        >>> model = nn.Sequential(nn.ReLU())
        >>> model.steps = [model[0]]
        >>> list(held_modules(model))
        [('steps', ReLU())]
    """
    for name, value in vars(module).items():
        if name not in _OF_EVERY_MODULE:
            yield from ((name, held) for held in inside(value) if isinstance(held, nn.Module))


class Surgery:
    """Changes a model, and keeps what was changed.

    Attributes:
        model: The model.
        edits: Every edit, in order.
        changes: Every change, with the module that is new.
        left: What was asked for and stays.
        notes: Sentences for the report.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.notes = model, list[str]()
        self.edits: list[Edit] = []
        self.changes: list[tuple[Change, nn.Module]] = []
        self.left: list[Left] = []
        # The model as it was given: keys choose from it, whatever has been changed since.
        self._names: dict[int, list[str]] = {}
        self._places = dict(model.named_modules(remove_duplicate=False))
        for name, module in self._places.items():
            self._names.setdefault(id(module), []).append(name)
        self._modules = [*model.modules()]
        self._parents: dict[int, list[tuple[dict[str, Any], str]]] = {}
        for children in [module._modules for module in self._modules]:
            for name, child in children.items():
                self._parents.setdefault(id(child), []).append((children, name))
        self._activations = [module for _, module in named_activations(model)]
        self._replaced: dict[int, Replaced] = {}

    def perform(self, choices: Iterable[tuple[Any, Value]]) -> None:
        """Change what each key asks for.

        Raises: ModelError: no key matches anything, one chooses what is no activation, or everything is as asked
            already.
        """
        choices, useless, there = [*choices], list[str](), list_activations(self.model)
        functions: dict[str, Value] = {}
        modules: list[tuple[list[nn.Module], Value]] = []
        for key, value in choices:
            family = None if isinstance(key, (str, type)) else family_of(key)
            if family is not None:
                functions.setdefault(family, value)
                continue
            modules.append((choose(self._modules, self._activations, self._names, key), value))
            if not modules[-1][0]:
                useless.append(nothing_matches(self.model, self._names, key))
        for chosen, value in modules:
            for module in chosen:
                self._replace(module, value)
        found = {family for family, value in functions.items() if self._replace_held(family, value)}
        found |= self._replace_calls(functions) if functions else set()
        useless += [f"no module holds or calls {family}; {there}" for family in functions if family not in found]
        if len(useless) == len(choices):
            raise ModelError(f"nothing to swap: {'; '.join(useless)}")
        if not self.changes:
            reasons = "; ".join(f"{left.name}: {left.reason}" for left in self.left[:3])
            raise ModelError(f"nothing was changed; {reasons}")
        self._keep_apart()
        self._leave_fast_path()
        self._name_lists()
        self._add_notes(useless)

    def revert(self) -> None:
        """Take everything back."""
        while self.edits:
            self.edits.pop().revert()

    def _put(self, home: Any, name: str, new: Any) -> None:
        self.edits.append(Edit(home, name, _get(home, name), new))
        _put(home, name, new)

    def _make(self, value: Value, place: str, overwrites: bool, keeps_input: bool) -> nn.Module:
        """Make the activation for a place; what it learns gets device and dtype of the nearest weight around."""
        new = make(value, overwrites, keeps_input)
        if any(True for _ in new.parameters()):
            around = [place, *(place.rsplit(".", depth)[0] for depth in range(1, place.count(".") + 1)), ""]
            weights = (weight for name in around if name in self._places for weight in self._places[name].parameters())
            weight = next((weight for weight in weights if weight.is_floating_point()), None)
            if weight is not None:
                new.to(device=weight.device, dtype=weight.dtype)
        return new

    def _add(self, name: str, old: str, new: nn.Module, overwrites: bool = False) -> None:
        missing = ", not in place" * (overwrites and not _is_inplace(new))
        self.changes.append((Change(name, old, f"{describe(new)}{missing}"), new))

    @cached_property
    def _called_for_effect(self) -> set[int]:
        return called_for_effect(self.model)

    def _replace(self, module: nn.Module, value: Value) -> None:
        if id(module) in self._replaced:
            return
        name, overwrites = self._names[id(module)][0], _is_inplace(module)
        new = self._make(value, name, overwrites, not keeps_output(module))
        string = str(value) if isinstance(value, catalog.Activation) else None
        reason = _reason_to_leave(module)
        if "parametrizations" in name.split("."):
            reason = "it computes a weight, which would be another"
        elif not reason and any(
            getattr(hook, "with_module", False) for hook in module._load_state_dict_pre_hooks.values()
        ):
            reason = "a hook for load_state_dict is bound to it"
        elif not reason and string and own_class(module) is type(new) and describe(module) == describe(new):
            reason = f"it is {string} already"
        elif not reason and overwrites and not _is_inplace(new) and id(module) in self._called_for_effect:
            reason = f"a forward calls it for what it overwrites, and {type(new).__name__} overwrites nothing"
        if reason:
            self.left.append(Left(name, reason))
            return
        # The weights of the known activations are learnt slopes; those of another class go with it, and are named.
        held = (*module.named_parameters(), *module.named_buffers())
        weights = [weight for weight, tensor in held if is_lazy(tensor) or tensor.numel() != 1]
        old = describe(module)
        if weights and not is_known_class(module):
            old += f" with its weights {name_some(weights)}"
        _hand_over(module, new)
        for children, child in self._parents[id(module)]:
            self._put(children, child, new)
        self._replaced[id(module)] = Replaced(name, module, new, string)
        self._add(name, old, new, overwrites)

    def _replace_held(self, family: str, value: Value) -> bool:
        """Replace a function that modules hold as attributes; return whether any does."""
        found, staying = False, {id(module) for module in self.model.modules()}
        for module in self._modules:
            held = [name for name, other in held_functions(module).items() if other == family]
            found = found or bool(held)
            if not held or id(module) not in staying:
                continue
            if is_known_class(module):
                # A class such as GELUActivation is its function: what goes by the class must not find it with another.
                self._replace(module, value)
                continue
            for attribute in held:
                place, function, in_place = self._join(module, attribute), vars(module)[attribute], False
                while isinstance(function, partial):
                    in_place, function = in_place or bool(function.keywords.get("inplace", False)), function.func
                in_place = in_place or function.__name__.endswith("_")
                new = self._make(value, place, in_place, not _keeps_output(family, in_place)).train(module.training)
                self._put(vars(module), attribute, _MISSING)
                self._put(module._modules, attribute, new)
                self._add(place, f"the function {family}", new, in_place)
        return found

    def _join(self, module: nn.Module, attribute: str) -> str:
        return f"{self._names[id(module)][0]}.{attribute}".removeprefix(".")

    def _replace_calls(self, functions: dict[str, Value]) -> set[str]:
        """Serve the functions that forwards call; return those that one calls."""
        found: set[str] = set()
        staying = {id(module) for module in self.model.modules()}
        own = {id(part) for module in self._activations for part in module.modules()}
        for module in self._modules:
            if id(module) in own or type_before_parametrizations(module).__module__.startswith("torch.nn."):
                continue
            calls, is_graph = find_calls(module), isinstance(module, fx.GraphModule)
            asked = [family for family in functions if family in calls.families]
            found |= {*asked}
            if not asked or id(module) not in staying:
                continue
            served: dict[str, str] = dict(vars(module).get(SERVED, {}))
            again = [f"{family} by {served[family]!r}" for family in asked if family in served]
            reason = calls.reason if is_graph else _reason_not_to_serve(module, calls.reason)
            if again:
                reason = (
                    f"its forward calls modules in place of functions already ({', '.join(again)}); give their names"
                )
            if reason:
                name = self._names[id(module)][0] or "the model"
                self.left.append(Left(name, f"{reason} (it calls {', '.join(asked)})"))
                continue
            for family in asked:
                spellings = (family, *(f"{family}_{number}" for number in range(1, 1000)))
                child = served[family] = next(name for name in spellings if not hasattr(module, name))
                place, in_place = self._join(module, child), calls.families[family]
                keeps_input = not _keeps_output(family, in_place)
                new = self._make(functions[family], place, in_place, keeps_input).train(module.training)
                self._put(module._modules, child, new)
                self._add(place, f"calls of {family}", new)
            if isinstance(module, fx.GraphModule):
                self._put(module, "graph", call_children(module, {name: served[name] for name in asked}))
            else:
                self._enter(module, served)
        return found

    def _enter(self, module: nn.Module, served: dict[str, str]) -> None:
        self._put(vars(module), SERVED, served)
        self._put(module, "__class__", class_that_serves(type(module)))

    def _keep_apart(self) -> None:
        """Let modules within those that are served keep the functions that they call themselves."""
        for outer in [module for module in self.model.modules() if vars(module).get(SERVED)]:
            waiting, seen = [outer], set[int]()
            while waiting:
                part = waiting.pop()
                if id(part) in seen:
                    continue
                seen.add(id(part))
                serving = vars(part).get(SERVED, {}).values()
                waiting += [child for name, child in part.named_children() if name not in serving]
                waiting += [held for _, held in held_modules(part)]
                if vars(part).keys() & {"forward", SERVED} or is_parametrized(part):
                    continue
                if isinstance(part, (fx.GraphModule, torch.jit.ScriptModule)):
                    continue
                forward = inspect.getattr_static(type(part), "forward")
                by_torch = (getattr(forward, "__module__", None) or "").startswith("torch.")
                calls = find_calls(part).families if by_torch or is_activation(part) else vars(outer)[SERVED]
                if not calls.keys().isdisjoint(vars(outer)[SERVED]):
                    self._enter(part, {})

    def _leave_fast_path(self) -> None:
        """Let torch's transformer layers call their new activation: they remember what it was when they were made."""
        homes = {id(edit.home) for edit in self.edits}
        for module in self.model.modules():
            if isinstance(module, nn.TransformerEncoderLayer) and id(module._modules) in homes:
                self._put(vars(module), _FAST, 0)
            if isinstance(module, nn.TransformerEncoder) and any(id(each._modules) in homes for each in module.layers):
                self._put(vars(module), "use_nested_tensor", False)
                # Edits that change nothing: they forbid to undo this before a later swap of another layer is undone.
                for other in [vars(layer) for layer in module.layers if id(layer._modules) not in homes]:
                    if _FAST in other:
                        self._put(other, _FAST, other[_FAST])

    def _name_lists(self) -> None:
        """Report the plain lists and dicts that hold a module which is replaced elsewhere."""
        reason = "a plain list or dict holds the module that was replaced; use nn.ModuleList or nn.ModuleDict"
        held = [(module, *pair) for module in self._modules for pair in held_modules(module)]
        names = [self._join(module, attribute) for module, attribute, part in held if id(part) in self._replaced]
        self.left += [Left(name, reason) for name in dict.fromkeys(names)]

    def _add_notes(self, useless: list[str]) -> None:
        self.notes += [f"a key was of no use: {reason}" for reason in useless]
        keeping = [change.name for change, new in self.changes if keeps_output(new)]
        if keeping:
            self.notes.append(
                f"{len(keeping)} keep the output for the backward pass, or may, as ReLU does, so that what follows "
                f"must not change it in place: {name_some(keeping)}"
            )
        calls = [(change.name, new) for change, new in self.changes if change.old.startswith("calls ")]
        shared = [name for name, new in calls if list(new.parameters())]
        if shared:
            self.notes.append(f"all calls of one function in one forward share what is learnt: {name_some(shared)}")
        changed = [change.name for change, _ in self.changes]
        entries, notes = follow_in_configurations(self.model, changed, [*self._replaced.values()])
        for entry in entries:
            self._put(*entry)
        self.notes += notes


def name_some(names: list[str]) -> str:
    """Return the first three names, and say if there are more."""
    return f"{', '.join(names[:3])}{', ...' * (len(names) > 3)}"


def _reason_to_leave(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted; swap before torch.jit.script"
    wrapped = "its forward is wrapped, as accelerate does for a device map; swap before that"
    return wrapped if "forward" in vars(module) else ""


def _reason_not_to_serve(module: nn.Module, found: str) -> str:
    reason = _reason_to_leave(module)
    if reason or is_parametrized(module):
        return reason or "torch.nn.utils.parametrize has changed its class; swap before that"
    forward = inspect.getattr_static(type(module), "forward")
    coroutine = inspect.iscoroutinefunction(forward) or inspect.isasyncgenfunction(forward)
    if coroutine and isinstance(forward, types.FunctionType):
        return "its forward is a coroutine, which runs after it was called"
    if not found:
        try:
            class_that_serves(type(module))
        except Exception as error:  # A metaclass may refuse a subclass in any way.
            return f"its class cannot have a subclass: {error}"
    return found
