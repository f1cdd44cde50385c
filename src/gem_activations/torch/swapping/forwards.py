"""The forwards that swap puts in the place of a module's own: functions made of graphs, and what these hold for."""

import inspect
import pickle
import types
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from ...errors import ModelError


def function_of(graph: fx.Graph) -> Callable[..., Any]:
    """Give the function forward(self, ...) that a graph stands for."""
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(code.src, namespace)
    return namespace["forward"]


def call_child(graph: fx.Graph, node: fx.Node, name: str) -> None:
    """Put a call of the child `name` in the place of a node that calls an activation."""
    source: Any = node.args[0] if node.args else node.kwargs["input"]
    with graph.inserting_after(node):
        node.replace_all_uses_with(graph.call_module(name, (source,)))
    graph.erase_node(node)


def read_of(part: nn.Module, name: str) -> Any:
    """Give what a forward reads of a part: an attribute, or under `_modules` the names of what a container holds."""
    return tuple(part._modules) if name == "_modules" else getattr(part, name, None)


class _Forward:
    """A forward that stands among a module's attributes. A deep copy belongs to the copy of the module.

    Each has a class of its own, with a code object of its own: torch.compile counts how often one code object was
    compiled, and gives up after a few.
    """

    def __new__(cls, *_: Any) -> Any:
        call: Any = cls.__call__
        alone = types.FunctionType(call.__code__.replace(), call.__globals__, call.__name__)
        return object.__new__(type(cls.__name__, (cls,), {"__call__": alone}))

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        # torch.export and trainers read the names of the arguments, and where the source is.
        own: Any = type(module).forward
        self.__signature__ = inspect.signature(types.MethodType(own, module))
        self.__code__ = own.__code__

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Else a bound method would come back as the forward of the class, which calls what was there before.
        raise pickle.PicklingError(
            f"swap rewrote the forward of this {type(self._module).__name__}, which cannot be pickled; "
            "save the state_dict, or undo the swap first"
        )


class TracedForward(_Forward):
    """Runs the graph of the module's training mode, where all is as it was when the graphs were made.

    Args:
        module: What it is the forward of.
        by_mode: The function of each training mode.
        reads: (dotted name of a part, attribute, value) of the numbers and flags that are frozen in them.
        asks_for_none: Whether an argument that is None could take another way.
    """

    def __init__(
        self,
        module: nn.Module,
        by_mode: Mapping[bool, Callable[..., Any]],
        reads: list[tuple[str, str, Any]],
        asks_for_none: bool,
    ) -> None:
        super().__init__(module)
        self._by_mode, self._reads, self._asks_for_none = by_mode, reads, asks_for_none

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph of the training mode.

        Raises: ModelError: a setting, or the mode of a part, is another than the graph was made for.
        """
        module = self._module
        if self._asks_for_none and any(value is None for value in (*args, *kwargs.values())):
            raise ModelError(
                f"{type(module).__name__}.forward asks what is None, and swap rewrote it for arguments that are not; "
                "undo the swap to call it with None"
            )
        for place, name, before in self._reads:
            part = module.get_submodule(place)
            now = read_of(part, name)
            if name == "training":
                if now != module.training:
                    raise ModelError(
                        f"{type(module).__name__} and its part {place} are not both in training or in evaluation, and "
                        "swap rewrote the forward that reads both for one mode; undo the swap to set them apart"
                    )
            elif not _same(now, before):
                raise ModelError(
                    f"{type(part).__name__}.{name} was {before!r} when swap rewrote the forward that reads it, which "
                    f"keeps that; undo the swap, change {name}, and swap again"
                )
        return self._by_mode[module.training](module, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "TracedForward":
        module = memo.get(id(self._module), self._module)
        return TracedForward(module, self._by_mode, self._reads, self._asks_for_none)


class GraphForward(_Forward):
    """Runs the graph of a GraphModule with children in the place of some of its nodes.

    Args:
        module: What it is the forward of; its own graph stays as it is.
        function: The function of the graph with the children.
        places: The names of these children, by the positions of the nodes whose place they take.
    """

    def __init__(self, module: fx.GraphModule, function: Callable[..., Any], places: Mapping[int, str]) -> None:
        super().__init__(module)
        self._function, self._places, self._code = function, places, module.code

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph with the children.

        Raises: ModelError: the module has another graph now.
        """
        if self._module.code != self._code:
            raise ModelError("the graph of this GraphModule was changed after the swap; undo the swap first")
        return self._function(self._module, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "GraphForward":
        # A GraphModule makes its copy from the copy of its graph, and keeps the children that this calls.
        graph: Any = memo.get(id(self._module.graph))
        if graph is None:
            raise ModelError("the forward of a GraphModule can be copied with its module only")
        for position, node in enumerate(list(graph.nodes)):
            if position in self._places:
                call_child(graph, node, self._places[position])
        return self


def _same(now: Any, before: Any) -> bool:
    if type(now) is not type(before):
        return False
    if isinstance(now, (list, tuple)):
        return len(now) == len(before) and all(map(_same, now, before))
    return now == before or (now != now and before != before)
