"""Following a module's forward by torch.fx, and noticing what that would freeze, drop or do to the module."""

import random
from typing import Any

import numpy as np
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

_WHAT = ", which torch.fx would freeze"


def trace(module: nn.Module, training: bool) -> fx.Graph | str:
    """Trace a module's own forward in one training mode.

    Args:
        module: It and what is in it are left as they were.
        training: The training mode to trace.
    Returns: The graph; or why a graph would not do what the forward does.
    """
    was = module.training
    module.training = training
    kept, drawn, computed = _Kept(module), _random_state(), _Computed()
    reason = ""
    try:
        with computed:
            graph = _OwnCode().trace(module)
    except Exception as error:  # A forward may raise anything when it meets a stand-in.
        graph = None
        reason = (
            f"torch.fx cannot trace its forward: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        )
    finally:
        changed = kept.restore()
        module.training = was
    if graph is None:
        return reason
    if changed or computed.names:
        return f"its forward makes a tensor or sets an attribute ({(changed + computed.names)[0]}){_WHAT}"
    return f"its forward draws a random number{_WHAT}" if _random_state() != drawn else graph


class _OwnCode(fx.Tracer):
    """Follows a module's own forward; what that calls of its children stays a call."""

    proxy_buffer_attributes = True  # Else a forward would change buffers, or branch on them, while it is traced.

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 -- given by torch.fx
        return True


class _Computed(TorchDispatchMode):
    """Notes the operations on real tensors: what they give is the same in every later call."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class _Kept:
    """The attributes of a module and of all it holds, and the contents of the dictionaries and lists among them."""

    def __init__(self, module: nn.Module) -> None:
        homes = [vars(part) for part in module.modules()]
        held = [(name, value) for home in homes for name, value in home.items() if isinstance(value, (dict, list))]
        self._kept = [
            (name, home, dict(home) if isinstance(home, dict) else list(home))
            for name, home in [*(("", home) for home in homes), *held]
        ]

    def restore(self) -> list[str]:
        """Put everything back; give the names of the attributes that were another, or had other contents."""
        changed: set[str] = set()
        for name, home, kept in self._kept:
            now, before = _contents(home), _contents(kept)
            if [id(part) for part in now.values()] == [id(part) for part in before.values()] and [*now] == [*before]:
                continue
            differing = (key for key in now | before if now.get(key, home) is not before.get(key, home))
            changed |= {name} if name else {str(key) for key in differing}
            home.clear()
            home.update(kept) if isinstance(home, dict) else home.extend(kept)
        return sorted(changed)


def _contents(home: dict[Any, Any] | list[Any]) -> dict[Any, Any]:
    return home if isinstance(home, dict) else dict(enumerate(home))


def _random_state() -> tuple[Any, str]:
    # The position in NumPy's stream, which its text shows, moves with every draw.
    return random.getstate(), repr(np.random.get_state())
