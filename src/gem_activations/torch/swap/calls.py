"""Which functions of torch a module's own forward calls, read from its source, or from its graph if it has one.

The calls themselves are served while forward runs (see functions.py). What is read here is only which modules have any,
so that the report can name them and a key that matches nothing is noticed. Reading follows the methods of the module,
and functions of the user's. It goes by names: a function that is looked up by a string is not seen. The forward of a
torch.fx.GraphModule is made of its graph, which is changed instead of being served.
"""

import ast
import copy
import inspect
import sys
import textwrap
import types
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from .functions import SPELLINGS, family_of

_CONTAINERS = (dict, list, tuple, set, frozenset)
_MISSING = object()
_CHILDREN = {"children", "named_children", "modules", "named_modules", "_modules"}
_Path = tuple[str | None, ...]  # A dotted name; None begins that of what has no name.


class Calls(NamedTuple):
    """What a forward calls.

    Attributes:
        families: The functions, by the name that their spellings share, and whether all calls of it are in place.
        reason: Why the calls of this forward cannot be served, "" if they can.
    """

    families: dict[str, bool]
    reason: str


def find_calls(module: nn.Module) -> Calls:
    """Read what the forward of a module's class calls, beside the forwards of its children.

    Example:
        >>> find_calls(nn.ReLU()).families, find_calls(nn.Linear(1, 1)).families
        ({'relu': False}, {})
    """
    if isinstance(module, fx.GraphModule):
        families: dict[str, bool] = {}
        for family, overwrites in map(_read_node, module.graph.nodes):
            if family:
                families[family] = overwrites and families.get(family, True)
        return Calls(families, "")
    reader = _Reader()
    reader.read(inspect.getattr_static(type(module), "forward"), module)
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        reader.reasons.append("it is a container, and would go through the new activation as one of its parts")
    return Calls(reader.families, next(iter(reader.reasons), ""))


def call_children(module: fx.GraphModule, served: dict[str, str]) -> fx.Graph:
    """Return the graph of a module with calls of children, by their names, in place of functions."""
    graph = copy.deepcopy(module.graph)
    for node in list(graph.nodes):
        family, overwrites = _read_node(node)
        if family not in served:
            continue
        child = served[family]
        x: Any = node.args[0] if node.args else node.kwargs["input"]
        in_place = getattr(module.get_submodule(child), "inplace", False) is True
        with graph.inserting_before(node):
            y = graph.call_module(child, (x if overwrites == in_place else graph.call_method("clone", (x,)),))
            if overwrites and not in_place:
                y = graph.call_method("copy_", (x, y))
        node.replace_all_uses_with(y)
        graph.erase_node(node)
    return graph


def _read_node(node: fx.Node) -> tuple[str, bool]:
    """Return the function that a node calls, "" for none, and whether it overwrites its input."""
    word = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    family = SPELLINGS.get(word) if node.op == "call_method" else None
    if node.op == "call_function":
        family = family_of(node.target)
    return family or "", word.endswith("_") or bool(node.kwargs.get("inplace", False))


def inside(value: Any, depth: int = 3) -> Iterator[Any]:
    """Yield a value, or what its containers, partials and static methods hold."""
    if isinstance(value, _CONTAINERS) and depth:
        for part in value.values() if isinstance(value, dict) else value:
            yield from inside(part, depth - 1)
    elif isinstance(value, (partial, staticmethod)):
        yield value.func if isinstance(value, partial) else value.__func__
    else:
        yield value


class _Reader:
    """Reads functions one after the other, each once."""

    def __init__(self) -> None:
        self.families: dict[str, bool] = {}
        self.reasons: list[str] = []
        self._seen: set[tuple[types.CodeType, int]] = set()

    def read(self, function: Any, this: Any) -> None:
        """Read a function, and what it calls; `this` is the module that its first argument stands for, or None."""
        if isinstance(function, property):
            function = function.fget
        function = inspect.unwrap(getattr(function, "__func__", function))
        if not isinstance(function, types.FunctionType) or (function.__code__, id(this)) in self._seen:
            return
        code = function.__code__
        self._seen.add((code, id(this)))
        first = code.co_varnames[0] if this is not None and code.co_argcount else None
        for path, in_place in _read_source(code)[0] or _read_names(code, function, first):
            self._read_path(path, in_place, function, this, first)
        if this is not None and "super" in code.co_names:
            for kind in type(this).__mro__:
                for name in sorted({*code.co_names} & vars(kind).keys()):
                    self._follow(vars(kind)[name], this)

    def _read_path(self, path: _Path, in_place: bool, function: types.FunctionType, this: Any, first: Any) -> None:
        if any("checkpoint" in (part or "") for part in path):
            self.reasons.append(
                "its forward uses checkpoint, which computes a piece of it again outside of forward; checkpoint the "
                "whole module from where it is called"
            )
        if path[0] is not None and path[0] == first and not _CHILDREN.isdisjoint(path[1:2]):
            self.reasons.append("its forward goes through its children, and would meet the new activation among them")
        owner, value = _resolve(path, function, this, first)
        of_module = isinstance(owner, nn.Module)
        held = value.func if isinstance(value, partial) else value
        if of_module and vars(owner).get(str(path[-1]), _MISSING) is value and family_of(held):
            return  # What a module holds is replaced where it is held.
        # What is known at the call only may be a method of a tensor.
        known = [path[-1] if len(path) > 1 else None] if value is _MISSING else inside(value)
        for each in known:
            family = SPELLINGS.get(each or "") if value is _MISSING else family_of(each)
            if family is not None:
                overwrites = in_place or getattr(each, "__name__", "").endswith("_")
                self.families[family] = overwrites and self.families.get(family, True)
        self._follow(value, owner if of_module else this)

    def _follow(self, value: Any, this: Any) -> None:
        value = value.__func__ if isinstance(value, staticmethod) else value
        if isinstance(value, type) and issubclass(value, torch.autograd.Function):
            other = _Reader()
            other.read(inspect.getattr_static(value, "forward"), None)
            if other.families:
                self.reasons.append(
                    f"its forward uses the torch.autograd.Function {value.__name__}, whose backward would be that of "
                    "another activation"
                )
        elif isinstance(value, (types.FunctionType, types.MethodType, property)):
            home = (getattr(value, "__module__", None) or "").partition(".")[0]
            if home in ("torch", "gem_activations") or home in sys.stdlib_module_names - {"__main__"}:
                return
            # A decorator's function is given the same first argument.
            takes_it = True
            if not isinstance(value, property):
                code = inspect.unwrap(getattr(value, "__func__", value)).__code__
                takes_it = code.co_argcount > 0 and code.co_varnames[0] == "self"
            self.read(value, getattr(value, "__self__", this) if takes_it else None)


