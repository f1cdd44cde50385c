"""Following a module's forward by torch.fx, and noticing what that would freeze, drop or do to the module.

What is followed is a twin, so that whatever forward does to it while stand-ins go through is seen and thrown away.
"""

import sys
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn
from torch.fx.proxy import Attribute
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import ModelError
from .observing import Watch, asks_for_none, is_users, loads_an_attribute, overrides_call, random_state, site
from .twins import Outside, Twin

_WHAT = ", which torch.fx would freeze"


class Traced(NamedTuple):
    """What following a forward in one training mode has shown.

    Attributes:
        graph: The operations on tensors.
        reads: (dotted name of a part, attribute) of every attribute of the module and its parts that was read, of
            those that are set by name in `vars`.
        asks_for_none: Whether something that ran asks what is None.
    """

    graph: fx.Graph
    reads: frozenset[tuple[str, str]]
    asks_for_none: bool


def trace(module: nn.Module, training: bool, late: frozenset[tuple[str, str]]) -> Traced | str:
    """Trace a module's own forward, all of it in one training mode.

    Args:
        module: It and what is in it are left as they were.
        training: The training mode to trace, of the module and of all its parts.
        late: (dotted name of a part, attribute) of the functions whose calls stay calls of the attribute.
    Returns: What was seen; or why a graph would not do what the forward does.
    """
    outside, computed, drawn = Outside(), _Computed(), random_state()
    watch = Watch(outside.meet)
    graph, failure = None, ""
    try:
        twin = Twin(module, training, late)
    except Exception as error:  # What a module holds may raise anything when it is copied.
        return f"its attributes cannot be copied, which tracing needs: {_say(error)}"
    try:
        with twin.noting_reads(), computed, watch.watching():
            graph = _OwnCode(watch).trace(twin.module)
    except Exception as error:  # A forward may raise anything when it meets a stand-in.
        failure = _say(error)
    changed = twin.changed()
    changed += outside.restore()
    if computed.names:  # Asked first: torch runs code of its own, which is watched as well, to compute anything.
        return f"its forward makes a tensor or sets an attribute ({computed.names[0]}){_WHAT}"
    if watch.reasons:
        return f"its forward {watch.reasons[0]}{_WHAT}"
    if changed:
        return f"its forward makes a tensor or sets an attribute ({changed[0]}){_WHAT}"
    if random_state() != drawn:
        return f"its forward draws a random number{_WHAT}"
    if graph is None:
        return f"torch.fx cannot trace its forward: {failure}"
    return Traced(graph, frozenset(twin.reads), any(map(asks_for_none, watch.codes)))


def _say(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class _StandIn(fx.Proxy):
    """A proxy that can tell `x.name`, which is done again in each call, from hasattr and getattr, which are not."""

    def __getattr__(self, k: str) -> Attribute:
        caller = sys._getframe(1)
        if isinstance(self.tracer, _OwnCode) and is_users(caller) and not loads_an_attribute(caller):
            self.tracer.refuse(f"asks for the attribute {k} of what may have none")
        return _Member(self, k)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:  # Else a copy would belong to a copy of the graph.
        raise ModelError("it copies a tensor by copy.deepcopy")


class _Member(Attribute):
    __getattr__ = _StandIn.__getattr__


class _OwnCode(fx.Tracer):
    """Follows a module's own forward; what that calls of its children stays a call."""

    proxy_buffer_attributes = True  # Else a forward would change buffers, or branch on them, while it is traced.

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def refuse(self, reason: str) -> None:
        self._watch.reasons.append(reason)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 -- given by torch.fx
        return True

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if overrides_call(m):  # What that does around the call would be done by the graph, and by the module again.
            self.refuse(f"calls a {type(m).__name__}, whose class has a __call__ of its own")
        return super().call_module(m, forward, args, kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _StandIn(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["site"] = site(sys._getframe(1))
        return node

    def create_arg(self, a: Any) -> Any:
        kind = type(a)
        if isinstance(a, (torch.Size, np.generic)):
            # Else it would come out as a tuple, or as a number of Python's.
            return self.create_node("call_function", kind, (a.item() if isinstance(a, np.generic) else tuple(a),), {})
        if isinstance(a, (tuple, list, dict)) and not _is_plain(kind):
            self.refuse(f"makes a {kind.__name__}")
        if is_dataclass(a) and not isinstance(a, type) and not _only_keeps(kind):
            self.refuse(f"makes a {kind.__name__}")
        return super().create_arg(a)


def _is_plain(kind: type) -> bool:
    """Tell whether torch.fx makes the same kind of tuple, list or dict again."""
    named = kind.__bases__ == (tuple,) and hasattr(kind, "_fields")
    return kind in (tuple, list, dict) or named or kind.__module__.startswith("torch.fx.")


def _only_keeps(kind: type) -> bool:
    """Tell whether a dataclass made from the fields of another is equal to it."""
    made = getattr(kind, "__dataclass_params__").init  # noqa: B009 -- known to dataclasses alone
    return made and not hasattr(kind, "__post_init__") and all(field.init for field in fields(kind))


class _Computed(TorchDispatchMode):
    """Stops at an operation on real tensors: what it gives is the same in every later call."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        raise ModelError(f"{self.names[-1]} would be computed once and for all")
