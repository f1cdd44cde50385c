"""Calls of functions such as F.gelu in a module's own forward, turned into calls of a child module by torch.fx.

torch.fx runs forward once with stand-ins for its tensors, and keeps the operations it saw. Whatever Python decides
meanwhile is frozen. A forward is therefore rewritten only where nothing can be frozen wrongly: required tensor
arguments only, nothing run that `observing` knows to be frozen, no tensor made, nothing set and no random number drawn;
both training modes are traced, and a number or flag that was read and changes later is an error of the next call. A
GraphModule is a graph already: its own is taken.
"""

import copy
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from .forwards import GraphForward, TracedForward, call_child, function_of, read_of
from .observing import FROZEN, functions_of, named_by, names_in
from .tracing import trace
from .twins import PLAIN

_NAMES = [
    *("celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish"),
    *("prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh"),
    "tanhshrink",
]
_CODE = (type, types.FunctionType, types.BuiltinFunctionType)
_CONTAINERS = (dict, list, tuple, set, frozenset)
_SETTINGS = (type(None), bool, int, float, complex, str, Enum, torch.dtype, *_CODE)


class Family(NamedTuple):
    """One activation under all the names PyTorch gives it: `functional.relu`, `torch.relu`, `Tensor.relu`, `relu_`."""

    name: str
    functions: tuple[Any, ...]
    methods: tuple[str, ...]


def _family(name: str) -> Family:
    methods = (name, f"{name}_")
    found = [getattr(home, method, None) for home in (functional, torch, Tensor) for method in methods]
    return Family(name, tuple(function for function in found if function is not None), methods)


FAMILIES = [_family(name) for name in _NAMES]


def family_of(function: Any) -> Family | None:
    """Give the family of a function of PyTorch, None for anything else.

    Example:
        >>> family_of(torch.relu).name, family_of(torch.Tensor.relu_).name, family_of(print)
        ('relu', 'relu', None)
    """
    return next((family for family in FAMILIES if any(function is known for known in family.functions)), None)


def held_functions(module: nn.Module, family: Family) -> Iterator[str]:
    """Give the attributes of a module that hold a function of the family, or a partial of one."""
    return (name for name, held in _held_activations(module).items() if held is family)


def _held_activations(module: nn.Module) -> dict[str, Family]:
    functions = {name: value.func if isinstance(value, partial) else value for name, value in vars(module).items()}
    found = {name: family_of(function) for name, function in functions.items()}
    return {name: family for name, family in found.items() if family is not None}


