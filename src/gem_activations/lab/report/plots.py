"""The plots of a comparison, drawn from what the store holds, and the picture of the family."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...catalog import parse
from ..statistics.inference import Interval
from ..statistics.metrics import Metric
from ..statistics.summary import Summary, values_by_seed
from ..store.comparison import write_atomically
from ..store.records import Comparison
from .ablation import ablation_figures
from .curves import depth_figures, learning_figures
from .drawing import GREY, INK, RIVALS, Style, find_known, label_columns, look, panel_grid, render, row_figure, styles
from .shapes import REACH, Shape, sample_shape


def comparison_figures(comparison: Comparison, summary: Summary) -> dict[str, Figure]:
    """Draw the plots of a comparison.

    Args:
        comparison: What the store holds; it may be unfinished.
        summary: Its statistics, from `statistics.summarise`.
    Returns: Figures by file stem: the metric's name, `differences`, `n-ablation` and `eps-ablation` where the arms are
        one, learning curves, `gradient-norm` and `dead-share` by depth where they were recorded, `activations`. A plot
        without anything to show is left out.
    """
    with look():
        figures = dict(_figures(comparison, summary, styles(comparison.activations)))
        for figure in figures.values():
            # Laid out once here, not again for each file it is written to.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        return figures


def _figures(comparison: Comparison, summary: Summary, looks: dict[str, Style]) -> Iterator[tuple[str, Figure]]:
    if any(arm.finished for arm in summary.arms):
        yield summary.metric.name, _value_figure(comparison, summary, looks)
    if any(difference.pairs for _, difference in summary.compared):
        yield "differences", _difference_figure(comparison, summary, looks)
    yield from ablation_figures(comparison, summary, looks).items()
    yield from learning_figures(comparison, summary.metric, looks).items()
    yield from depth_figures(comparison, looks).items()
    known = [name for name in comparison.activations if find_known(name)]
    if known:
        yield "activations", _activation_figure(known, looks)


def write_family_picture(path: Path) -> None:
    """Write the picture of the family: f, f' and f'' of GEM n=1..3, E-GEM and SE-GEM beside ReLU and GELU.

    E-GEM is drawn with eps=0.1, SE-GEM with eps=0.3 and leak=0.1, so that their shapes can be seen.

    Args:
        path: The file, ending in .svg or .png; it appears by atomic rename.
    Raises: SettingError: another suffix; StoreError: the file cannot be written.
    """
    names = ["relu", "gelu", "gem", "gem(n=2)", "gem(n=3)", "egem(eps=0.1)", "segem(eps=0.3, leak=0.1)"]
    colors = [GREY, RIVALS[0], "#8ec9f5", "#2f8fdb", "#1b4f9c", "#12a37a", "#6aa84f"]
    dashes = ["--", "-.", "-", "-", "-", "-", "-"]
    with look():
        figure = Figure(figsize=(10, 3.7), layout="constrained")
        panels = figure.subplots(1, 3)
        lines = [
            _draw_shape(panels, sample_shape(parse(name)), c, d)
            for name, c, d in zip(names, colors, dashes, strict=True)
        ]
        for axes, title, limits in zip(
            panels, ("f", "f'", "f''"), ((-0.5, 2.5), (-0.25, 2.25), (-2.5, 6)), strict=True
        ):
            axes.set(title=title, xlabel="x", xlim=(-2, 2.5), ylim=limits)
        figure.legend(lines, names, loc="outside lower center", ncols=4)
        write_atomically(path, render(figure, path.suffix.removeprefix(".")))


def _draw_shape(panels: Iterable[Axes], curve: Shape, color: str, dash: str) -> Line2D:
    lines = [
        axes.plot(curve.x, values, color=color, linestyle=dash, linewidth=1.6)[0]
        for axes, values in zip(panels, (curve.value, curve.first, curve.second), strict=False)
    ]
    return lines[0]


def _value_figure(comparison: Comparison, summary: Summary, looks: dict[str, Style]) -> Figure:
    metric = summary.metric
    drawn = [arm for arm in summary.arms if arm.mean is not None]
    figure, axes = row_figure([arm.activation for arm in drawn])
    for row, arm in enumerate(drawn):
        values = list(values_by_seed(comparison, arm.activation, metric).values())
        _draw_row(axes, row, values, metric, looks[arm.activation], [(arm.interval, 1.2)])
    _legend(figure, "mean of the finished runs", [("95 % Student t interval of the mean", 1.2)])
    axes.set_xlabel(metric.heading)
    return figure


def _difference_figure(comparison: Comparison, summary: Summary, looks: dict[str, Style]) -> Figure:
    metric = summary.metric
    drawn = [(arm, difference) for arm, difference in summary.compared if difference.pairs]
    figure, axes = row_figure([arm.activation for arm, _ in drawn])
    margin = metric.scale * summary.yardstick.margin
    axes.axvspan(-margin, margin, color=GREY, alpha=0.12, linewidth=0)
    baseline = values_by_seed(comparison, summary.baseline, metric)
    for row, (arm, difference) in enumerate(drawn):
        values = values_by_seed(comparison, arm.activation, metric)
        pairs = [values[seed] - baseline[seed] for seed in values if seed in baseline]
        bars = [(difference.student, 1.2), (difference.bootstrap, 4.0)]
        _draw_row(axes, row, pairs, metric, looks[arm.activation], bars)
    axes.axvline(0, color=INK, linewidth=1)
    _legend(figure, "mean difference", [("95 % bootstrap interval", 4.0), ("95 % Student t interval", 1.2)])
    unit = "percentage points" if metric.difference_unit == "points" else metric.heading
    axes.set_xlabel(
        f"difference to {summary.baseline}, {unit}\n{metric.direction} is better; grey: margin of equivalence"
    )
    return figure


def _draw_row(
    axes: Axes,
    row: int,
    values: Sequence[float],
    metric: Metric,
    look: Style,
    bars: Sequence[tuple[Interval | None, float]],
) -> None:
    points = metric.scale * np.asarray(values)
    for interval, width in bars:
        if interval is not None:
            # Over two seeds Student's interval is 25 standard errors wide: it may leave the frame, not set it.
            line = Line2D([metric.scale * end for end in interval], [row, row], color=look.color, linewidth=width)
            line.set(alpha=0.45 if width > 2 else 1, solid_capstyle="butt")
            axes.add_line(line) if len(points) > 2 else axes.add_artist(line)
    offsets = np.linspace(0.14, 0.26, len(points)) if len(points) > 1 else [0.2]
    axes.plot(
        points, row + np.asarray(offsets), look.marker, color=look.color, markersize=4, alpha=0.8, markeredgewidth=0
    )
    axes.plot(points.mean(), row, "|", color=look.color, markersize=13, markeredgewidth=2.2)
    axes.autoscale_view(scaley=False)


def _legend(figure: Figure, mean: str, bars: Sequence[tuple[str, float]]) -> None:
    handles = [
        Line2D([], [], color=GREY, marker="o", linestyle="", markersize=4, label="one seed"),
        Line2D([], [], color=GREY, marker="|", linestyle="", markersize=11, markeredgewidth=2.2, label=mean),
        *(Line2D([], [], color=GREY, linewidth=width, label=label) for label, width in bars),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


def _activation_figure(activations: Sequence[str], looks: dict[str, Style]) -> Figure:
    figure, panels = panel_grid(activations)
    relu = sample_shape(parse("relu"))
    for axes, activation in zip(panels, activations, strict=True):
        curve = sample_shape(parse(activation))
        axes.plot(relu.x, relu.value, color=GREY, linewidth=0.8)
        axes.plot(curve.x, curve.value, color=looks[activation].color, linewidth=1.8)
        axes.plot(curve.x, curve.first, color=looks[activation].color, linewidth=1.2, linestyle="--")
    panels[0].set(xlim=(-REACH, REACH), ylim=(-0.6, 2.4))
    label_columns(panels, "x")
    handles = [
        Line2D([], [], color=INK, linewidth=1.8, label="f"),
        Line2D([], [], color=INK, linewidth=1.2, linestyle="--", label="f'"),
        Line2D([], [], color=GREY, linewidth=0.8, label="ReLU"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure
