"""The plots of a comparison, drawn from what the store holds, and the picture of the family."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ..catalog import parse
from .drawing import GREY, INK, RIVALS, Style, label_columns, look, panel_grid, render, row_figure, styles
from .shapes import REACH, Shape, sample_shape
from .statistics import ArmSummary, Interval, accuracies_by_seed, summarise
from .store import FAILED, FINISHED, Comparison, write_atomically

Array = NDArray[np.float64]

_METRICS = {"validation_accuracy": (100.0, "validation accuracy, %"), "train_loss": (1.0, "training loss, nats (log)")}


def comparison_figures(comparison: Comparison) -> dict[str, Figure]:
    """Draw the plots of a comparison.

    Args:
        comparison: What the store holds; it may be unfinished.
    Returns: Figures by file stem: `accuracy`, `differences`, `validation-accuracy`, `train-loss`, `activations`. A
        plot without anything to show is left out.
    """
    with look():
        arms = summarise(comparison)
        looks = styles(comparison.activations)
        figures: dict[str, Figure] = {}
        if any(arm.finished for arm in arms):
            figures["accuracy"] = _accuracy_figure(comparison, arms, looks)
        if any(arm.difference and arm.difference.pairs for arm in arms):
            figures["differences"] = _difference_figure(comparison, arms, looks)
        if any(comparison.curves.values()):
            figures["validation-accuracy"] = _curve_figure(comparison, looks, "validation_accuracy")
            figures["train-loss"] = _curve_figure(comparison, looks, "train_loss")
        figures["activations"] = _activation_figure(comparison.activations, looks)
        for figure in figures.values():
            # Laid out once here, not again for each file it is written to.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        return figures


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


def _accuracy_figure(comparison: Comparison, arms: Sequence[ArmSummary], looks: dict[str, Style]) -> Figure:
    drawn = [arm for arm in arms if arm.mean is not None]
    figure, axes = row_figure([arm.activation for arm in drawn])
    for row, arm in enumerate(drawn):
        values = list(accuracies_by_seed(comparison, arm.activation).values())
        _draw_row(axes, row, values, looks[arm.activation], [(arm.interval, 1.2)])
    _legend(figure, "mean of the finished runs", [("95 % Student t interval of the mean", 1.2)])
    axes.set_xlabel("test accuracy, %")
    return figure


def _difference_figure(comparison: Comparison, arms: Sequence[ArmSummary], looks: dict[str, Style]) -> Figure:
    drawn = [(arm, arm.difference) for arm in arms if arm.difference and arm.difference.pairs]
    figure, axes = row_figure([arm.activation for arm, _ in drawn])
    baseline = accuracies_by_seed(comparison, comparison.baseline)
    for row, (arm, difference) in enumerate(drawn):
        values = accuracies_by_seed(comparison, arm.activation)
        pairs = [values[seed] - baseline[seed] for seed in values if seed in baseline]
        bars = [(difference.student, 1.2), (difference.bootstrap, 4.0)]
        _draw_row(axes, row, pairs, looks[arm.activation], bars)
    axes.axvline(0, color=INK, linewidth=1)
    _legend(figure, "mean difference", [("95 % bootstrap interval", 4.0), ("95 % Student t interval", 1.2)])
    axes.set_xlabel(f"difference to {comparison.baseline}, percentage points")
    return figure


def _draw_row(
    axes: Axes, row: int, values: Sequence[float], look: Style, bars: Sequence[tuple[Interval | None, float]]
) -> None:
    points = 100 * np.asarray(values)
    for interval, width in bars:
        if interval is not None:
            # Over two seeds Student's interval is 25 standard errors wide: it may leave the frame, not set it.
            line = Line2D([100 * interval.low, 100 * interval.high], [row, row], color=look.color, linewidth=width)
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


def _curve_figure(comparison: Comparison, looks: dict[str, Style], metric: str) -> Figure:
    """Draw one panel per activation: mean and range over its finished runs, each failed run, the baseline's mean."""
    figure, panels = panel_grid(comparison.activations)
    baseline = _finished_curves(comparison, comparison.baseline, metric)
    for axes, activation in zip(panels, comparison.activations, strict=True):
        color = looks[activation].color
        curves = _finished_curves(comparison, activation, metric)
        if curves.size:
            epochs = _epochs(curves[0])
            axes.fill_between(epochs, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.3, linewidth=0)
            axes.plot(epochs, curves.mean(axis=0), color=color, marker="o", markersize=2.5)
        else:
            axes.text(0.5, 0.5, "no finished run", transform=axes.transAxes, ha="center", color=GREY)
        if activation != comparison.baseline and baseline.size:
            axes.plot(_epochs(baseline[0]), baseline.mean(axis=0), color=INK, linestyle=":", linewidth=1.2)
        for curve in _curves(comparison, activation, metric, FAILED):
            axes.plot(_epochs(curve), curve, color=color, linewidth=0.8, linestyle="--")
            axes.plot(len(curve), curve[-1], "x", color=color)
    if metric == "train_loss":
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[0].yaxis.set_major_formatter("{x:g}")
        panels[0].yaxis.set_minor_formatter(NullFormatter())
    else:
        panels[0].set_ylim(bottom=_frame_floor(comparison, metric))
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    label_columns(panels, "epoch")
    figure.supylabel(_METRICS[metric][1], fontsize=9)
    _curve_legend(figure, comparison)
    return figure


def _curve_legend(figure: Figure, comparison: Comparison) -> None:
    handles = [
        Line2D([], [], color=GREY, marker="o", markersize=2.5, label="mean; band: lowest to highest seed"),
        Line2D([], [], color=INK, linestyle=":", linewidth=1.2, label=f"mean of {comparison.baseline}"),
    ]
    if any(run.status == FAILED for run in comparison.results):
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle="--", marker="x", label="failed run"))
    figure.legend(handles=handles, loc="outside upper left", ncols=2)


def _curves(comparison: Comparison, activation: str, metric: str, status: str) -> list[Array]:
    """Give the curves of an activation's runs of one status, in percent or nats."""
    runs = [run for run in comparison.results if (run.activation, run.status) == (activation, status)]
    curves = [comparison.curves.get((activation, run.seed), ()) for run in runs]
    scale = _METRICS[metric][0]
    return [scale * np.array([getattr(epoch, metric) for epoch in curve]) for curve in curves if curve]


def _finished_curves(comparison: Comparison, activation: str, metric: str) -> Array:
    """Give the finished runs of an activation, (runs, epochs), up to the epoch that all of them reached."""
    curves = _curves(comparison, activation, metric, FINISHED)
    shortest = min(map(len, curves), default=0)
    return np.array([curve[:shortest] for curve in curves])


def _frame_floor(comparison: Comparison, metric: str) -> float:
    """Give the lower end of the frame: a third into the training, so that the first epochs do not flatten the rest."""
    curves = [_finished_curves(comparison, activation, metric) for activation in comparison.activations]
    late = [curve[:, curve.shape[1] // 3 :].min() for curve in curves if curve.size]
    top = max((curve.max() for curve in curves if curve.size), default=100.0)
    bottom = min(late, default=0.0)
    return bottom - 0.05 * (top - bottom) - 0.1


def _epochs(curve: Array) -> NDArray[np.int_]:
    return np.arange(1, len(curve) + 1)


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
