"""What a swap is going to change: everything that can fail, done before anything is changed."""

import copy
import inspect
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from ...errors import ModelError
from ...spec import GemSpec
from ..inventory import describe, is_activation, is_known_class, list_activations, named_activations, own_class
from .calls import Calls, called_for_effect, find_calls, inside
from .functions import SERVED, SPELLINGS, class_that_serves, family_of
from .keys import Replacement, Request, choose, held_functions, nothing_matches

_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name)
_PLAIN = vars(nn.Module()).keys()
# What torch keeps of these for the backward pass is their output, which must then not be changed in place; of all other
# activations it keeps the input, or a copy of it.
_KEEP_OUTPUT = {"relu", "sigmoid", "tanh"}
_KEEP_OUTPUT_IN_PLACE = {*_KEEP_OUTPUT, "celu", "elu", "leaky_relu", "rrelu", "selu"}
_FAMILY_OF_CLASS = {
    **{nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.CELU: "celu", nn.ELU: "elu", nn.SELU: "selu"},
    **{nn.LeakyReLU: "leaky_relu", nn.RReLU: "rrelu"},
}


def keeps_output(module: nn.Module) -> bool:
    """Return whether an activation keeps its output for the backward pass, or may; False where it is not known.

    Example:
        >>> keeps_output(nn.ReLU()), keeps_output(nn.ELU()), keeps_output(nn.ELU(inplace=True))
        (True, False, True)
    """
    if isinstance(getattr(module, "spec", None), GemSpec):
        return getattr(module, "save", None) != "input"
    return _family_keeps_output(_FAMILY_OF_CLASS.get(own_class(module), ""), _is_inplace(module))


def _family_keeps_output(family: str, in_place: bool) -> bool:
    return family in (_KEEP_OUTPUT_IN_PLACE if in_place else _KEEP_OUTPUT)


@dataclass
class Plan:
    """The changes to make; keys are ids of modules of `model`, which keeps them alive.

    Attributes:
        model: What is going to be changed.
        modules: Each module that goes, its successor, and what made that.
        attributes: For each module, the attributes that hold a function, and the module each becomes.
        served: For each module whose forward calls functions, the name of the new child for each; nothing for a module
            whose forward runs within such a one and is to keep its own.
        apart: Those of the latter.
        graphs: The new graph of each GraphModule of torch.fx that calls functions.
        children: For each module, its new children.
        changes: (name, old, new, the new module) of every change.
        left: (name, reason) of what was asked for and stays.
        unmatched: What to say of each key that chooses nothing.
    """

    model: nn.Module
    modules: dict[int, tuple[nn.Module, nn.Module, Replacement]] = field(default_factory=dict[int, Any])
    attributes: dict[int, dict[str, nn.Module]] = field(default_factory=dict[int, dict[str, nn.Module]])
    served: dict[int, dict[str, str]] = field(default_factory=dict[int, dict[str, str]])
    apart: list[nn.Module] = field(default_factory=list[nn.Module])
    graphs: dict[int, fx.Graph] = field(default_factory=dict[int, fx.Graph])
    children: dict[int, dict[str, nn.Module]] = field(default_factory=dict[int, dict[str, nn.Module]])
    changes: list[tuple[str, str, str, nn.Module]] = field(default_factory=list[tuple[str, str, str, nn.Module]])
    left: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    unmatched: list[str] = field(default_factory=list[str])

    @cached_property
    def names(self) -> dict[int, list[str]]:
        """The dotted names of every module."""
        names: dict[int, list[str]] = {}
        for name, module in self.model.named_modules(remove_duplicate=False):
            names.setdefault(id(module), []).append(name)
        return names

    @cached_property
    def called_for_effect(self) -> set[int]:
        """The ids of the modules that a forward calls without taking the result; searched for where one can matter."""
        return called_for_effect(self.model)

    def staying(self) -> list[nn.Module]:
        """Return the modules that are not replaced, nor only inside what is."""
        staying: dict[int, nn.Module] = {}
        waiting: list[nn.Module] = [self.model]
        while waiting:
            module = waiting.pop()
            if id(module) not in staying and id(module) not in self.modules:
                staying[id(module)] = module
                waiting += module.children()
        return [module for module in self.model.modules() if id(module) in staying]


