"""Calls of functions such as F.gelu in a module's own forward, turned into calls of a child module by torch.fx.

torch.fx runs forward once with stand-ins for its tensors, and keeps the operations it saw. Whatever Python decides
meanwhile is frozen. A forward is therefore rewritten only where nothing can be frozen wrongly: required tensor
arguments only, none of the words of `_FROZEN`, no tensor made, no attribute set and no random number drawn; both
training modes are traced, and a number or flag of the module that changes later is an error of the next call.
"""

import dis
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from ..errors import ModelError
from .tracing import trace

_NAMES = [
    *("celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish"),
    *("prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh"),
    "tanhshrink",
]
# Words in a forward that torch.fx would answer once and for all, or drop.
_FROZEN = {
    *("isinstance", "issubclass", "is_tensor", "type"),
    *("is_scripting", "is_tracing", "is_compiling", "is_grad_enabled", "is_autocast_enabled"),
    *("no_grad", "enable_grad", "inference_mode", "set_grad_enabled", "autocast", "checkpoint"),
}


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
    for name, value in vars(module).items():
        function = value.func if isinstance(value, partial) else value
        if any(function is known for known in family.functions):
            yield name


def mentions(module: nn.Module, family: Family) -> bool:
    """Tell whether a module's forward, or what that calls of its own and of its package, uses a name of the family."""
    return not _words(module).isdisjoint(family.methods)


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
    reason = _reason_not_to_trace(module)
    if reason:
        return reason
    evaluating, training = trace(module, False), trace(module, True)
    if isinstance(evaluating, str):
        return evaluating
    if isinstance(training, str):
        return training
    children: dict[str, nn.Module] = {}
    found: set[str] = set()
    for graph in (evaluating, training):
        for family, make in makers.items():
            replaced = _replace_calls(module, graph, family, make, children)
            if isinstance(replaced, str):
                return replaced
            found |= {family.name} if replaced else set()
    if not found:
        return None
    by_mode = {False: _compile(evaluating), True: _compile(training)}
    forward = _forward(by_mode, _settings(module), _asks_for_none(module))
    # torch.export and trainers read the names of the arguments.
    vars(forward)["__signature__"] = inspect.signature(type(module).forward)
    return Rewritten(types.MethodType(forward, module), children, frozenset(found))


def _forward(
    by_mode: dict[bool, Callable[..., Any]], settings: dict[str, Any], asks_for_none: bool
) -> Callable[..., Any]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if asks_for_none and any(value is None for value in (*args, *kwargs.values())):
            raise ModelError(
                f"{type(self).__name__}.forward asks what is None, and swap rewrote it for arguments that are not; "
                "undo the swap to call it with None"
            )
        for name, before in settings.items():
            now = getattr(self, name, None)
            if type(now) is not type(before) or now != before:
                raise ModelError(
                    f"{type(self).__name__}.{name} was {before!r} when swap rewrote the forward that reads it, which "
                    f"keeps that; undo the swap, change {name}, and swap again"
                )
        return by_mode[self.training](self, *args, **kwargs)

    return forward


def _reason_not_to_trace(module: nn.Module) -> str:
    if "forward" in vars(module):
        return "its forward has been replaced before"
    forward = type(module).forward
    if not isinstance(forward, types.FunctionType) or hasattr(forward, "__wrapped__"):
        return "its forward is decorated, which torch.fx would drop"
    free = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    for argument in inspect.signature(forward).parameters.values():
        if argument.kind not in free or argument.default is not inspect.Parameter.empty:
            return f"its forward has the optional argument {argument.name!r}, which torch.fx would freeze"
    frozen = sorted(_words(module) & _FROZEN)
    return f"its forward uses {frozen[0]}, which torch.fx would freeze" if frozen else ""


def _settings(module: nn.Module) -> dict[str, Any]:
    """Give the numbers, flags and the like among a module's attributes that its forward may read."""
    held = {name: vars(module)[name] for name in _words(module) & vars(module).keys() - {"training"}}
    return {name: value for name, value in held.items() if _is_setting(value)}


def _is_setting(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _replace_calls(
    module: nn.Module, graph: fx.Graph, family: Family, make: Make, children: dict[str, nn.Module]
) -> bool | str:
    """Replace a family's calls in a graph; the k-th call of either graph uses the k-th child.

    Returns: Whether there was one; or why one cannot be replaced.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    nodes = [node for node in graph.nodes if _is_call(node, family)]
    for count, node in enumerate(nodes):
        word = node.target if isinstance(node.target, str) else node.target.__name__
        name = _free_name(module, f"{family.name}_{count}")
        in_place = word.endswith("_") or bool(node.kwargs.get("inplace", False))
        if name not in children:
            children[name] = make(in_place)
        source = node.args[0] if node.args else node.kwargs["input"]
        read_later = not node.users or any(order.get(user, 0) > order[node] for user in source.users)
        if in_place and read_later and not getattr(children[name], "inplace", False):
            return f"its forward reads what {word} overwrites, and {type(children[name]).__name__} overwrites nothing"
        with graph.inserting_after(node):
            node.replace_all_uses_with(graph.call_module(name, (source,)))
        graph.erase_node(node)
    return bool(nodes)


def _is_call(node: fx.Node, family: Family) -> bool:
    if node.op == "call_method":
        return node.target in family.methods
    return node.op == "call_function" and any(node.target is known for known in family.functions)


def _free_name(module: nn.Module, name: str) -> str:
    while hasattr(module, name):
        name = f"{name}_"
    return name


def _compile(graph: fx.Graph) -> Callable[..., Any]:
    """Give the function forward(self, ...) that a graph stands for."""
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(code.src, namespace)
    return namespace["forward"]


def _words(module: nn.Module) -> set[str]:
    """Give every name that a module's forward uses, and what that calls of its own and of its package."""
    return {name for code in _codes(module) for name in code.co_names}


def _asks_for_none(module: nn.Module) -> bool:
    """Tell whether a module's forward asks what is None: a stand-in never is, an argument may be."""
    instructions = (one.opname for code in _codes(module) for one in dis.get_instructions(code))
    return any(name == "IS_OP" or name.endswith("NONE") for name in instructions)


def _codes(module: nn.Module) -> set[types.CodeType]:
    """Give the code of a module's forward, and of the methods and functions of its own package that it calls."""
    package = _package(type(module))
    seen: set[types.CodeType] = set()
    waiting: list[Any] = [type(module).forward]
    while waiting:
        function = inspect.unwrap(waiting.pop())
        if not isinstance(function, types.FunctionType) or function.__code__ in seen:
            continue
        codes = set(_with_inner(function.__code__))
        seen |= codes
        names = {name for code in codes for name in code.co_names}
        scope = function.__globals__
        files = [vars(scope[name]) for name in names & scope.keys() if isinstance(scope[name], types.ModuleType)]
        called = [home[name] for home in (scope, *files) for name in names & home.keys()]
        own = [value for value in called if isinstance(value, types.FunctionType) and _package(value) == package]
        methods = [vars(base).get(name) for base in type(module).__mro__ for name in names if base is not nn.Module]
        waiting += [*own, *methods]
    return seen


def _package(thing: Any) -> str:
    return (thing.__module__ or "").partition(".")[0]


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _with_inner(constant)
