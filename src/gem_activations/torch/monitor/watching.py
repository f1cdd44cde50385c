"""The monitor of dead units: hooks on the activations of a model, and the steps that are looked at."""

import weakref
from collections import deque
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...errors import ModelError, SettingError
from ..dispatch import is_traced
from ..inventory import list_activations, named_activations
from .channels import Source, channel_dimension, named_sources
from .counting import LayerCounter
from .flatness import read_activation
from .recording import Recording, Window

INTERVAL, WINDOW, KEEP = 50, 20, 100

_watched: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
_backward_number: Any = torch._C._current_graph_task_id  # pyright: ignore[reportPrivateUsage] -- as torch.utils.module_tracker


class DeadUnitMonitor:
    """Count dead units, gradients of zero, gate saturation and pre-activations of a model while it trains.

    Every `interval` steps one step is looked at: all its forward passes in training mode, and the backward passes that
    belong to them. The counts of `window` such steps become a `Window`, and counting begins anew. Other steps cost a
    call of an empty hook for each activation. The monitor changes nothing that the model computes.

    Args:
        model: Any model with activation modules: torch's, this package's, transformers' or timm's. A function that a
            forward calls is not seen; `swap` makes modules of such calls.
        interval: Steps from one step that is looked at to the next, at least 1.
        window: Steps that are looked at in a window, at least 1; it lasts interval * window steps.
        keep: Windows that are kept; older ones are dropped. At least 1.
        channel_dim: The dimension whose indices are the units, where the rule is to be overruled: a number for every
            activation, or pattern of names (read by fnmatch) -> number. The rule: the channel dimension of the
            convolution or normalisation that ran last before the activation, else the last dimension; without any, 1 of
            an image (N, C, H, W) or volume, else the last.
        on_window: Called with each window when it is complete, such as `TensorBoardWriter(...).write`.
    Raises: ModelError: no model, a scripted one, one without activation modules or one that is watched already, or a
        pattern that matches no activation; SettingError: a number below 1.
    Edge cases: Recomputed forward passes of gradient checkpointing are counted once. The gradient is that of the
        pre-activation tensor: where that has another use, such as a skip connection, it is the sum over all uses.
        Compiled code is not seen: `Window.unseen` names what did not run. A copy of the model, also by pickle, is not
        watched. In distributed training each process counts its own: see `gather`.
    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> with torch.no_grad():
        ...     _ = model[0].bias.copy_(torch.tensor([9.0, -100.0, 9.0]))
        >>> with DeadUnitMonitor(model, interval=1) as monitor:
        ...     for _ in range(5):
        ...         model(torch.rand(8, 4)).sum().backward()
        ...         monitor.step()
        >>> print(monitor.report())
        steps 0 to 4, 5 looked at
        1: 1 of 3 (1) never active; 1 of 3 (1) without gradient
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        interval: int = INTERVAL,
        window: int = WINDOW,
        keep: int = KEEP,
        channel_dim: int | Mapping[str, int] | None = None,
        on_window: Callable[[Window], object] | None = None,
    ) -> None:
        for name, value in {"interval": interval, "window": window, "keep": keep}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingError(f"{name}={value!r}: expected a whole number from 1 up")
        self._activations = _find_activations(model)
        self._names = tuple(self._activations)
        self._dims = _read_dims(channel_dim, self._names)
        self.interval, self.window = interval, window
        self._on_window = on_window
        self._windows: deque[Window] = deque(maxlen=keep)
        self._counters: dict[tuple[str, str], LayerCounter] = {}
        self._source: Source | None = None
        self._step = self._first = self._samples = 0
        self._looks = True
        self._closed = False
        # A pass through the whole model begins without a source; `named_sources` leaves the model itself out.
        places = [
            (partial(self._note_source, source), module) for source, module in [(None, model), *named_sources(model)]
        ]
        places += [(partial(self._see, name), module) for name, module in self._activations.items()]
        # The hooks stay from step to step: compiled code is compiled again where their number changes.
        self._handles = [module.register_forward_pre_hook(_Hook(self, see), with_kwargs=True) for see, module in places]
        self._gradient_handles: list[RemovableHandle] = []
        _watched.update(self._activations.values())

    @property
    def steps(self) -> int:
        """The number of steps since the monitor was made."""
        return self._step

    @property
    def looks(self) -> bool:
        """Whether the current step is looked at."""
        return self._looks and not self._closed

    @property
    def windows(self) -> tuple[Window, ...]:
        """The complete windows that are kept, from the oldest to the newest."""
        return tuple(self._windows)

    def step(self) -> None:
        """Tell that a training step is over; call it after the optimizer's step.

        `optimizer.register_step_post_hook(lambda *_: monitor.step())` calls it by itself.

        Raises: ModelError: the monitor is closed.
        """
        if self._closed:
            raise ModelError("this monitor is closed; make another DeadUnitMonitor to go on")
        if self._looks:
            self._samples += 1
            self._let_go()
        self._step += 1
        self._looks = self._step % self.interval == 0
        if self._step % (self.interval * self.window) == 0:
            self._end_window()

    def report(self) -> Recording:
        """Give the complete windows, and what was counted since the last of them."""
        unfinished = (self._make_window(),) if self._samples else ()
        return Recording(self.interval, self.window, (*self._windows, *unfinished))

    def save(self, path: str | Path) -> None:
        """Write the report to a file for `gem-act monitor`; it appears by atomic rename.

        Raises: OSError: the file cannot be written.
        """
        self.report().save(path)

    def close(self) -> None:
        """Remove every hook. What was counted stays; closing again changes nothing."""
        self._closed = True
        self._let_go()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        _watched.difference_update(self._activations.values())
        self._activations = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _see(self, name: str, module: nn.Module, x: Tensor, *_: Any) -> None:
        """Look at the input of an activation, before it may be overwritten."""
        if not module.training or not _is_ordinary(x):
            return
        source = self._source.name if self._source else ""
        counter = self._counters.get((name, source))
        if counter is None:
            counter = self._counters[name, source] = LayerCounter(name, source, read_activation(module))
        dim = channel_dimension(x, self._dims.get(name, self._source), name)
        # A forward pass inside a backward pass is one that checkpointing does again.
        again = _backward_number() != -1
        if (again or counter.see(x.detach(), dim)) and x.requires_grad and torch.is_grad_enabled():
            self._gradient_handles.append(x.register_hook(partial(_see_gradient, counter, dim)))

    def _note_source(self, source: Source | None, *_: Any) -> None:
        self._source = source

    def _let_go(self) -> None:
        """Remove the hooks of the gradients: a leaf would keep them from step to step."""
        for handle in self._gradient_handles:
            handle.remove()
        self._gradient_handles.clear()

    def _end_window(self) -> None:
        window = self._make_window()
        self._windows.append(window)
        self._counters = {}
        self._samples, self._first = 0, self._step
        if self._on_window is not None:
            self._on_window(window)

    def _make_window(self) -> Window:
        counted = tuple(counter.count() for counter in self._counters.values() if counter.units is not None)
        seen = {layer.name for layer in counted}
        unseen = tuple(name for name in self._names if name not in seen)
        return Window(self._first, max(self._step - 1, self._first), self._samples, counted, unseen)


def _find_activations(model: nn.Module) -> dict[str, nn.Module]:
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected a torch.nn.Module to watch, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("a scripted model cannot be watched; watch it before torch.jit.script or torch.jit.trace")
    found = dict(named_activations(model))
    if not found:
        raise ModelError(
            f"nothing to watch: {list_activations(model)}; functions that a forward calls become modules by "
            "gem_activations.torch.swap"
        )
    for name, module in found.items():
        if module in _watched:
            raise ModelError(f"{name!r} is watched by another DeadUnitMonitor; close that one first")
    return found


def _read_dims(channel_dim: int | Mapping[str, int] | None, names: tuple[str, ...]) -> dict[str, int]:
    if channel_dim is None:
        return {}
    wanted = channel_dim if isinstance(channel_dim, Mapping) else {"*": channel_dim}
    dims: dict[str, int] = {}
    for pattern, dim in wanted.items():
        if isinstance(dim, bool) or not isinstance(dim, int):
            raise SettingError(f"channel_dim={dim!r}: expected a whole number, the dimension of the units")
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise ModelError(f"no activation has a name that matches {pattern!r}; one is called {names[0]!r}")
        for name in matched:
            dims.setdefault(name, dim)
    return dims


class _Hook:
    """A hook of a monitor. A copy of the model holds a hook that does nothing, and so does a pickle."""

    def __init__(self, monitor: DeadUnitMonitor | None, act: Callable[..., None] | None) -> None:
        self.monitor, self.act = monitor, act

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or self.monitor is None or self.act is None:
            return
        if self.monitor.looks:
            self.act(module, *arguments, *options.values())

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Hook":
        return _Hook(None, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, (None, None)


def _is_ordinary(x: Any) -> bool:
    """Tell whether x is a tensor of real numbers in memory, in a pass that could be a training step's."""
    return (
        isinstance(x, Tensor) and x.is_floating_point() and not x.is_inference() and not is_traced(x) and x.numel() > 0
    )


@torch.no_grad()
def _see_gradient(counter: LayerCounter, dim: int, gradient: Tensor) -> None:
    if not is_traced(gradient):
        counter.see_gradient(gradient, dim)