def make_plan(request: Request) -> Plan:
    """Find what each key asks for and make the new activations; the model is not changed.

    Raises: ModelError: no key matches anything, one chooses what is no activation, or everything is as asked already.
    """
    plan = Plan(request.model)
    functions: dict[str, Replacement] = {}
    for key, replacement in request.choices:
        family = None if isinstance(key, (str, type)) else family_of(key)
        if family is not None:
            functions.setdefault(family, replacement)
            continue
        chosen = choose(plan.model, plan.names, key)
        if not chosen:
            plan.unmatched.append(nothing_matches(plan.model, plan.names, key))
        _plan_modules(plan, chosen, replacement)
    found = {family for family, replacement in functions.items() if _plan_attributes(plan, family, replacement)}
    found |= _plan_calls(plan, functions) if functions else set()
    plan.unmatched += [
        f"no module holds or calls {family}; {list_activations(plan.model)}"
        for family in functions
        if family not in found
    ]
    _keep_apart(plan)
    plan.left += _held_aside(plan)
    if len(plan.unmatched) == len(request.choices):
        raise ModelError(f"nothing to swap: {'; '.join(plan.unmatched)}")
    if not plan.changes:
        raise ModelError(f"nothing was changed; {'; '.join(f'{name}: {why}' for name, why in plan.left[:3])}")
    return plan


def _held_aside(plan: Plan) -> list[tuple[str, str]]:
    """Name the plain lists and dicts that hold a module which is replaced elsewhere."""
    reason = "a plain list or dict holds the module that was replaced; use nn.ModuleList or nn.ModuleDict"
    found = [
        f"{plan.names[id(module)][0]}.{attribute}".removeprefix(".")
        for module in plan.model.modules()
        for attribute, held in held_modules(module)
        if id(held) in plan.modules
    ]
    return [(name, reason) for name in dict.fromkeys(found)]


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
        if name not in _PLAIN:
            yield from ((name, held) for held in inside(value) if isinstance(held, nn.Module))


def _plan_modules(plan: Plan, chosen: Iterable[nn.Module], replacement: Replacement) -> None:
    for module in chosen:
        if id(module) in plan.modules:
            continue
        name = plan.names[id(module)][0]
        overwrites = _is_inplace(module)
        new = _successor(plan.model, name, replacement, overwrites, not keeps_output(module))
        reason = _reason_to_leave(name, module)
        if not reason and replacement.string and _alike(module, new):
            reason = f"it is {replacement.string} already"
        if not reason and overwrites and not _is_inplace(new) and id(module) in plan.called_for_effect:
            reason = f"a forward calls it for what it overwrites, and {type(new).__name__} overwrites nothing"
        if reason:
            plan.left.append((name, reason))
            continue
        hand_over(module, new)
        plan.modules[id(module)] = module, new, replacement
        plan.changes.append((name, _describe_old(module), _describe_new(new, overwrites), new))


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
    """Return a module the training mode and the hooks of the one whose place it takes, by `swap` or by `undo`."""
    if new.training != old.training:
        new.train(old.training)
    # The same dictionaries, so that the handles of hooks still remove them.
    vars(new).update({hooks: vars(old)[hooks] for hooks in _HOOKS})


def _alike(module: nn.Module, new: nn.Module) -> bool:
    return own_class(module) is type(new) and describe(module) == describe(new)


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


