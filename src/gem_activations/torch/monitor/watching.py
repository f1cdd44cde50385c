"""The monitor of dead units: hooks on the activations of a model, and the steps that are looked at."""

import warnings
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...errors import ModelError, SettingError
from ..backends import is_traced
from ..calibration import warn_of_scale
from ..inventory import list_activations, named_activations
from .counting import LayerCounter, Source, channel_dimension, count_units, named_sources
from .recording import Recording, Window, read_recording

INTERVAL, WINDOW, KEEP = 50, 20, 100

_backward_number: Any = torch._C._current_graph_task_id  # pyright: ignore[reportPrivateUsage] -- as torch.utils.module_tracker
_open: "weakref.WeakSet[DeadUnitMonitor]" = weakref.WeakSet()


class _Hook:
    """A forward pre-hook that calls act(monitor, module, *arguments) while its monitor looks.

    A copy of the model holds a hook that does nothing, and so does a pickle; a monitor that nobody holds is gone.
    `find` returns the module that the hook belongs on, None if that is gone.
    """

    def __init__(
        self,
        monitor: "Callable[[], DeadUnitMonitor | None]" = lambda: None,
        act: Callable[..., None] = lambda *_: None,
        find: Callable[[], nn.Module | None] = lambda: None,
        with_kwargs: bool = False,
    ) -> None:
        self.monitor, self.act, self.find, self.with_kwargs = monitor, act, find, with_kwargs
        self.ran = False  # In code that is not compiled.
        self.handle: RemovableHandle | None = None

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any] | None = None) -> None:
        """Act, in code that is not compiled, while the monitor looks."""
        if not torch.compiler.is_compiling() and (monitor := self.monitor()) is not None and monitor.looks:
            self.ran = True
            self.act(monitor, module, *arguments, *(options.values() if options else ()))

    def put_on(self) -> None:
        """Register it, unless it is registered."""
        if self.handle is None and (module := self.find()) is not None:
            self.handle = module.register_forward_pre_hook(self, with_kwargs=self.with_kwargs)

    def take_off(self) -> None:
        """Remove it."""
        if self.handle is not None:
            self.handle.remove()
        self.handle = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Hook":
        return _Hook()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, ()


