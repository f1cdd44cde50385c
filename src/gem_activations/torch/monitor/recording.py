"""What a monitor has counted, as frozen dataclasses, and the file that keeps it: JSON Lines, one window a line."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import torch.distributed as dist

from ...errors import DataError, SettingError
from ...extras import framework
from ...files import write_atomically

FORMAT, VERSION = "gem-activations monitor", 1
_REACH = [10 ** (quarter / 4) for quarter in range(-8, 17)]
EDGES: tuple[float, ...] = (*(-edge for edge in reversed(_REACH)), 0.0, *_REACH)
"""Bounds of the bins of every distribution: 0, and quarters of a decade from 0.01 to 10,000 on both sides."""
_SHOWN = 8


@dataclass(frozen=True)
class LayerCount:
    """One activation over one window. A unit is a channel, counted from 0 along the channel dimension.

    Attributes:
        name: Dotted name of the activation module in the model.
        source: Dotted name of the module with weights that ran last before it; empty if none did. A module that is
            used in several places has one LayerCount for each.
        activation: Its string in the catalog, or its class if it has none.
        scale: The scale a = eps^(1/(2n)) of a member of the family; the distribution is in units of it. None for
            every other activation: the distribution is then in units of the root mean square of each sample.
        units: Number of units.
        passes: Forward passes that were counted.
        backward_passes: Backward passes that reached its input.
        skipped: Forward passes that were left out because they had another number of units than the first.
        never_active: Units at which the function was flat at every element of every counted pass; None for an
            activation that is not in the catalog.
        zero_gradient: Units of whose pre-activations no element had a gradient other than 0 in any counted pass; units
            that were never active are among them. None if no backward pass reached the input.
        gate_closed, gate_open: Shares of the sampled pre-activations at which the gate was below 1 %, or above 99 %, of
            its range; 0 to 1. None for an activation without a gate.
        rms: Root mean square of the sampled pre-activations, in units of x; None if one was not finite.
        values: Number of sampled pre-activations, not finite ones included.
        not_finite: How many of them were infinite or NaN.
        histogram: How many fell up to each of EDGES and above the one before; the last is for those above all edges.
            NaN is in none.
    """

    name: str
    source: str
    activation: str
    scale: float | None
    units: int
    passes: int
    backward_passes: int
    skipped: int
    never_active: tuple[int, ...] | None
    zero_gradient: tuple[int, ...] | None
    gate_closed: float | None
    gate_open: float | None
    rms: float | None
    values: int
    not_finite: int
    histogram: tuple[int, ...]

    def __post_init__(self) -> None:
        # Files are read into this class as well: what could not be drawn is refused here.
        _require(self.units > 0, "units is below 1")
        _require(len(self.histogram) == len(EDGES) + 1, f"histogram has not {len(EDGES) + 1} counts")

    @property
    def unit(self) -> str:
        """What the distribution is measured in: "a" for a member of the family, else "rms"."""
        return "rms" if self.scale is None else "a"

    def scalars(self) -> dict[str, float]:
        """Return what a curve is drawn of, if it is known: the shares never_active, zero_gradient, gate_closed and
        gate_open, 0 to 1, and the rms.
        """
        found = {
            "never_active": None if self.never_active is None else len(self.never_active) / self.units,
            "zero_gradient": None if self.zero_gradient is None else len(self.zero_gradient) / self.units,
            "gate_closed": self.gate_closed,
            "gate_open": self.gate_open,
            "rms": self.rms,
        }
        return {name: value for name, value in found.items() if value is not None}

    def quantile(self, share: float) -> float | None:
        """Return a quantile of the sampled pre-activations in units of `unit`, to the width of a bin; None without any.

        Args:
            share: 0 to 1; 0.5 gives the median.
        """
        wanted, passed = share * sum(self.histogram), 0.0
        bounds = (2 * EDGES[0], *EDGES, 2 * EDGES[-1])
        for bin_, count in enumerate(self.histogram):
            if count and passed + count >= wanted:
                return bounds[bin_] + (bounds[bin_ + 1] - bounds[bin_]) * (wanted - passed) / count
            passed += count
        return None


@dataclass(frozen=True)
class Window:
    """What was counted from the step `first_step` up to `last_step`, steps counted from 0.

    Attributes:
        samples: Steps that were looked at.
        layers: The activations that ran, in the order in which they ran first.
        unseen: Activation modules that did not run in training mode, or only inside compiled code.
    """

    first_step: int
    last_step: int
    samples: int
    layers: tuple[LayerCount, ...]
    unseen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(0 <= self.first_step <= self.last_step, "the window ends before it begins")
        _require(self.samples >= 0, "samples is below 0")

    def label(self, layer: LayerCount) -> str:
        """Name a layer: the module's name, and what ran before it if the module is used in several places."""
        shared = sum(other.name == layer.name for other in self.layers) > 1
        name = layer.name or "the model"
        return f"{name} after {layer.source or 'the input'}" if shared else name