def _plan_attributes(plan: Plan, family: str, replacement: Replacement) -> bool:
    """Replace the functions that modules hold as attributes; tell whether there are any."""
    found, staying = False, {id(module) for module in plan.staying()}
    for module in plan.model.modules():
        held = [name for name, other in held_functions(module).items() if other == family]
        found = found or bool(held)
        if id(module) not in staying:
            continue
        if held and is_known_class(module):
            # A class such as GELUActivation is its function: what goes by the class must not find it with another.
            _plan_modules(plan, [module], replacement)
            continue
        done = plan.attributes.setdefault(id(module), {})
        for attribute in [name for name in held if name not in done]:
            name = f"{plan.names[id(module)][0]}.{attribute}".removeprefix(".")
            in_place = _function_overwrites(vars(module)[attribute])
            keeps = not _family_keeps_output(family, in_place)
            new = _successor(plan.model, name, replacement, in_place, keeps).train(module.training)
            done[attribute] = new
            plan.changes.append((name, f"the function {family}", _describe_new(new, in_place), new))
    return found


def _function_overwrites(held: Any) -> bool:
    if isinstance(held, partial):
        return bool(held.keywords.get("inplace", False)) or _function_overwrites(held.func)
    return held.__name__.endswith("_")


def _plan_calls(plan: Plan, functions: dict[str, Replacement]) -> set[str]:
    """Plan to serve the functions that forwards call; return those that one calls."""
    found: set[str] = set()
    staying = {id(module) for module in plan.staying()}
    own = {id(part) for _, module in named_activations(plan.model) for part in module.modules()}
    for module in plan.model.modules():
        if id(module) in own or type_before_parametrizations(module).__module__.startswith("torch.nn."):
            continue
        calls = _calls_of(module)
        asked = [family for family in functions if family in calls.families]
        found |= set(asked)
        if not asked or id(module) not in staying:
            continue
        name = plan.names[id(module)][0]
        reason = _reason_not_to_serve(module, calls)
        served: dict[str, str] = dict(vars(module).get(SERVED, {}))
        again = [f"{family} by {served[family]!r}" for family in asked if family in served]
        if again:
            reason = f"its forward calls modules in place of functions already ({', '.join(again)}); give their names"
        if reason:
            plan.left.append((name or "the model", f"{reason} (it calls {', '.join(asked)})"))
            continue
        for family in asked:
            in_place = calls.families[family]
            keeps = not _family_keeps_output(family, in_place)
            served[family] = child = _free_name(module, family)
            place = f"{name}.{child}".removeprefix(".")
            new = _successor(plan.model, place, functions[family], in_place, keeps).train(module.training)
            plan.children.setdefault(id(module), {})[child] = new
            plan.changes.append((place, f"calls of {family}", describe(new), new))
        if isinstance(module, fx.GraphModule):
            plan.graphs[id(module)] = _call_children(module, served, plan.children[id(module)])
        else:
            plan.served[id(module)] = served
    return found


def _calls_of(module: nn.Module) -> Calls:
    if not isinstance(module, fx.GraphModule):
        return find_calls(module)
    nodes = [(_family_of_node(node), _node_overwrites(node)) for node in module.graph.nodes]
    families = {family for family, _ in nodes if family}
    return Calls({family: all(in_place for other, in_place in nodes if other == family) for family in families}, "")


def _reason_not_to_serve(module: nn.Module, calls: Calls) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted; swap before torch.jit.script"
    if "forward" in vars(module):
        return "its forward is wrapped, as accelerate does for a device map; swap before that"
    if is_parametrized(module):
        return "torch.nn.utils.parametrize has changed its class; swap before that"
    forward = inspect.getattr_static(type(module), "forward")
    if isinstance(forward, types.FunctionType) and (
        inspect.iscoroutinefunction(forward) or inspect.isasyncgenfunction(forward)
    ):
        return "its forward is a coroutine, which runs after it was called"
    if calls.reason or isinstance(module, fx.GraphModule):
        return calls.reason
    try:
        class_that_serves(type(module))
    except Exception as error:  # A metaclass may refuse a subclass in any way.
        return f"its class cannot have a subclass: {error}"
    return ""


