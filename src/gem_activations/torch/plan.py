"""What a swap is going to change: everything that can fail, done before anything is changed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import nn

from .. import catalog
from ..errors import ModelError
from ..grammar import quote
from .inventory import as_activation, describe, is_activation, list_activations, named_activations
from .modules import make_activation
from .rewrite import FAMILIES, Family, Rewritten, family_of, held_functions, mentions, rewrite

_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name)


class Request(NamedTuple):
    """A model, and what is asked for as (key, activation) in order; checked without looking inside the model."""

    model: nn.Module
    choices: tuple[tuple[Any, catalog.Activation], ...]

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
            known = isinstance(key, str) or (isinstance(key, type) and issubclass(key, nn.Module))
            if not known and (isinstance(key, type) or not callable(key)):
                raise ModelError(
                    f"{quote(key)} is no key: give a module class, a name pattern, a predicate or a function"
                )
        return cls(model, tuple((key, as_activation(choice)) for key, choice in choices.items()))


@dataclass
class Plan:
    """The changes to make; keys are ids of modules of `model`, which keeps them alive.

    Attributes:
        model: What is going to be changed.
        modules: The successor of each module that goes.
        attributes: For each module, the attributes that hold a function, and the module each becomes.
        forwards: The modules that get another forward.
        changes: (name, old, new) of every change.
        left: (name, reason) of what was asked for and stays.
    """

    model: nn.Module
    modules: dict[int, nn.Module] = field(default_factory=dict[int, nn.Module])
    attributes: dict[int, dict[str, nn.Module]] = field(default_factory=dict[int, dict[str, nn.Module]])
    forwards: dict[int, Rewritten] = field(default_factory=dict[int, Rewritten])
    changes: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    left: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def make_plan(request: Request) -> Plan:
    """Find what each key asks for and make the new activations; the model is not changed.

    Raises: ModelError: a key that matches nothing or what is no activation; or everything is as asked already.
    """
    plan = Plan(request.model)
    names = _all_names(request.model)
    functions: dict[Family, catalog.Activation] = {}
    for key, activation in request.choices:
        family = None if isinstance(key, (str, type)) else family_of(key)
        if family is not None:
            functions.setdefault(family, activation)
            continue
        chosen = _choose(request.model, names, key)
        if not chosen:
            raise ModelError(_nothing_matches(request.model, key))
        _plan_modules(plan, names, chosen, activation)
    found = {family for family, activation in functions.items() if _plan_attributes(plan, names, family, activation)}
    if functions:
        found |= _plan_forwards(plan, names, functions)
    for family in functions:
        if family not in found:
            raise ModelError(_nothing_calls(plan, request.model, family))
    if not plan.changes:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in plan.left[:3])
        raise ModelError(f"nothing was changed; {reasons}")
    return plan


def _all_names(model: nn.Module) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    return names


def _choose(model: nn.Module, names: dict[int, list[str]], key: Any) -> list[nn.Module]:
    """Give the modules that a key other than a function asks for, each once, without the model itself."""
    inside = [module for module in model.modules() if module is not model]
    if isinstance(key, type):
        chosen = [module for module in inside if type(module) is key]
        if not key.__module__.startswith("torch.nn."):
            return chosen  # An activation of the user's own may have parts.
    elif not isinstance(key, str):
        chosen = [module for module in inside if any(_ask(key, name, module) for name in names[id(module)])]
    elif set(key) & set("*?["):
        # What is inside an activation goes with it.
        known = [module for _, module in named_activations(model)]
        return [module for module in known if any(fnmatchcase(name, key) for name in names[id(module)])]
    else:
        chosen = [module for module in inside if key in names[id(module)]]
    for module in chosen:
        if not is_activation(module) and any(True for _ in (*module.children(), *module.parameters())):
            raise ModelError(
                f"{names[id(module)][0]!r} is chosen, a {type(module).__name__} with parts of its own, which is not "
                "known to be an activation; where it is one, give its class as the key"
            )
    return chosen


def _ask(predicate: Callable[..., Any], name: str, module: nn.Module) -> bool:
    try:
        return bool(predicate(name, module))
    except TypeError as error:
        called = getattr(predicate, "__name__", type(predicate).__name__)
        raise ModelError(
            f"{called} is no activation function of torch, and fails as a predicate (name, module) -> bool: {error}"
        ) from error


def _plan_modules(
    plan: Plan, names: dict[int, list[str]], chosen: Iterable[nn.Module], activation: catalog.Activation
) -> None:
    for module in chosen:
        if id(module) in plan.modules:
            continue
        name = names[id(module)][0]
        new = _successor(plan.model, name, activation, getattr(module, "inplace", False) is True)
        reason = _reason_to_leave(name, module) or (f"it is {activation} already" if _alike(module, new) else "")
        if reason:
            plan.left.append((name, reason))
            continue
        hand_over(module, new)
        plan.modules[id(module)] = new
        plan.changes.append((name, describe(module), describe(new)))


def hand_over(old: nn.Module, new: nn.Module) -> None:
    """Give a module the training mode and the hooks of the one whose place it takes, by `swap` or by `undo`."""
    if new.training != old.training:
        new.train(old.training)
    # The same dictionaries, so that the handles of hooks still remove them.
    vars(new).update({hooks: vars(old)[hooks] for hooks in _HOOKS})


def _alike(module: nn.Module, new: nn.Module) -> bool:
    return type(module) is type(new) and describe(module) == describe(new)


def _reason_to_leave(name: str, module: nn.Module) -> str:
    if "parametrizations" in name.split("."):
        return "it computes a weight, which would be another"
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted; swap before torch.jit.script"
    if "forward" in vars(module):
        return "its forward is wrapped, as accelerate does for a device map; swap before that"
    if any(getattr(hook, "with_module", False) for hook in module._load_state_dict_pre_hooks.values()):
        return "a hook for load_state_dict is bound to it"
    return ""


def _plan_attributes(plan: Plan, names: dict[int, list[str]], family: Family, activation: catalog.Activation) -> bool:
    found, staying = False, _staying(plan)
    for module in plan.model.modules():
        for attribute in held_functions(module, family):
            found = True
            if id(module) not in staying or attribute in plan.attributes.get(id(module), {}):
                continue
            name = f"{names[id(module)][0]}.{attribute}".removeprefix(".")
            new = _successor(plan.model, name, activation, False).train(module.training)
            plan.attributes.setdefault(id(module), {})[attribute] = new
            plan.changes.append((name, f"the function {family.name}", describe(new)))
    return found


def _plan_forwards(
    plan: Plan, names: dict[int, list[str]], functions: Mapping[Family, catalog.Activation]
) -> set[Family]:
    """Rewrite the forwards that call the functions; give the families that were found."""
    found: set[Family] = set()
    staying = _staying(plan)
    own = {id(part) for _, module in named_activations(plan.model) for part in module.modules()}
    for module in plan.model.modules():
        name = names[id(module)][0]
        if id(module) in own or type(module).__module__.startswith("torch.nn."):
            continue
        makers = {
            family: partial(_child, plan.model, name, activation, module.training)
            for family, activation in functions.items()
            if mentions(module, family)
        }
        if id(module) not in staying:
            found |= set(makers)  # What calls them goes.
            continue
        result = rewrite(module, makers) if makers else None
        if isinstance(result, str):
            plan.left.append(
                (name or "the model", f"{result} (it names {', '.join(family.name for family in makers)})")
            )
        elif result is not None:
            plan.forwards[id(module)] = result
            found |= {family for family in makers if family.name in result.families}
            for child, new in result.children.items():
                old = f"a call of {child.rstrip('_').rpartition('_')[0]}"
                plan.changes.append((f"{name}.{child}".removeprefix("."), old, describe(new)))
    return found


def _staying(plan: Plan) -> set[int]:
    """Give the ids of the modules that are not replaced, nor only inside what is."""
    staying: set[int] = set()
    waiting: list[nn.Module] = [plan.model]
    while waiting:
        module = waiting.pop()
        if id(module) not in staying and id(module) not in plan.modules:
            staying.add(id(module))
            waiting += module.children()
    return staying


def _child(model: nn.Module, name: str, activation: catalog.Activation, training: bool, inplace: bool) -> nn.Module:
    return _successor(model, f"{name}.x".removeprefix("."), activation, inplace).train(training)


def _successor(model: nn.Module, name: str, activation: catalog.Activation, inplace: bool) -> nn.Module:
    """Make the activation for the place `name`, in place where asked and possible, beside the weights around it."""
    try:
        new = make_activation(activation, **({"inplace": True} if inplace else {}))
    except TypeError:  # It has no such option.
        new = make_activation(activation)
    if any(True for _ in new.parameters()):
        around = _weight_near(model, name)
        if around is not None:
            new.to(device=around.device, dtype=around.dtype)
    return new


def _weight_near(model: nn.Module, name: str) -> nn.Parameter | None:
    """Give the first floating parameter of the module called `name`, else of the nearest one around it that has one."""
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        try:
            around = model.get_submodule(".".join(parts[:length]))
        except AttributeError:
            continue
        for parameter in around.parameters():
            if parameter.is_floating_point():
                return parameter
    return None


def _nothing_matches(model: nn.Module, key: Any) -> str:
    held = sorted(
        {family.name for module in model.modules() for family in FAMILIES for _ in held_functions(module, family)}
    )
    hint = f"; functions it holds: {', '.join(f'torch.nn.functional.{name}' for name in held)}" if held else ""
    if isinstance(key, str):
        start = (
            f"no activation has a name that matches the pattern {key!r}"
            if set(key) & set("*?[")
            else f"no module is called {key!r}"
        )
        example = next((f"; one is called {name!r}" for name, _ in named_activations(model)), "")
        return f"{start}; {list_activations(model)}{example}{hint}"
    what = f"no module is of the class {key.__name__}" if isinstance(key, type) else "the predicate chooses no module"
    return f"nothing to swap: {what}; {list_activations(model)}{hint}"


def _nothing_calls(plan: Plan, model: nn.Module, family: Family) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in plan.left[:3])
    why = reasons or list_activations(model)
    return f"nothing to swap: no module holds or calls {family.name} where that can be changed; {why}"
