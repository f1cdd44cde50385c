"""Curves over epochs and over depth: a panel for each activation, with the mean of its seeds and its standard error."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ..recipes.pipeline import OwnRecipe
from ..statistics.metrics import ACCURACY, Metric
from ..store.comparison import FAILED, FINISHED, Comparison
from .drawing import GREY, INK, Style, label_columns, panel_grid, sample

Array = NDArray[np.float64]
_Curves = dict[str, list[Array]]  # Activation -> a curve a run.

_DECADE = 10.0


def learning_figures(comparison: Comparison, metric: Metric, looks: dict[str, Style]) -> dict[str, Figure]:
    """Draw the validation metric and the training loss, or what a function has logged, after each epoch, if any."""
    if not any(comparison.curves.values()):
        return {}
    if isinstance(comparison.recipe, OwnRecipe):
        logged = dict.fromkeys(name for rows in comparison.curves.values() for row in rows for name in row)
        names = [name for name in logged if name not in ("epoch", "seconds")][:6]
        return {f"logged-{name}": _learning_figure(comparison, looks, name, 1.0, name) for name in names}
    accuracy = metric is ACCURACY
    field, scale = ("validation_accuracy", 100.0) if accuracy else ("validation_loss", 1.0)
    title = "validation accuracy, %" if accuracy else "validation loss, nats"
    return {
        field.replace("_", "-"): _learning_figure(comparison, looks, field, scale, title),
        "train-loss": _learning_figure(comparison, looks, "train_loss", 1.0, "training loss, nats"),
    }


def depth_figures(comparison: Comparison, looks: dict[str, Style]) -> dict[str, Figure]:
    """Draw what was recorded by depth: `gradient-norm` of each layer and `dead-share` of each activation's units.

    A part that no run has recorded is left out.
    """
    figures: dict[str, Figure] = {}
    for name, end, start, scale, x, y in (
        ("gradient-norm", "gradients", "start_gradients", 1.0, "layer", "gradient norm"),
        ("dead-share", "dead", "start_dead", 100.0, "activation", "dead units, %"),
    ):
        if any(getattr(depth, end) for depth in comparison.depths.values()):
            starts = _depth_curves(comparison, start, scale).items()
            figures[name] = _panel_figure(
                comparison,
                looks,
                curves=_depth_curves(comparison, end, scale),
                thin={activation: [_stack(found).mean(axis=0)] for activation, found in starts if found},
                thin_label="mean at the start of the run",
                x_label=x,
                y_label=y,
                log=name == "gradient-norm",
            )
    return figures


def _learning_figure(comparison: Comparison, looks: dict[str, Style], field: str, scale: float, title: str) -> Figure:
    def curves(status: str) -> _Curves:
        found: _Curves = {name: [] for name in comparison.activations}
        for run in comparison.results:
            if run.status == status and (curve := comparison.curves.get((run.activation, run.seed))):
                found[run.activation].append(scale * np.array([epoch.get(field) for epoch in curve], float))
        return found

    failed = any(run.status == FAILED for run in comparison.results)
    drawn = curves(FINISHED)
    figure = _panel_figure(
        comparison,
        looks,
        curves=drawn,
        thin=curves(FAILED),
        thin_label="failed run" * failed,
        x_label="epoch",
        y_label=title,
        log=field == "train_loss",
        ends=True,
    )
    stacks = [stack for found in drawn.values() if (stack := _stack(found)).size]
    if field == "train_loss" or not stacks:
        return figure
    # The frame ends at what a third of the training reaches, so that the first epochs do not flatten the rest.
    late = [stack[:, stack.shape[1] // 3 :] for stack in stacks]
    low, high = min(stack.min() for stack in late), max(stack.max() for stack in late)
    if np.isfinite([low, high]).all():
        higher = scale > 1
        pad = 0.05 * (high - low) + (0.1 if higher else 0.001)
        figure.axes[0].set_ylim(bottom=low - pad) if higher else figure.axes[0].set_ylim(top=high + pad)
    return figure


def _depth_curves(comparison: Comparison, field: str, scale: float) -> _Curves:
    found: _Curves = {name: [] for name in comparison.activations}
    for (name, _), depth in sorted(comparison.depths.items()):
        if getattr(depth, field):
            found.setdefault(name, []).append(scale * np.array(getattr(depth, field)))
    return found


def _panel_figure(
    comparison: Comparison,
    looks: dict[str, Style],
    *,
    curves: _Curves,
    thin: _Curves,
    thin_label: str,
    x_label: str,
    y_label: str,
    log: bool,
    ends: bool = False,
) -> Figure:
    """Draw in a panel for each activation the mean and standard error of its curves, and thin lines beside them.

    Args:
        thin, thin_label: Further curves, and what they are; whether their `ends` are marked.
        log: Whether y is logarithmic if it spans a decade.
    """
    figure, panels = panel_grid(comparison.activations)
    baseline = _stack(curves[comparison.baseline])
    for axes, activation in zip(panels, comparison.activations, strict=True):
        color, stack = looks[activation].color, _stack(curves[activation])
        if stack.size:
            x = _positions(stack[0])
            middle = stack.mean(axis=0)
            error = stack.std(axis=0, ddof=min(len(stack) - 1, 1)) / np.sqrt(len(stack))  # 0 for one run.
            axes.fill_between(x, middle - error, middle + error, color=color, alpha=0.3, linewidth=0)
            axes.plot(x, middle, color=color, marker="o", markersize=2.5)
        else:
            axes.text(0.5, 0.5, "no finished run", transform=axes.transAxes, ha="center", color=GREY)
        if activation != comparison.baseline and baseline.size:
            axes.plot(_positions(baseline[0]), baseline.mean(axis=0), color=INK, linestyle=":", linewidth=1.2)
        for curve in thin.get(activation, ()):
            x = _positions(curve)
            axes.plot(x, curve, color=color, linewidth=0.8, linestyle="--")
            if ends:
                axes.plot(x[-1], curve[-1], "x", color=color)
    drawn = [curve for found in curves.values() for curve in found] if log else []
    values = np.concatenate([curve[curve > 0] for curve in drawn]) if drawn else np.array([])
    if values.size and values.max() > _DECADE * values.min():  # On less a logarithmic axis would have no tick.
        axes = panels[0]
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if values.max() < 1e3 * values.min() else LogLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    label_columns(panels, x_label)
    figure.supylabel(y_label + (" (log)" if panels[0].get_yscale() == "log" else ""), fontsize=9)
    handles = [
        sample("mean; band: standard error", marker="o", markersize=2.5),
        sample(f"mean of {comparison.baseline}", INK, linestyle=":", linewidth=1.2),
    ]
    if thin_label:
        handles.append(sample(thin_label, linestyle="--", linewidth=0.8, marker="x" if ends else ""))
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


def _stack(curves: list[Array]) -> Array:
    """Put curves into one array, (runs, points), up to the point that all of them reached."""
    shortest = min(map(len, curves), default=0)
    return np.array([curve[:shortest] for curve in curves])


def _positions(curve: Array) -> NDArray[np.int_]:
    return np.arange(1, len(curve) + 1)
