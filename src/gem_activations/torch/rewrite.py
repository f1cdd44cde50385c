"""Calls of functions such as F.gelu in a module's own forward, turned into calls of a child module by torch.fx.

torch.fx runs forward once with stand-ins for its tensors, and keeps the operations it saw. Whatever Python decides
meanwhile is frozen. A forward is therefore rewritten only where nothing can be frozen wrongly: required tensor
arguments only, none of the words of `_FROZEN`, no tensor made and no attribute set; both training modes are traced.
"""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

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
    """Tell whether a module's forward, or what that calls of its own and of its file, uses a name of the family."""
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
    evaluating, training = _trace(module, False), _trace(module, True)
    if isinstance(evaluating, str):
        return evaluating
    if isinstance(training, str):
        return training
    children: dict[str, nn.Module] = {}
    found: set[str] = set()
    for graph in (evaluating, training):
        for family, make in makers.items():
            found |= {family.name} & _replace_calls(module, graph, family, make, children)
    if not found:
        return None
    forwards = {False: _compile(evaluating), True: _compile(training)}

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forwards[self.training](self, *args, **kwargs)

    # torch.export and trainers read the names of the arguments.
    vars(forward)["__signature__"] = inspect.signature(type(module).forward)
    return Rewritten(types.MethodType(forward, module), children, frozenset(found))


class _OwnCode(fx.Tracer):
    """Follows a module's own forward; what that calls of its children stays a call."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 -- given by torch.fx
        return True


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


def _trace(module: nn.Module, training: bool) -> fx.Graph | str:
    """Trace a module's own forward in one training mode; the module is left as it was."""
    before = dict(vars(module))
    module.training = training
    try:
        graph = _OwnCode().trace(module)
        changed = {name for name, value in vars(module).items() if value is not before.get(name)} - {"training"}
    except Exception as error:  # A forward may raise anything when it meets a stand-in.
        return (
            f"torch.fx cannot trace its forward: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        )
    finally:
        vars(module).clear()
        vars(module).update(before)
    if changed:
        return f"its forward makes a tensor or sets an attribute ({sorted(changed)[0]}), which torch.fx would freeze"
    return graph


def _replace_calls(
    module: nn.Module, graph: fx.Graph, family: Family, make: Make, children: dict[str, nn.Module]
) -> set[str]:
    """Replace a family's calls in a graph; the k-th call of either graph uses the k-th child. Give whom it found."""
    nodes = [node for node in graph.nodes if _is_call(node, family)]
    for count, node in enumerate(nodes):
        word = node.target if isinstance(node.target, str) else node.target.__name__
        name = _free_name(module, f"{family.name}_{count}")
        if name not in children:
            children[name] = make(word.endswith("_") or bool(node.kwargs.get("inplace", False)))
        source = node.args[0] if node.args else node.kwargs["input"]
        with graph.inserting_after(node):
            node.replace_all_uses_with(graph.call_module(name, (source,)))
        graph.erase_node(node)
    return {family.name} if nodes else set()


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
    """Give every name that a module's forward uses, and the methods and functions of its own file that it calls."""
    words: set[str] = set()
    seen: set[types.CodeType] = set()
    waiting: list[Any] = [type(module).forward]
    while waiting:
        function = inspect.unwrap(waiting.pop())
        if not isinstance(function, types.FunctionType) or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        names = set(_names_in(function.__code__))
        words |= names
        scope = function.__globals__
        own = [scope[name] for name in names if getattr(scope.get(name), "__module__", None) == function.__module__]
        methods = [vars(base).get(name) for base in type(module).__mro__ for name in names if base is not nn.Module]
        waiting += [*own, *methods]
    return words


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)