class _Look:
    """One step that is looked at, with the hooks of its gradients: they count until it is over."""

    def __init__(self) -> None:
        self.open = True
        self._leaves: dict[int, RemovableHandle] = {}

    def follow(self, x: Tensor, counter: LayerCounter, dim: int) -> None:
        """Count the gradient of a pre-activation that requires one when it comes."""

        def see(gradient: Tensor) -> None:
            # The hook of a leaf stays from step to step, unless it is removed; that of another goes with its graph.
            if leaf and (handle := self._leaves.pop(key, None)) is not None:
                handle.remove()
            if self.open and not is_traced(gradient):
                counter.see_gradient(gradient.detach(), dim)

        handle, leaf = x.register_hook(see), x.is_leaf
        key = handle.id
        if leaf:
            self._leaves[key] = handle

    def close(self) -> None:
        """Count no more gradients."""
        self.open = False
        for handle in self._leaves.values():
            handle.remove()
        self._leaves = {}


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
        channel_dim: The dimension whose indices are the units, if the rule is to be overruled: a number for every
            activation, or pattern of names (read by fnmatch) -> number. The rule: the channel dimension of the
            convolution or normalisation that ran last before the activation, else the last dimension; without any, 1 of
            an image (N, C, H, W) or volume, else the last.
        on_window: Called with each window when it is complete, such as `TensorBoardWriter(...).write`.
        first_step: The number of steps made before, in a training that is resumed. `Recording.continued_by` puts the
            earlier recording before the report.
    Raises: ModelError: no model, a scripted one, one without activation modules or one that is watched already, or a
        pattern that matches no activation; SettingError: a number below 1 (`first_step`: 0), or a `channel_dim` of
        another kind.
    Edge cases: If the scale of a member of the family is above the deviation of its pre-activations in the first step
        that is looked at, or in the first of a later window, a RuntimeWarning says what to do, once. Recomputed forward
        passes of gradient checkpointing are counted once. The gradient is that of the pre-activation tensor: if that
        has another use, such as a skip connection, it is the sum over all uses. If `swap` replaces a watched
        activation, counting of it begins anew. An activation that is called on parts of what one module gives is
        counted as one: a unit is dead if it is dead in all parts. Compiled code is not seen: `Window.unseen` names what
        did not run. A copy of the model, also by pickle, is not watched. In distributed training each process counts
        its own: see `gather`.
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
        first_step: int = 0,
    ) -> None:
        for name, value in {"interval": interval, "window": window, "keep": keep, "first_step": first_step}.items():
            least = 0 if name == "first_step" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SettingError(f"{name}={value!r}: expected a whole number from {least} up")
        activations = _find_activations(model)
        self._names = tuple(activations)
        self._dims = _read_dims(channel_dim, self._names)
        self.interval, self.window = interval, window
        self._on_window = on_window
        self._windows: deque[Window] = deque(maxlen=keep)
        self._counters: dict[tuple[str, str], LayerCounter] = {}
        self._source: Source | None = None
        self._step = self._first = first_step
        self._samples = 0
        self._closed = self._warned = False
        self._look: _Look | None = None
        this: weakref.ref[DeadUnitMonitor] = weakref.ref(self)
        # A pass through the whole model begins without a source; `named_sources` leaves the model itself out. The
        # modules are held weakly: a monitor that is not closed is not to keep the weights of a model.
        self._hooks = [
            *(
                _Hook(this, partial(DeadUnitMonitor._note_source, source=source), weakref.ref(module))
                for source, module in [(None, model), *named_sources(model)]
            ),
            *(
                _Hook(this, partial(DeadUnitMonitor._count, name=name), lambda module=module: module, with_kwargs=True)
                for name, module in activations.items()
            ),
        ]
        # In a swap the dictionary of hooks goes on to the new module, which is then watched in place of the old one.
        self._watched = [_hooks_of(module) for module in activations.values()]
        weakref.finalize(self, _remove, self._hooks).atexit = False
        _open.add(self)
        if first_step % interval == 0:
            self._begin_look()

    @property
    def steps(self) -> int:
        """The number of steps of the training so far, `first_step` included."""
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
            if self._samples == 1 and not self._warned:
                self._warn_of_scales()
        self._step += 1
        if self._step % self.interval == 0:
            self._begin_look()
        if self._step % (self.interval * self.window):
            return
        window = self._make_window()
        self._windows.append(window)
        self._counters = {}
        self._samples, self._first = 0, self._step
        if self._on_window is not None:
            self._on_window(window)

    def _warn_of_scales(self) -> None:
        for counter in self._counters.values():
            scale = counter.reading.scale
            if scale and (rms := counter.measure_rms()) and scale > rms:
                self._warned = True
                warnings.warn(warn_of_scale(counter.name, scale, rms), RuntimeWarning, stacklevel=3)
                return

    def report(self) -> Recording:
        """Return the complete windows, and what was counted since the last of them."""
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
        _remove(self._hooks)
        self._watched = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin_look(self) -> None:
        self._look, self._source = _Look(), None
        for hook in self._hooks:
            hook.put_on()

    def _end_look(self) -> None:
        if self._look is not None:
            self._look.close()
        self._look = None
        if self.interval == 1:
            return
        for hook in self._hooks:
            # A module whose hook was never called may be inside compiled code, which a change of hooks would compile
            # again: there the hook stays.
            if hook.ran:
                hook.take_off()

    def _note_source(self, *_: Any, source: Source | None) -> None:
        self._source = source

    def _count(self, module: nn.Module, x: Any = None, *_: Any, name: str) -> None:
        """Count the input of an activation, before it may be overwritten, in a pass that may be a training step's."""
        if not module.training or not isinstance(x, Tensor) or not x.is_floating_point():
            return
        if x.is_inference() or is_traced(x) or not x.numel():
            return
        follows = x.requires_grad and torch.is_grad_enabled()
        # A forward pass inside a backward pass is one that checkpointing does again.
        repeated = _backward_number() != -1
        key = name, self._source.name if self._source else ""
        counter = self._find_repeated(key, x) if repeated else self._counters.get(key)
        if not repeated and (counter is None or counter.module is not module):  # `swap` moves the hooks to the new one.
            counter = self._counters[key] = LayerCounter(name, self._source, module)
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

    def _find_dim(self, counter: LayerCounter, x: Tensor) -> int:
        return channel_dimension(x, self._dims.get(counter.name, counter.source), counter.name)

    def _find_repeated(self, key: tuple[str, str], x: Tensor) -> LayerCounter | None:
        """Return the counter of a pass that is repeated, of the latest that fits; None if its gradient comes anyway.

        What ran before a segment has not run before it when it is repeated.
        """
        for counter in (self._counters.get(key), *reversed(self._counters.values())):
            if counter is None or counter.name != key[0] or not counter.unfollowed:
                continue
            if counter.units == count_units(x, self._find_dim(counter, x)):
                return counter
        return None

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
        if any(hooks is _hooks_of(module) for monitor in _open for hooks in monitor._watched):
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


