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

from ...errors import ModelError, SettingError
from ..dispatch import is_traced
from ..inventory import list_activations, named_activations
from .channels import Source, channel_dimension, named_sources
from .counting import LayerCounter, count_units
from .hooks import Hook, Look, PassingHooks, Place, is_watched
from .recording import Recording, Window

INTERVAL, WINDOW, KEEP = 50, 20, 100

_backward_number: Any = torch._C._current_graph_task_id  # pyright: ignore[reportPrivateUsage] -- as torch.utils.module_tracker


class DeadUnitMonitor:
    """Count dead units, gradients of zero, gate saturation and pre-activations of a model while it trains.

    Every `interval` steps one step is looked at: all its forward passes in training mode, and the backward passes that
    belong to them. The counts of `window` such steps become a `Window`, and counting begins anew. In other steps there
    are no hooks on the model, other than in compiled code. The monitor changes nothing that the model computes. It
    lives as long as it is held: the model does not hold it.

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
        pattern that matches no activation; SettingError: a number below 1, or a `channel_dim` of another kind.
    Edge cases: Recomputed forward passes of gradient checkpointing are counted once. The gradient is that of the
        pre-activation tensor: where that has another use, such as a skip connection, it is the sum over all uses.
        Where `swap` replaces a watched activation, counting of it begins anew. An activation that is called on parts of
        what one module gives is counted as one: a unit is dead where it is dead in all parts.
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
        activations = _find_activations(model)
        self._names = tuple(activations)
        self._dims = _read_dims(channel_dim, self._names)
        self.interval, self.window = interval, window
        self._on_window = on_window
        self._windows: deque[Window] = deque(maxlen=keep)
        self._counters: dict[tuple[str, str], LayerCounter] = {}
        self._source: Source | None = None
        self._step = self._first = self._samples = 0
        self._closed = False
        self._look: Look | None = None
        self._hooks = PassingHooks(self._make_places(model, activations), activations.values())
        weakref.finalize(self, self._hooks.remove).atexit = False
        self._begin_look()

    @property
    def steps(self) -> int:
        """The number of steps since the monitor was made."""
        return self._step

    @property
    def looks(self) -> bool:
        """Whether the current step is looked at."""
        return self._look is not None

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
        if self._look is not None:
            self._samples += 1
            self._end_look()
        self._step += 1
        if self._step % self.interval == 0:
            self._begin_look()
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
        self._end_look()
        self._hooks.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_places(self, model: nn.Module, activations: Mapping[str, nn.Module]) -> list[Place]:
        this: weakref.ref[DeadUnitMonitor] = weakref.ref(self)
        # A pass through the whole model begins without a source; `named_sources` leaves the model itself out.
        sources = [(None, model), *named_sources(model)]
        # A monitor that is not closed is not to keep the weights of a model.
        places = [
            Place(Hook(this, partial(_note_source, source)), weakref.ref(module), False) for source, module in sources
        ]
        watched = [
            Place(Hook(this, partial(_see, name)), partial(_give, module), True) for name, module in activations.items()
        ]
        return [*places, *watched]

    def _begin_look(self) -> None:
        self._look = Look()
        self._source = None
        self._hooks.put_on()

    def _end_look(self) -> None:
        if self._look is not None:
            self._look.close()
        self._look = None
        if self.interval > 1:
            self._hooks.take_off()

    def _count(self, name: str, module: nn.Module, x: Tensor) -> None:
        """Count the input of an activation in a pass that may be a training step's."""
        follows = x.requires_grad and torch.is_grad_enabled()
        # A forward pass inside a backward pass is one that checkpointing does again.
        repeated = _backward_number() != -1
        key = name, self._source.name if self._source else ""
        counter = self._find_repeated(key, x) if repeated else self._find_counter(key, module)
        if counter is None or self._look is None or (repeated and not follows):
            return
        dim = self._find_dim(counter, x)
        if repeated:
            counter.unfollowed -= 1
        elif not counter.see(x.detach(), dim):
            return
        elif not follows:
            counter.unfollowed += 1
            return
        self._look.follow(x, counter, dim)

    def _find_counter(self, key: tuple[str, str], module: nn.Module) -> LayerCounter:
        counter = self._counters.get(key)
        if counter is None or counter.module is not module:  # `swap` moves the hooks to the new module.
            counter = self._counters[key] = LayerCounter(key[0], self._source, module)
        return counter

    def _find_dim(self, counter: LayerCounter, x: Tensor) -> int:
        return channel_dimension(x, self._dims.get(counter.name, counter.source), counter.name)

    def _find_repeated(self, key: tuple[str, str], x: Tensor) -> LayerCounter | None:
        """Give the counter of a pass that is repeated, of the latest that fits; None where its gradient comes anyway.

        What ran before a segment has not run before it when it is repeated.
        """
        for counter in (self._counters.get(key), *reversed(self._counters.values())):
            if counter is None or counter.name != key[0] or not counter.unfollowed:
                continue
            if counter.units == count_units(x, self._find_dim(counter, x)):
                return counter
        return None

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
        if is_watched(module):
            raise ModelError(f"{name!r} is watched by another DeadUnitMonitor; close that one first")
    return found


def _read_dims(channel_dim: int | Mapping[str, int] | None, names: tuple[str, ...]) -> dict[str, int]:
    if channel_dim is None:
        return {}
    wanted = channel_dim if isinstance(channel_dim, Mapping) else {"*": channel_dim}
    dims: dict[str, int] = {}
    for pattern, dim in wanted.items():
        if not isinstance(pattern, str):
            raise SettingError(
                f"channel_dim has the key {pattern!r}: expected a pattern of names, such as 'features.*'"
            )
        if isinstance(dim, bool) or not isinstance(dim, int):
            raise SettingError(f"channel_dim={dim!r}: expected a whole number, the dimension of the units")
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise ModelError(f"no activation has a name that matches {pattern!r}; one is called {names[0]!r}")
        for name in matched:
            dims.setdefault(name, dim)
    return dims


def _see(name: str, monitor: DeadUnitMonitor, module: nn.Module, x: Any = None, *_: Any) -> None:
    """Look at the input of an activation, before it may be overwritten."""
    if module.training and _is_ordinary(x):
        monitor._count(name, module, x)


def _note_source(source: Source | None, monitor: DeadUnitMonitor, *_: Any) -> None:
    monitor._source = source


def _give(module: nn.Module) -> nn.Module:
    return module


def _is_ordinary(x: Any) -> bool:
    """Tell whether x is a tensor of real numbers in memory, in a pass that could be a training step's."""
    return (
        isinstance(x, Tensor) and x.is_floating_point() and not x.is_inference() and not is_traced(x) and x.numel() > 0
    )
