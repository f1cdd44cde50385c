"""GraphModules of torch.fx: their forward is made of a graph, which is changed instead of being served."""

import copy
from typing import Any, TypeGuard

from torch import fx, nn

from .calls import Calls
from .functions import SPELLINGS, family_of


def is_graph(module: nn.Module) -> TypeGuard[fx.GraphModule]:
    """Return whether a module is made of a graph."""
    return isinstance(module, fx.GraphModule)


def find_calls(module: fx.GraphModule) -> Calls:
    """Return the functions that a graph calls, and whether all calls of it are in place."""
    families: dict[str, bool] = {}
    for node in module.graph.nodes:
        family, in_place = _read(node)
        if family:
            families[family] = in_place and families.get(family, True)
    return Calls(families, "")


def call_children(module: fx.GraphModule, served: dict[str, str]) -> fx.Graph:
    """Return the graph of a module with calls of children, by their names, in place of functions."""
    graph = copy.deepcopy(module.graph)
    for node in list(graph.nodes):
        family, overwrites = _read(node)
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


def _read(node: fx.Node) -> tuple[str, bool]:
    """Return the function that a node calls, "" for none, and whether it overwrites its input."""
    word = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    family = SPELLINGS.get(word) if node.op == "call_method" else None
    if node.op == "call_function":
        family = family_of(node.target)
    return family or "", word.endswith("_") or bool(node.kwargs.get("inplace", False))