def _remove(hooks: list[_Hook]) -> None:
    for hook in hooks:
        hook.take_off()
    hooks.clear()


def _hooks_of(module: nn.Module) -> object:
    return module._forward_pre_hooks  # pyright: ignore[reportPrivateUsage] -- no public name


class TrainingMonitor:
    """What the callbacks of trainers share: a monitor for each training, and its file.

    Args:
        path: File for `gem-act monitor`; None writes none. A training that is resumed continues it.
        interval, window, channel_dim, on_window: As for `DeadUnitMonitor`.
    Attributes:
        monitor: The monitor of the last training; None before the first. Its report stays after the training.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        interval: int = INTERVAL,
        window: int = WINDOW,
        channel_dim: int | Mapping[str, int] | None = None,
        on_window: Callable[[Window], object] | None = None,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.monitor: DeadUnitMonitor | None = None
        self._earlier: Recording | None = None
        self._options = {"interval": interval, "window": window, "channel_dim": channel_dim, "on_window": on_window}

    def _begin(self, model: nn.Module, first_step: int, *, writes: bool) -> None:
        """Watch a model from now on, as the continuation of what the file holds if there were steps before.

        Raises: ModelError, SettingError: as DeadUnitMonitor, or the file has another interval or window; DataError: the
            file cannot be read.
        """
        if self.monitor is not None:
            self.monitor.close()
        self._earlier = None
        if first_step and writes and self.path is not None and self.path.exists():
            self._earlier = read_recording(self.path)
            self._earlier.continued_by(Recording(self._options["interval"], self._options["window"], ()))
        self.monitor = DeadUnitMonitor(model, **self._options, first_step=first_step)

    def _count_step(self, *, writes: bool) -> Window | None:
        """Count a step, and write the file if that ends a window and this process `writes`; return the window."""
        if self.monitor is None:
            return None
        self.monitor.step()
        if self.monitor.steps % (self.monitor.interval * self.monitor.window):
            return None
        self._save(writes)
        return self.monitor.windows[-1]

    def _end(self, *, writes: bool) -> None:
        """Remove the hooks and write the file."""
        if self.monitor is not None:
            self.monitor.close()
            self._save(writes)

    def _save(self, writes: bool) -> None:
        if writes and self.monitor is not None and self.path is not None:
            report = self.monitor.report()
            (self._earlier.continued_by(report) if self._earlier else report).save(self.path)