def _keep_apart(plan: Plan) -> None:
    """Plan that modules within those that are served keep the functions that they call themselves."""
    serving = [(module, _served_by(plan, module)) for module in plan.model.modules()]
    for outer, served in serving:
        if not served:
            continue
        for part in _parts_after(plan, outer):
            if part is outer or id(part) in plan.served or vars(part).keys() & {"forward", SERVED}:
                continue
            if isinstance(part, (fx.GraphModule, torch.jit.ScriptModule)) or is_parametrized(part):
                continue
            forward = inspect.getattr_static(type(part), "forward")
            by_torch = (getattr(forward, "__module__", None) or "").startswith("torch.")
            if (by_torch or is_activation(part)) and served.keys().isdisjoint(find_calls(part).families):
                continue
            plan.served[id(part)] = {}
            plan.apart.append(part)


def _served_by(plan: Plan, module: nn.Module) -> dict[str, str]:
    return plan.served.get(id(module)) or vars(module).get(SERVED, {})


def _parts_after(plan: Plan, outer: nn.Module) -> list[nn.Module]:
    """Return what will be inside a module, those in plain lists and dicts too, but for the children that serve."""
    parts: dict[int, nn.Module] = {}
    waiting = [outer]
    while waiting:
        part = waiting.pop()
        if id(part) in parts:
            continue
        parts[id(part)] = part
        children = [child for name, child in part.named_children() if name not in _served_by(plan, part).values()]
        held = [module for _, module in held_modules(part)]
        waiting += [plan.modules.get(id(child), (child, child))[1] for child in (*children, *held)]
        waiting += plan.attributes.get(id(part), {}).values()
    return [*parts.values()]


def _free_name(module: nn.Module, family: str) -> str:
    names = (family, *(f"{family}_{number}" for number in range(1, 1000)))
    return next(name for name in names if not hasattr(module, name))


def _successor(model: nn.Module, name: str, replacement: Replacement, overwrites: bool, keeps_input: bool) -> nn.Module:
    """Make the activation for the place `name`, beside the weights around it."""
    new = replacement.make(overwrites, keeps_input)
    if any(True for _ in new.parameters()):
        around = _weight_near(model, name)
        if around is not None:
            new.to(device=around.device, dtype=around.dtype)
    return new


def _weight_near(model: nn.Module, name: str) -> nn.Parameter | None:
    """Return the first floating parameter of the module called `name`, else of the nearest one around that has one."""
    modules = dict(model.named_modules(remove_duplicate=False))
    places = [name, *(name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)), ""]
    around = (parameter for place in places if place in modules for parameter in modules[place].parameters())
    return next((parameter for parameter in around if parameter.is_floating_point()), None)


def _family_of_node(node: fx.Node) -> str | None:
    if node.op == "call_method":
        return SPELLINGS.get(str(node.target))
    return family_of(node.target) if node.op == "call_function" else None


def _node_overwrites(node: fx.Node) -> bool:
    word = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return word.endswith("_") or bool(node.kwargs.get("inplace", False))


def _call_children(module: fx.GraphModule, served: dict[str, str], children: dict[str, nn.Module]) -> fx.Graph:
    """Return the graph of a GraphModule with calls of children in the place of functions."""
    graph = copy.deepcopy(module.graph)
    for node in list(graph.nodes):
        child = served.get(_family_of_node(node) or "")
        if child not in children:
            continue
        x: Any = node.args[0] if node.args else node.kwargs["input"]
        overwrites, in_place = _node_overwrites(node), _is_inplace(children[child])
        with graph.inserting_before(node):
            given = x if overwrites == in_place else graph.call_method("clone", (x,))
            y = graph.call_module(child, (given,))
            if overwrites and not in_place:
                y = graph.call_method("copy_", (x, y))
        node.replace_all_uses_with(y)
        graph.erase_node(node)
    return graph
