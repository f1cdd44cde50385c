"""Hooks that hold a monitor weakly, do nothing in compiled code, and come off a model between two looks."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..dispatch import is_traced
from .counting import LayerCounter

if TYPE_CHECKING:
    from .watching import DeadUnitMonitor

Act = Callable[..., None]


class Hook:
    """A forward pre-hook that calls act(monitor, module, *arguments) while its monitor looks.

    A copy of the model holds a hook that does nothing, and so does a pickle; a monitor that nobody holds is gone.

    Args:
        monitor: A weak reference to the monitor; None makes a hook that does nothing.
        act: What to do.
    Attributes:
        ran: Whether it was called in code that is not compiled.
    """

    def __init__(self, monitor: "weakref.ref[DeadUnitMonitor] | None", act: Act | None) -> None:
        self.monitor, self.act, self.ran = monitor, act, False

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any] | None = None) -> None:
        """Act, in code that is not compiled, while the monitor looks."""
        if torch.compiler.is_compiling():
            return
        monitor = self.monitor() if self.monitor is not None else None
        if monitor is None or self.act is None or not monitor.looks:
            return
        self.ran = True
        self.act(monitor, module, *arguments, *(options.values() if options else ()))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hook":
        return Hook(None, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, (None, None)


class Place(NamedTuple):
    """A hook and the module it belongs on.

    Attributes:
        module: Gives the module; None where it is gone.
        with_kwargs: Whether the hook is given keyword arguments.
    """

    hook: Hook
    module: Callable[[], nn.Module | None]
    with_kwargs: bool


class PassingHooks:
    """The hooks of a monitor: on the model in a step that is looked at, else off it.

    A hook costs microseconds a call, whether it does something or not. A module whose hook was never called may be part
    of compiled code, which would be compiled again where its hooks change: there the hook stays.

    Args:
        places: Where the hooks belong. Their modules may be replaced by `swap`, which moves hooks as they are.
        watched: The modules that no other monitor may watch.
    """

    def __init__(self, places: Sequence[Place], watched: Iterable[nn.Module]) -> None:
        self._places = places
        self._handles: dict[Hook, RemovableHandle] = {}
        self._watched = [_hooks_of(module) for module in watched]
        _open.add(self)

    def put_on(self) -> None:
        """Register every hook that is not."""
        for hook, find, with_kwargs in self._places:
            if hook not in self._handles and (module := find()) is not None:
                self._handles[hook] = module.register_forward_pre_hook(hook, with_kwargs=with_kwargs)

    def take_off(self) -> None:
        """Remove the hooks that have been called."""
        for hook in [hook for hook in self._handles if hook.ran]:
            self._handles.pop(hook).remove()

    def remove(self) -> None:
        """Remove every hook for good."""
        for handle in self._handles.values():
            handle.remove()
        self._places, self._watched, self._handles = (), [], {}

    def watches(self, module: nn.Module) -> bool:
        """Tell whether a module is watched, also one that `swap` has put in the place of a watched one."""
        return any(hooks is _hooks_of(module) for hooks in self._watched)


_open: "weakref.WeakSet[PassingHooks]" = weakref.WeakSet()


def is_watched(module: nn.Module) -> bool:
    """Tell whether an open monitor watches an activation."""
    return any(hooks.watches(module) for hooks in _open)


def _hooks_of(module: nn.Module) -> object:
    return module._forward_pre_hooks  # pyright: ignore[reportPrivateUsage] -- the dictionary is what stays in a swap


class Look:
    """One step that is looked at, with the hooks of its gradients: they count until it is over."""

    def __init__(self) -> None:
        self.open = True
        self._leaves: dict[int, RemovableHandle] = {}

    def follow(self, x: Tensor, counter: LayerCounter, dim: int) -> None:
        """Count the gradient of a pre-activation that requires one when it comes."""
        hook = _GradientHook(self, counter, dim)
        handle = x.register_hook(hook)
        # The hook of any other tensor goes with its graph.
        if x.is_leaf:
            hook.handle = self._leaves[handle.id] = handle

    def forget(self, handle: RemovableHandle) -> None:
        """Remove the hook of a leaf, which would keep it from step to step."""
        handle.remove()
        self._leaves.pop(handle.id, None)

    def close(self) -> None:
        """Count no more gradients."""
        self.open = False
        for handle in self._leaves.values():
            handle.remove()
        self._leaves = {}


class _GradientHook:
    def __init__(self, look: Look, counter: LayerCounter, dim: int) -> None:
        self.look, self.counter, self.dim = look, counter, dim
        self.handle: RemovableHandle | None = None

    def __call__(self, gradient: Tensor) -> None:
        if self.handle is not None:
            self.look.forget(self.handle)
        if self.look.open and not is_traced(gradient):
            self.counter.see_gradient(gradient.detach(), self.dim)
