"""What a monitor recorded, as a table for the terminal and a picture: `gem-act monitor`."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from rich import box
from rich.markup import escape
from rich.table import Table

from ...errors import DataError
from ...files import write_atomically
from ...torch.monitor import EDGES, Recording, Window, read_recording
from .drawing import GREY, look, render

_MOST_UNITS = 12
_NAME = 28  # Letters of a layer's name in the picture; of a longer one the end is shown.
_PARTS = (("never_active", "never active"), ("zero_gradient", "no gradient"))


def show_recording(file: Path, picture: Path | None) -> Iterator[Table | str]:
    """Read a monitor's file, draw a picture of it if one is wanted, and yield what is to be printed.

    Raises: DataError: no recording, or one without a window; SettingError: a picture that is no .png or .svg; OSError:
        it cannot be written.
    """
    recording = read_recording(file)
    if not recording.windows:
        raise DataError(f"{file} holds no window yet: the monitor had looked at no step")
    if picture is not None and not any(window.layers for window in recording.windows):
        raise DataError(f"{file} holds nothing to draw: no activation ran in training mode outside compiled code")
    if picture is not None:
        write_atomically(picture, render(recording_figure(recording), picture.suffix.removeprefix(".")))
    last = recording.latest
    yield monitor_table(last)
    yield from _sentences(recording)
    if picture is not None:
        yield f"Picture: {picture}"


def monitor_table(window: Window) -> Table:
    """Return a window as a table, a row for each layer; shares in percent, distributions in units of a or rms."""
    title = f"steps {window.first_step} to {window.last_step}, {window.samples} looked at"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("layer", "activation", "units", "never active", "no gradient", "gate < 1 %", "gate > 99 %"):
        table.add_column(heading, justify="left" if heading in ("layer", "activation") else "right")
    for heading in ("5 %", "median", "95 %", "unit"):
        table.add_column(heading, justify="right")
    for layer in window.layers:
        gate = (_percent(layer.gate_closed), _percent(layer.gate_open))
        spread = ("-" if value is None else f"{value:.2g}" for value in map(layer.quantile, (0.05, 0.5, 0.95)))
        counts = (_count(layer.never_active), _count(layer.zero_gradient))
        name, unit = window.label(layer), "rms" if layer.scale is None else f"a = {layer.scale:.3g}"
        table.add_row(*map(escape, (name, layer.activation, str(layer.units), *counts, *gate, *spread, unit)))
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _count(units: Sequence[int] | None) -> str:
    return "?" if units is None else str(len(units))


def _sentences(recording: Recording) -> Iterator[str]:
    last = recording.latest
    for name, title in _PARTS:
        for layer in last.layers:
            units = getattr(layer, name)
            if units:
                shown = ", ".join(map(str, units[:_MOST_UNITS])) + ", ..." * (len(units) > _MOST_UNITS)
                yield f"{title}: {last.label(layer)}, {len(units)} of {layer.units} units: {shown}"
    if last.layers and not any(getattr(layer, name) for layer in last.layers for name, _ in _PARTS):
        yield "No unit is known to be dead or without gradient."
    for layer in last.layers:
        if layer.not_finite:
            yield f"{last.label(layer)}: {layer.not_finite} of {layer.values} sampled pre-activations were not finite"
        if layer.skipped:
            yield f"{last.label(layer)}: {layer.skipped} passes with another number of units were left out"
    if last.unseen:
        yield f"not seen, in evaluation or inside compiled code only: {', '.join(last.unseen)}"


def recording_figure(recording: Recording) -> Figure:
    """Draw layers as rows: dead units and missing gradients over the windows, of which one has a layer; inputs now."""
    last = recording.latest
    rows = list(dict.fromkeys(label for window in recording.windows for label in map(window.label, window.layers)))
    with look():
        figure = Figure(figsize=(10, 1.5 + 0.24 * max(len(rows), 4)), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1, 1.3))
        shares = [_draw_shares(axes, recording.windows, rows, part) for axes, part in zip(panels, _PARTS, strict=False)]
        shades = _draw_distributions(panels[2], last, rows)
        panels[2].set_title(f"pre-activations, steps {last.first_step} to {last.last_step}")
        panels[0].set_yticks(range(len(rows)), [row if len(row) <= _NAME else f"...{row[3 - _NAME :]}" for row in rows])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        figure.colorbar(shares[-1], ax=panels[1], label="of the units", ticks=[0, 1])
        figure.colorbar(shades, ax=panels[2], label="of the fullest bin", ticks=[0, 1])
    return figure


def _draw_shares(axes: Axes, windows: Sequence[Window], rows: Sequence[str], part: tuple[str, str]) -> QuadMesh:
    name, title = part
    shares = np.full((len(rows), len(windows)), np.nan)
    for column, window in enumerate(windows):
        for layer in window.layers:
            shares[rows.index(window.label(layer)), column] = layer.scalars().get(name, np.nan)
    steps = [windows[0].first_step, *(window.last_step + 1 for window in windows)]
    bounds = np.arange(len(rows) + 1) - 0.5
    mesh = axes.pcolormesh(steps, bounds, shares, vmin=0, vmax=1, cmap="Oranges", rasterized=True)
    axes.set(title=title, xlabel="step")
    _finish(axes)
    return mesh


def _draw_distributions(axes: Axes, window: Window, rows: Sequence[str]) -> QuadMesh:
    shares = np.full((len(rows), len(EDGES) - 1), np.nan)
    for layer in window.layers:
        counts = np.array(layer.histogram, dtype=float)
        counts[1] += counts[0]  # What lies beyond the outer edges is drawn in the outer bins.
        counts[-2] += counts[-1]
        shares[rows.index(window.label(layer))] = counts[1:-1] / max(counts[1:-1].max(), 1)
    # The bins are quarters of a decade: their numbers are the axis, and some are labelled by what they bound.
    mesh = axes.pcolormesh(
        range(len(EDGES)), np.arange(len(rows) + 1) - 0.5, shares, vmin=0, vmax=1, cmap="Blues", rasterized=True
    )
    labelled = [
        number
        for number, edge in enumerate(EDGES)
        if any(math.isclose(abs(edge), label) for label in (0, 1, 100, 10_000))
    ]
    axes.set_xticks(labelled, [f"{EDGES[number]:g}" for number in labelled], rotation=90)
    axes.axvline(EDGES.index(0.0), color=GREY, linewidth=0.8)
    axes.set_xlabel(" or ".join(sorted({f"x / {layer.unit}" for layer in window.layers})))
    _finish(axes)
    return mesh


def _finish(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.set_facecolor("#e6e8eb")  # Where nothing is known.