@dataclass(frozen=True)
class Recording:
    """All that a monitor has kept.

    Attributes:
        interval: Steps from one sample to the next.
        window: Samples of a whole window.
        windows: From the oldest to the newest; the last may hold fewer samples.
    """

    interval: int
    window: int
    windows: tuple[Window, ...]

    def __post_init__(self) -> None:
        _require(self.interval > 0 and self.window > 0, "interval and window must be 1 or more")
        for before, after in pairwise(self.windows):
            _require(before.last_step < after.first_step, f"the window of step {after.first_step} begins too early")

    @property
    def latest(self) -> Window:
        """The newest window that is complete; the newest if none is.

        Raises: SettingError: there is no window.
        """
        if not self.windows:
            raise SettingError("nothing was counted yet: the monitor has finished no step that it looks at")
        complete = [window for window in self.windows if window.samples >= self.window]
        return (complete or self.windows)[-1]

    def records(self) -> list[dict[str, Any]]:
        """Return a flat dictionary for each layer of each window, as a table of one row a layer takes them."""
        return [
            {"first_step": window.first_step, "last_step": window.last_step, "samples": window.samples, **asdict(layer)}
            for window in self.windows
            for layer in window.layers
        ]

    def to_json(self) -> str:
        """Write the recording as JSON Lines: a heading, then one window a line."""
        heading = {"format": FORMAT, "version": VERSION, "interval": self.interval, "window": self.window}
        lines = [{**heading, "edges": EDGES}, *(asdict(window) for window in self.windows)]
        return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)

    def save(self, path: str | Path) -> None:
        """Write the file that `gem-act monitor` draws and `read_recording` reads; it appears by atomic rename.

        Raises: OSError: the file cannot be written.
        """
        write_atomically(Path(path), self.to_json().encode())

    def continued_by(self, later: Self) -> Self:
        """Return this recording followed by that of a training which was resumed.

        Windows of this one that reach into the steps of the later one are dropped: these steps were trained again.

        Raises: SettingError: the recordings have other intervals or windows.
        """
        if (later.interval, later.window) != (self.interval, self.window):
            raise SettingError(
                f"a recording with interval={self.interval} and window={self.window} cannot be continued with "
                f"interval={later.interval} and window={later.window}"
            )
        begin = later.windows[0].first_step if later.windows else math.inf
        return replace(self, windows=(*(each for each in self.windows if each.last_step < begin), *later.windows))

    def merge(self, others: Sequence[Self]) -> Self:
        """Put the recordings of the other processes of a distributed training into one.

        A unit is never active, or without gradient, if it was so in every process; counts are summed.

        Raises: SettingError: the recordings have other intervals, windows or layers.
        """
        for other in others:
            if (other.interval, other.window, len(other.windows)) != (self.interval, self.window, len(self.windows)):
                raise SettingError("recordings of different intervals, windows or lengths cannot be merged")
        merged: list[Window] = []
        for windows in zip(self.windows, *(other.windows for other in others), strict=True):
            places = [{(layer.name, layer.source): layer for layer in window.layers} for window in windows]
            order = dict.fromkeys(place for found in places for place in found)
            layers = tuple(_merge_layers([found[place] for found in places if place in found]) for place in order)
            seen = {layer.name for layer in layers}
            unseen = dict.fromkeys(name for window in windows for name in window.unseen if name not in seen)
            merged.append(replace(windows[0], layers=layers, unseen=tuple(unseen)))
        return replace(self, windows=tuple(merged))

    def __str__(self) -> str:
        """Say of the latest window, a line a layer, which units were never active and which had no gradient."""
        if not self.windows:
            return "nothing was counted yet"
        last = self.latest
        lines = [f"steps {last.first_step} to {last.last_step}, {last.samples} looked at"]
        for layer in last.layers:
            dead = f"{_list_units(layer.never_active, layer.units)} never active"
            lines.append(
                f"{last.label(layer)}: {dead}; {_list_units(layer.zero_gradient, layer.units)} without gradient"
            )
        if last.unseen:
            lines.append(f"not seen: {', '.join(last.unseen)}")
        return "\n".join(lines)


