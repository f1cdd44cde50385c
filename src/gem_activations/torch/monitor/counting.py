"""Counting at one activation: flags per unit and counts per bin, on the device of what passes by."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .flatness import Flat, Reading
from .recording import EDGES, LayerCount

_SAMPLED = 256
_WIDE = 64  # Columns from which on a reduction over rows is fast on a CPU.
_MOST = torch.finfo(torch.float32).max


class LayerCounter:
    """What was seen of one activation since the window began: two flags a unit, and fixed numbers of counts.

    Nothing that passes by is kept: what is stored is of the size of the units and bins.

    Args:
        name: Name of the activation module.
        source: Name of the module with weights that ran before it.
        reading: What is known of its function.
    """

    def __init__(self, name: str, source: str, reading: Reading) -> None:
        self.name, self.source, self.reading = name, source, reading
        self.units: int | None = None
        self.passes = self.backward_passes = self.skipped = self.values = 0
        self._positions = torch.empty(0, dtype=torch.int64)
        self._spread = -1

    def _begin(self, units: int, device: torch.device) -> None:
        gate = self.reading.gate or (0.0, 0.0)
        self.units = units
        self._active = torch.zeros(units, dtype=torch.bool, device=device)
        self._moved = torch.zeros(units, dtype=torch.bool, device=device)
        self._edges = torch.tensor([*EDGES, math.inf], dtype=torch.float32, device=device)
        self._marks = torch.tensor([-math.inf, *gate, _MOST], dtype=torch.float32, device=device)
        self._binned = torch.zeros(len(EDGES) + 1, dtype=torch.int64, device=device)
        self._marked = torch.zeros(4, dtype=torch.int64, device=device)
        self._squares = torch.zeros((), dtype=torch.float32, device=device)

    def see(self, x: Tensor, dim: int) -> bool:
        """Count one forward pass of a pre-activation; False where it has another number of units than the first had.

        Args:
            x: A detached floating tensor with at least one element; it is read here and not kept.
            dim: Its channel dimension, 0 up to x.dim() - 1; ignored where x has none.
        """
        units = x.shape[dim] if x.dim() else 1
        if self.units is None:
            self._begin(units, x.device)
        elif units != self.units:
            self.skipped += 1
            return False
        self._follow(x.device)
        self.passes += 1
        flat = self.reading.flat
        if flat is not None and flat.where != "nowhere":
            self._active |= _is_active(x, dim, flat)
        self._sample(x)
        return True

    def see_gradient(self, gradient: Tensor, dim: int) -> None:
        """Count the gradient of a pre-activation whose forward pass was counted."""
        if self.units != (gradient.shape[dim] if gradient.dim() else 1):
            return  # Of a forward pass that was left out.
        self._follow(gradient.device)
        self.backward_passes += 1
        # NaN is not 0: a gradient that is broken is not a gradient that is missing.
        most, least = reduce_units(gradient, dim, torch.amax), reduce_units(gradient, dim, torch.amin)
        self._moved |= ~((most == 0) & (least == 0))

    def count(self) -> LayerCount:
        """Give what was counted; waits for the device."""
        assert self.units is not None, "it was made where a first pass is counted"
        below, closed, opened, finite = self._marked.tolist()
        flat, gate, here = self.reading.flat, self.reading.gate, finite - below
        binned = self._binned.tolist()
        square = float(self._squares) / max(self.passes, 1)
        no_piece = flat is not None and flat.where == "nowhere"
        return LayerCount(
            name=self.name,
            source=self.source,
            activation=self.reading.activation,
            scale=self.reading.scale,
            units=self.units,
            passes=self.passes,
            backward_passes=self.backward_passes,
            skipped=self.skipped,
            never_active=None if flat is None else () if no_piece else _missing(self._active),
            zero_gradient=_missing(self._moved) if self.backward_passes else None,
            gate_closed=(closed - below) / here if gate and here else None,
            gate_open=(finite - opened) / here if gate and here else None,
            rms=math.sqrt(square) if math.isfinite(square) else None,
            values=self.values,
            not_finite=self.values - here,
            histogram=tuple(high - low for low, high in itertools.pairwise([0, *binned])),
        )

    def _follow(self, device: torch.device) -> None:
        if self._active.device != device:  # The model was moved.
            for name in ("_active", "_moved", "_edges", "_marks", "_binned", "_marked", "_squares"):
                setattr(self, name, getattr(self, name).to(device))

    def _sample(self, x: Tensor) -> None:
        if x.numel() != self._spread or self._positions.device != x.device:
            self._positions, self._spread = _spread(x.numel()).to(x.device), x.numel()
        values = x.take(self._positions).float()
        square = values.square().mean()
        # The smallest normal number: where all values are 0 they stay 0 in any unit.
        scale = self.reading.scale or square.sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        column = values.unsqueeze(1)
        self._binned += (column / scale <= self._edges).sum(0)
        self._marked += (column <= self._marks).sum(0)
        self._squares += square
        self.values += len(values)


def _is_active(x: Tensor, dim: int, flat: Flat) -> Tensor:
    """Tell of each unit whether an element of it lies where the function is not flat; NaN does."""
    if flat.where == "below":
        return ~(reduce_units(x, dim, torch.amax) <= flat.low)
    if flat.where == "above":
        return ~(reduce_units(x, dim, torch.amin) >= flat.high)
    # Comparisons alone: x - 3 rounds to 3 at small x, and ReLU6 is awake there.
    asleep = (x >= flat.low) & (x <= flat.high) if flat.where == "inside" else (x <= flat.low) | (x >= flat.high)
    return ~reduce_units(asleep, dim, torch.amin)


def reduce_units(x: Tensor, dim: int, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduce all dimensions but one by amax or amin, in the order that is fast for the tensor's layout.

    Args:
        x: Any layout, at least one element.
        dim: The dimension that stays, 0 up to x.dim() - 1.
        reduce: torch.amax or torch.amin: (tensor, dimension) -> tensor.
    Returns: A tensor of shape (x.shape[dim],); (1,) where x has no dimension.
    """
    if x.dim() == 0:
        return x.reshape(1)
    units, last = x.shape[dim], x.movedim(dim, -1)
    if dim < x.dim() - 1 and not last.is_contiguous():
        return reduce(reduce(x.flatten(dim + 1), -1).reshape(-1, units), 0)
    if units < _WIDE and x.dim() > 1:
        # Rows of a few numbers are slow: the first dimension goes first, in rows of all that is in it.
        last = reduce(last.reshape(last.shape[0], -1), 0)
    return reduce(last.reshape(-1, units), 0)


def _spread(count: int) -> Tensor:
    """Give the places that are sampled of `count`: all of few, else some that keep step with no dimension."""
    if count <= _SAMPLED:
        return torch.arange(count)
    golden = (math.sqrt(5) - 1) / 2
    return (torch.arange(1, _SAMPLED + 1, dtype=torch.float64) * golden % 1 * count).long().clamp_(max=count - 1)


def _missing(flags: Tensor) -> tuple[int, ...]:
    return tuple((~flags).nonzero().flatten().tolist())
