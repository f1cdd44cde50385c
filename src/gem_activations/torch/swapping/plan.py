"""What a swap is going to change: everything that can fail, done before anything is changed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ... import catalog
from ...errors import ModelError
from ..inventory import describe, is_known_class, list_activations, named_activations
from ..modules import make_activation
from .keys import Request, choose
from .overwriting import called_for_effect
from .rewrite import Family, Rewritten, family_of, held_functions, held_modules, mentions, rewrite

_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name)


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

    @cached_property
    def called_for_effect(self) -> set[int]:
        """The ids of the modules that a forward calls without taking the result; searched for where one can matter."""
        return called_for_effect(self.model)


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
        _plan_modules(plan, names, choose(request.model, names, key), activation)
    found = {family for family, activation in functions.items() if _plan_attributes(plan, names, family, activation)}
    if functions:
        found |= _plan_forwards(plan, names, functions)
    for family in functions:
        if family not in found:
            raise ModelError(_nothing_calls(plan, request.model, family))
    plan.left += _held_aside(plan, names)
    if not plan.changes:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in plan.left[:3])
        raise ModelError(f"nothing was changed; {reasons}")
    return plan


def _held_aside(plan: Plan, names: dict[int, list[str]]) -> list[tuple[str, str]]:
    """Name the plain lists and dicts that hold a module which is replaced elsewhere."""
    reason = "a plain list or dict holds the module that was replaced; use nn.ModuleList or nn.ModuleDict"
    found = [
        f"{names[id(module)][0]}.{attribute}".removeprefix(".")
        for module in plan.model.modules()
        for attribute, held in held_modules(module)
        if id(held) in plan.modules
    ]
    return [(name, reason) for name in dict.fromkeys(found)]


def _all_names(model: nn.Module) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    return names


def _plan_modules(
    plan: Plan, names: dict[int, list[str]], chosen: Iterable[nn.Module], activation: catalog.Activation
) -> None:
    for module in chosen:
        if id(module) in plan.modules:
            continue
        name = names[id(module)][0]
        overwrites = _is_inplace(module)
        new = _successor(plan.model, name, activation, overwrites)
        reason = _reason_to_leave(name, module) or (f"it is {activation} already" if _alike(module, new) else "")
        if not reason and overwrites and not _is_inplace(new) and id(module) in plan.called_for_effect:
            reason = f"a forward calls it for what it overwrites, and {type(new).__name__} overwrites nothing"
        if reason:
            plan.left.append((name, reason))
            continue
        hand_over(module, new)
        plan.modules[id(module)] = new
        plan.changes.append((name, _describe_old(module), _describe_new(new, overwrites)))


def _is_inplace(module: nn.Module) -> bool:
    return getattr(module, "inplace", False) is True


def _describe_old(module: nn.Module) -> str:
    """Name a module, with the weights that go with it; those of the known activations are learnt slopes."""
    held = (*module.named_parameters(), *module.named_buffers())
    weights = [name for name, value in held if is_lazy(value) or value.numel() != 1]
    if not weights or is_known_class(module):
        return describe(module)
    return f"{describe(module)} with its weights {', '.join(weights[:3])}{', ...' * (len(weights) > 3)}"


def _describe_new(new: nn.Module, overwrites: bool) -> str:
    """Name a new activation, and say where it does not overwrite its input as the one before did."""
    return f"{describe(new)}{', not in place' * (overwrites and not _is_inplace(new))}"


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
        held = list(held_functions(module, family))
        found = found or bool(held)
        if id(module) not in staying:
            continue
        if held and is_known_class(module):
            # A class such as GELUActivation is its function: what goes by the class must not find it with another.
            _plan_modules(plan, names, [module], activation)
            continue
        done = plan.attributes.get(id(module), {})
        for attribute in [name for name in held if name not in done]:
            name = f"{names[id(module)][0]}.{attribute}".removeprefix(".")
            overwrites = _function_overwrites(vars(module)[attribute])
            new = _successor(plan.model, name, activation, overwrites).train(module.training)
            plan.attributes.setdefault(id(module), {})[attribute] = new
            plan.changes.append((name, f"the function {family.name}", _describe_new(new, overwrites)))
    return found


def _function_overwrites(held: Any) -> bool:
    if isinstance(held, partial):
        return bool(held.keywords.get("inplace", False)) or _function_overwrites(held.func)
    return held.__name__.endswith("_")


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


def _nothing_calls(plan: Plan, model: nn.Module, family: Family) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in plan.left[:3])
    why = reasons or list_activations(model)
    return f"nothing to swap: no module holds or calls {family.name} where that can be changed; {why}"