def read_recording(path: str | Path) -> Recording:
    """Read a file that `Recording.save` or `DeadUnitMonitor.save` has written.

    Raises: DataError: the file is missing, truncated, altered or of another format; MissingDependencyError: msgspec is
        not installed.
    """
    with framework("msgspec", at_least="0.20", install="'gem-activations[monitor]'"):
        import msgspec

    class Heading(msgspec.Struct, forbid_unknown_fields=True):
        format: Literal["gem-activations monitor"]
        version: int
        interval: int
        window: int
        edges: tuple[float, ...]

    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no recording of a monitor: it is not text") from error
    if not lines:
        raise DataError(f"{path} is empty; expected what DeadUnitMonitor.save writes")

    def decode(number: int, kind: Any) -> Any:
        try:
            return msgspec.json.decode(lines[number], type=kind)
        except msgspec.ValidationError as error:
            raise DataError(f"{path}, line {number + 1} is not what a monitor writes: {error}") from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise DataError(f"{path}, line {number + 1} is no JSON or truncated; save the recording again") from error

    found = decode(0, Any)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"{path} is no recording of a monitor; expected what DeadUnitMonitor.save writes")
    if found.get("version") != VERSION:
        raise DataError(f"{path} is of version {found.get('version')!r}; this gem-activations reads {VERSION}")
    heading = decode(0, Heading)
    windows = tuple(decode(number, Window) for number in range(1, len(lines)))
    try:
        _require(heading.edges == EDGES, "the edges are not those of this version")
        return Recording(heading.interval, heading.window, windows)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def gather(recording: Recording, group: "dist.ProcessGroup | None" = None) -> Recording:
    """Put the recordings of all processes of a group into one; every process calls it and gets the same.

    A unit counts as never active, or without gradient, if it was so in every process.

    Args:
        recording: What `DeadUnitMonitor.report` gave in this process. All monitors have the same interval, window and
            number of steps.
        group: The processes; None for all. Without torch.distributed the recording is given back.
    Raises: SettingError: the recordings do not fit together.
    Example:
        >>> empty = Recording(1, 1, ())
        >>> gather(empty) is empty
        True
    """
    if not dist.is_available() or not dist.is_initialized():
        return recording
    gathered: list[Recording] = [recording] * dist.get_world_size(group)
    dist.all_gather_object(gathered, recording, group=group)
    return gathered[0].merge(gathered[1:])


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _list_units(units: tuple[int, ...] | None, count: int) -> str:
    if units is None:
        return f"? of {count}"
    shown = ", ".join(map(str, units[:_SHOWN])) + ", ..." * (len(units) > _SHOWN)
    return f"{len(units)} of {count}" + f" ({shown})" * bool(units)


def _merge_layers(layers: Sequence[LayerCount]) -> LayerCount:
    first = layers[0]
    for layer in layers:
        if (layer.units, layer.activation) != (first.units, first.activation):
            raise SettingError(f"{first.name} has {first.units} units in one recording and {layer.units} in another")
    finite = [layer.values - layer.not_finite for layer in layers]
    square = _mean([None if layer.rms is None else layer.rms**2 for layer in layers], finite)
    return replace(
        first,
        **{name: sum(getattr(layer, name) for layer in layers) for name in _SUMS},
        never_active=_intersect([layer.never_active for layer in layers]),
        zero_gradient=_intersect([layer.zero_gradient for layer in layers]),
        gate_closed=_mean([layer.gate_closed for layer in layers], finite),
        gate_open=_mean([layer.gate_open for layer in layers], finite),
        rms=None if square is None else math.sqrt(square),
        histogram=tuple(map(sum, zip(*(layer.histogram for layer in layers), strict=True))),
    )


_SUMS = ("passes", "backward_passes", "skipped", "values", "not_finite")


def _intersect(sets: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    known = [set(units) for units in sets if units is not None]
    return tuple(sorted(set.intersection(*known))) if known else None


def _mean(values: Sequence[float | None], weights: Sequence[int]) -> float | None:
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total and len(known) == len(values) else None