@lru_cache(maxsize=1024)
def _read_source(code: types.CodeType) -> tuple[list[tuple[_Path, bool]], list[_Path]]:
    """Return each dotted name that a function uses, and whether it is called in place; and the calls in statements."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError):
        return [], []
    nodes = [*ast.walk(tree)]
    words = [(node.func, word) for node in nodes if isinstance(node, ast.Call) for word in node.keywords]
    true = [(called, word) for called, word in words if isinstance(word.value, ast.Constant) and word.value.value]
    in_place = {id(called) for called, word in true if word.arg == "inplace"}
    names = [(_path_of(node), id(node) in in_place) for node in nodes if isinstance(node, (ast.Name, ast.Attribute))]
    imports = [alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    paths = [(path, overwrites or (path[-1] or "").endswith("_")) for path, overwrites in names]
    alone = [node.value.func for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    return [*paths, *(((None, name), False) for name in imports)], [_path_of(called) for called in alone]


def _path_of(node: ast.expr) -> _Path:
    if isinstance(node, ast.Name):
        return (node.id,)
    return (*_path_of(node.value), node.attr) if isinstance(node, ast.Attribute) else (None,)


def _read_names(code: types.CodeType, function: types.FunctionType, first: str | None) -> Iterator[tuple[_Path, bool]]:
    """Yield the names of a function without source (`python -c`); one that is not global is taken for the module's."""
    for name in (*code.co_names, *code.co_freevars):
        known = name in function.__globals__ or name in code.co_freevars
        yield (name,) if known else (first, name), name.endswith("_")
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _read_names(constant, function, first)


def _resolve(path: _Path, function: types.FunctionType, this: Any, first: str | None) -> tuple[Any, Any]:
    """Return what a dotted name stands for and whose attribute it is; `_MISSING` if that is known at the call only."""
    code, root = function.__code__, path[0]
    owner, value = None, _MISSING
    if root is not None and root == first:
        value = this
    elif root in code.co_freevars:
        try:
            value = (function.__closure__ or ())[code.co_freevars.index(root)].cell_contents
        except ValueError:  # Nothing is in it yet.
            value = _MISSING
    elif root is not None and root not in (*code.co_varnames, *code.co_cellvars):
        value = function.__globals__.get(root, _MISSING)
    for name in path[1:]:
        if value is _MISSING:
            break
        owner, held = value, {}
        if isinstance(value, nn.Module):
            held = {**value._buffers, **value._parameters, **value._modules}
        # Without running any code of the user's.
        value = held[name] if name in held else inspect.getattr_static(value, name or "", _MISSING)
    return owner, value


def called_for_effect(model: nn.Module) -> set[int]:
    """Return the ids of the modules of a model that a method calls as a statement, as in `self.act(x)`.

    Such a method counts on the module's overwriting its input.

    Edge cases: Read from the source. If there is none, or a module is reached by an index or in a loop, nothing is
        found.
    Example:
        >>> called_for_effect(nn.Sequential(nn.ReLU(inplace=True)))
        set()
    """
    found: set[int] = set()
    for module in model.modules():
        own = (kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch."))
        functions = [value for kind in own for value in vars(kind).values() if isinstance(value, types.FunctionType)]
        for function in map(inspect.unwrap, functions):
            first = function.__code__.co_varnames[:1]
            paths = (path for path in _read_source(function.__code__)[1] if path[:1] == first)
            found.update(id(_resolve(path, function, module, first[0])[1]) for path in paths)
    return found & {id(module) for module in model.modules()}