def held_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Give (attribute, module) of the modules in the plain lists, tuples and dicts among a module's attributes.

    torch does not know of these, so that to replace a child does not replace it there.

    Example:
        >>> model = nn.Sequential(nn.ReLU())
        >>> model.steps = [model[0]]
        >>> list(held_modules(model))
        [('steps', ReLU())]
    """
    for name, value in vars(module).items():
        if name not in PLAIN:
            yield from ((name, held) for held in _inside(value) if isinstance(held, nn.Module))


def mentions(module: nn.Module, family: Family) -> bool:
    """Tell whether a module's forward, or what that calls of its own and of its package, may call the family.

    It may where it uses one of the family's names, or a name that stands for one of its functions: a global or
    enclosed one, one of the class, or an argument's default; and where the module holds one in a list or a dict.
    """
    functions = functions_of(module)
    words = {name for function in functions for name in names_in(function.__code__)}
    if not words.isdisjoint(family.methods):
        return True
    named = [value for function in functions for _, value in named_by(function)]
    defaults = [value for function in functions for value in (function.__defaults__, function.__kwdefaults__)]
    of_class = [vars(kind)[word] for kind in type(module).__mro__ for word in words & vars(kind).keys()]
    held = [value for name, value in vars(module).items() if name not in PLAIN and isinstance(value, _CONTAINERS)]
    return any(family_of(value) is family for value in _inside([named, defaults, of_class, held]))


def _inside(value: Any, depth: int = 4) -> Iterator[Any]:
    """Give what is in a value: itself, or what its containers, partials and static methods hold."""
    if isinstance(value, _CONTAINERS) and depth:
        for part in value.values() if isinstance(value, dict) else value:
            yield from _inside(part, depth - 1)
    elif isinstance(value, (partial, staticmethod)):
        yield value.func if isinstance(value, partial) else value.__func__
    else:
        yield value


Make = Callable[[bool], nn.Module]


class Rewritten(NamedTuple):
    """A new forward, the child modules it calls, and the names of the families whose calls it has replaced."""

    forward: Callable[..., Any]
    children: dict[str, nn.Module]
    families: frozenset[str]


def rewrite(module: nn.Module, makers: Mapping[Family, Make]) -> Rewritten | str | None:
    """Make a forward that calls a child module where the module's own forward calls a function.

    Args:
        module: Neither it nor its children are changed.
        makers: For each family to replace, what gives the module of one call; its argument tells whether the call was
            in place.
    Returns: The forward, bound to the module, and its new children; why it cannot be made; or None where tracing
        meets no such call.
    """
    if "forward" in vars(module):
        return "its forward has been replaced before"
    if isinstance(module, fx.GraphModule):
        graph = copy.deepcopy(module.graph)
        calls = _Calls(module, makers)
        reason = calls.replace(graph)
        return reason or calls.give(GraphForward(module, function_of(graph), calls.places))
    reason = _reason_not_to_trace(module)
    if reason:
        return reason
    # swap may put another activation in the place of these.
    late = frozenset((place, name) for place, part in module.named_modules() for name in _held_activations(part))
    evaluating, training = trace(module, False, late), trace(module, True, late)
    if isinstance(evaluating, str):
        return evaluating
    if isinstance(training, str):
        return training
    reads = _reads(module, (evaluating.reads | training.reads) - late)
    if isinstance(reads, str):
        return reads
    calls = _Calls(module, makers)
    reason = calls.replace(evaluating.graph) or calls.replace(training.graph) or calls.differ()
    if reason:
        return reason
    by_mode = {False: function_of(evaluating.graph), True: function_of(training.graph)}
    asks_for_none = evaluating.asks_for_none or training.asks_for_none
    return calls.give(TracedForward(module, by_mode, reads, asks_for_none))


def _reason_not_to_trace(module: nn.Module) -> str:
    forward = type(module).forward
    if not isinstance(forward, types.FunctionType) or hasattr(forward, "__wrapped__"):
        return "its forward is decorated, which torch.fx would drop"
    free = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    for argument in inspect.signature(forward).parameters.values():
        if argument.kind not in free or argument.default is not inspect.Parameter.empty:
            return f"its forward has the optional argument {argument.name!r}, which torch.fx would freeze"
    words = {name for function in functions_of(module) for name in names_in(function.__code__)}
    frozen = sorted(words & FROZEN)
    return f"its forward uses {frozen[0]}, which torch.fx would freeze" if frozen else ""


def _reads(module: nn.Module, read: frozenset[tuple[str, str]]) -> list[tuple[str, str, Any]] | str:
    """Give (part, attribute, value) of the numbers, flags and the like that a forward has read, or why it cannot be."""
    found: list[tuple[str, str, Any]] = []
    for place, name in sorted(read):
        part = module.get_submodule(place)
        value = read_of(part, name)
        if name == "training":
            if value is not module.training:
                return f"its forward reads the training mode of {place}, which is not its own now"
            found += [(place, name, value)] if place else []
        elif _is_setting(value):
            found.append((place, name, copy.deepcopy(value)))
    return found


def _is_setting(value: Any) -> bool:
    if isinstance(value, _CONTAINERS):
        return all(map(_is_setting, [*value, *value.values()] if isinstance(value, dict) else value))
    return isinstance(value, _SETTINGS)


class _Calls:
    """The calls of families in a module's graphs, and the child that takes the place of each.

    Attributes:
        children: The new children by name.
        places: For each node of the last graph that was replaced, by its position: the name of its child.
    """

    def __init__(self, module: nn.Module, makers: Mapping[Family, Make]) -> None:
        self._module, self._makers = module, makers
        self._names: dict[tuple[str, int, bool], str] = {}
        self._sites: dict[str, list[list[Any]]] = {family.name: [] for family in makers}
        self.children: dict[str, nn.Module] = {}
        self.places: dict[int, str] = {}

    def replace(self, graph: fx.Graph) -> str:
        """Replace every call in a graph; the k-th of a family uses its k-th child. Give why it cannot be."""
        return next(filter(None, (self._replace(graph, *maker) for maker in self._makers.items())), "")

    def _replace(self, graph: fx.Graph, family: Family, make: Make) -> str:
        order = {node: place for place, node in enumerate(graph.nodes)}
        nodes = [node for node in graph.nodes if _is_call(node, family)]
        self._sites[family.name].append([node.meta.get("site") for node in nodes])
        for count, node in enumerate(nodes):
            word = node.target if isinstance(node.target, str) else node.target.__name__
            in_place = word.endswith("_") or bool(node.kwargs.get("inplace", False))
            name = self._child(family, count, in_place, make)
            source = _source(node)
            read_later = not node.users or any(order.get(user, 0) > order[node] for user in source.users)
            if in_place and read_later and not getattr(self.children[name], "inplace", False):
                kind = type(self.children[name]).__name__
                return f"its forward reads what {word} overwrites, and {kind} overwrites nothing"
            self.places[order[node]] = name
            call_child(graph, node, name)
        return ""

    def _child(self, family: Family, count: int, in_place: bool, make: Make) -> str:
        key = family.name, count, in_place
        if key not in self._names:
            number = sum(known == family.name for known, _, _ in self._names)
            self._names[key] = _free_name(self._module, f"{family.name}_{number}")
            self.children[self._names[key]] = make(in_place)
        return self._names[key]

    def differ(self) -> str:
        """Give why the two training modes cannot share their children, where these learn and the calls differ."""
        for (family, _, _), name in self._names.items():
            evaluating, training = self._sites[family]
            if evaluating != training and any(True for _ in self.children[name].parameters()):
                kind = type(self.children[name]).__name__
                return f"its calls of {family} differ between training and evaluation, and {kind} has parameters"
        return ""

    def give(self, forward: Callable[..., Any]) -> Rewritten | None:
        families = frozenset(family for family, _, _ in self._names)
        return Rewritten(forward, self.children, families) if families else None


def _source(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs["input"]


def _is_call(node: fx.Node, family: Family) -> bool:
    if node.op == "call_method":
        return node.target in family.methods
    return node.op == "call_function" and any(node.target is known for known in family.functions)


def _free_name(module: nn.Module, name: str) -> str:
    while hasattr(module, name):
        name = f"{name}_"
    return name
