"""Counting at one activation: flags per unit, on the device of what passes by, and a sample of each pass."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from .channels import Source
from .dead import is_dead, read_activation, reduce_units
from .recording import EDGES, LayerCount

_SAMPLED = 256
_WAITING = 64  # Passes whose samples wait to be sorted into bins together.
_BOUNDS = np.array(EDGES)
_TINY = float(np.finfo(np.float32).tiny)


class LayerCounter:
    """What was seen of one activation since the window began: two flags a unit, and a sample of each pass.

    Nothing that passes by is kept. A pass costs few operations: the samples, copies of up to 256 numbers, wait, and go
    into bins at the end of the window, or when there are 64 of them. That alone waits for the device.

    Args:
        name: Name of the activation module.
        source: The module with weights that ran before it.
        module: The activation module.
    Attributes:
        unfollowed: Passes in which no gradient was to come, as checkpointing repeats them in the backward pass.
    """

    def __init__(self, name: str, source: Source | None, module: nn.Module) -> None:
        self.name, self.source, self.module = name, source, module
        self.reading = read_activation(module)
        self.units: int | None = None
        self.passes = self.backward_passes = self.skipped = self.values = self.unfollowed = 0
        flat = self.reading.flat
        self._flat = None if flat is None or flat.kind == "nowhere" else flat
        # On a CPU they tell that no later pass can change the flags; elsewhere one would have to wait to know.
        self._all_active = self._all_moved = False
        self._dead: Tensor | None = None
        self._moved: Tensor | None = None
        self._waiting: list[Tensor] = []
        self._binned = np.zeros(len(EDGES) + 1, dtype=np.int64)
        self._finite = self._closed = self._open = 0
        self._squares = 0.0

    def see(self, x: Tensor, dim: int) -> bool:
        """Count one forward pass of a pre-activation; False where it has another number of units than the first had.

        Args:
            x: A detached floating tensor with at least one element; it is read here and not kept.
            dim: Its channel dimension, 0 up to x.dim() - 1; ignored where x has none.
        """
        units = count_units(x, dim)
        if self.units is None:
            self.units = units
        elif units != self.units:
            self.skipped += 1
            return False
        self.passes += 1
        if self._flat is not None and not self._all_active:
            dead = is_dead(x, dim, self._flat)
            # A model may be moved between two passes.
            self._dead = dead if self._dead is None else self._dead.to(x.device).logical_and_(dead)
            self._all_active = x.is_cpu and not bool(self._dead.any())
        self._waiting.append(x.take(_spread(x.numel(), x.device)))
        if len(self._waiting) == _WAITING:
            self._sort_in()
        return True

    def see_gradient(self, gradient: Tensor, dim: int) -> None:
        """Count the gradient of a pre-activation whose forward pass was counted."""
        if self.units != count_units(gradient, dim):
            return  # Of a forward pass that was left out.
        self.backward_passes += 1
        if self._all_moved:
            return
        # NaN counts as true, as 0 alone is false: a gradient that is broken is not a gradient that is missing.
        most, least = reduce_units(gradient, dim, torch.amax), reduce_units(gradient, dim, torch.amin)
        if self._moved is None:
            self._moved = most.logical_or(least)
        else:
            self._moved = self._moved.to(gradient.device).logical_or_(most).logical_or_(least)
        self._all_moved = gradient.is_cpu and bool(self._moved.all())

    def count(self) -> LayerCount:
        """Give what was counted; waits for the device."""
        assert self.units is not None, "it was made where a first pass is counted"
        self._sort_in()
        gate, here, reading = self.reading.gate, self._finite, self.reading
        square = self._squares / max(self.passes, 1)
        return LayerCount(
            name=self.name,
            source=self.source.name if self.source else "",
            activation=reading.activation,
            scale=reading.scale,
            units=self.units,
            passes=self.passes,
            backward_passes=self.backward_passes,
            skipped=self.skipped,
            never_active=None if reading.flat is None else _find_set(self._dead),
            zero_gradient=None if self._moved is None else _find_set(~self._moved),
            gate_closed=self._closed / here if gate and here else None,
            gate_open=self._open / here if gate and here else None,
            rms=math.sqrt(square) if math.isfinite(square) else None,
            values=self.values,
            not_finite=self.values - here,
            histogram=tuple(self._binned.tolist()),
        )

    def _sort_in(self) -> None:
        """Count the samples that wait."""
        alike: dict[tuple[object, ...], list[Tensor]] = {}
        for sample in self._waiting:
            alike.setdefault((len(sample), sample.dtype, sample.device), []).append(sample)
        self._waiting = []
        for samples in alike.values():
            self._sort_in_rows(torch.stack(samples).double().cpu().numpy())  # NumPy has no bfloat16.

    def _sort_in_rows(self, values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> None:
        """Count samples of one size: float64 of shape (passes, values of each)."""
        finite = values[np.isfinite(values)]
        self.values += values.size
        self._finite += finite.size
        if self.reading.gate is not None:
            closed, opened = self.reading.gate
            self._closed += int(np.count_nonzero(finite <= closed))
            self._open += int(np.count_nonzero(finite > opened))
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.square(values).mean(axis=1)
            self._squares += float(squares.sum())
            # The smallest normal number: where all values are 0 they stay 0 in any unit.
            scaled = values / (self.reading.scale or np.maximum(np.sqrt(squares), _TINY)[:, np.newaxis])
        places = np.searchsorted(_BOUNDS, scaled[~np.isnan(scaled)])
        self._binned += np.bincount(places, minlength=len(self._binned))


def count_units(x: Tensor, dim: int) -> int:
    """Give the number of units of a pre-activation with channel dimension `dim`; 1 where it has no dimension."""
    return x.shape[dim] if x.dim() else 1


@lru_cache(maxsize=256)
def _spread(count: int, device: torch.device) -> Tensor:
    """Give the places that are sampled of `count`: all of few, else some that keep step with no dimension."""
    if count <= _SAMPLED:
        return torch.arange(count, device="cpu").to(device)
    golden = (math.sqrt(5) - 1) / 2
    places = torch.arange(1, _SAMPLED + 1, dtype=torch.float64, device="cpu") * golden % 1 * count
    return places.long().clamp_(max=count - 1).to(device, non_blocking=True)


def _find_set(flags: Tensor | None) -> tuple[int, ...]:
    return () if flags is None else tuple(np.flatnonzero(flags.cpu().numpy()).tolist())
