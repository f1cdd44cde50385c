"""Forwards that count on a child module's overwriting its input: they call it and drop what it returns."""

import ast
import inspect
import textwrap
import types

from torch import nn


def called_for_effect(model: nn.Module) -> set[int]:
    """Give the ids of the modules of a model that one of its methods calls as a statement, as in `self.act(x)`.

    Edge cases: Read from the source. Where there is none, and where a module is reached by an index or in a loop,
        nothing is found.
    Example:
        >>> called_for_effect(nn.Sequential(nn.ReLU(inplace=True)))
        set()
    """
    paths: dict[type[nn.Module], set[str]] = {}
    found: set[int] = set()
    for module in model.modules():
        kind = type(module)
        if kind not in paths:
            paths[kind] = _paths(kind)
        for path in paths[kind]:
            try:
                found.add(id(module.get_submodule(path)))
            except AttributeError:  # It calls something else.
                continue
    return found


def _paths(kind: type[nn.Module]) -> set[str]:
    """Give what the methods of a class call as statements, such as "act" or "block.act" of the object itself."""
    own = [base for base in kind.__mro__ if not base.__module__.startswith("torch.")]
    functions = [value for base in own for value in vars(base).values() if isinstance(value, types.FunctionType)]
    return {path for function in functions for path in _paths_in(function)}


def _paths_in(function: types.FunctionType) -> set[str]:
    function = inspect.unwrap(function)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return set()
    statements = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    called = [ast.unparse(value.func).partition(".") for value in statements if isinstance(value, ast.Call)]
    # The first argument is the module itself.
    return {path for this, _, path in called if path and [this] == [*function.__code__.co_varnames[:1]]}
