"""The plots of a comparison, drawn from what the store holds, and the picture of the family.

Curves over epochs and over depth have a panel for each activation, with the mean of its seeds and its standard error.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ...catalog import Activation, parse
from ...grammar import format_call
from ..recipes.pipeline import OwnRecipe
from ..statistics.analysis import Analysis, Arm, Interval
from ..statistics.metrics import ACCURACY, MEASURES, Metric
from ..store.comparison import FAILED, FINISHED, Comparison, write_atomically
from . import drawing

_REACH = 3.0  # Of the curves of an activation, to both sides of 0.
_STEP = 1e-4
_KINK = 0.01
_POINTS = 800  # An even number leaves 0, where many activations have a kink, off the grid.
_DECADE = 10.0
_COSTS = tuple(measure for measure in MEASURES if measure.name in ("step_time_ratio", "peak_memory"))

Array = NDArray[np.float64]
_Curves = dict[str, list[Array]]  # Activation -> a curve a run.


def comparison_figures(comparison: Comparison, analysis: Analysis) -> dict[str, Figure]:
    """Draw the plots of a comparison, which may be unfinished; one without anything to show is left out.

    Returns: Figures by file stem: the metric's name, `differences`, `slopes`, `pareto`, `n-ablation` and `eps-ablation`
        if the arms are one, learning curves, `gradient-norm` and `dead-share` by depth if they were recorded,
        `activations`.
    """
    looks, metric = drawing.styles(comparison.activations), analysis.metric
    figures: dict[str, Figure] = {}
    with drawing.look():
        if any(arm.finished for arm in analysis.arms):
            figures[metric.name] = _value_figure(analysis, looks)
        if any(difference.pairs for _, difference in analysis.compared):
            figures["differences"] = _difference_figure(analysis, looks)
        if any(difference.pairs > 1 for _, difference in analysis.compared):
            figures["slopes"] = _slope_figure(analysis, looks)
        costs = [cost for cost in _COSTS if sum(cost.name in arm.measures for arm in analysis.arms) > 1]
        if costs:
            figures["pareto"] = _pareto_figure(analysis, costs, looks)
        figures |= ablation_figures(comparison, analysis, looks)
        figures |= learning_figures(comparison, metric, looks)
        figures |= depth_figures(comparison, looks)
        known = [name for name in comparison.activations if drawing.find_known(name)]
        if known:
            figures["activations"] = _activation_figure(known, looks)
        for figure in figures.values():
            # Laid out once here, not again for each file it is written to.
            engine = figure.get_layout_engine()
            assert engine is not None
            engine.execute(figure)
            figure.set_layout_engine("none")
        return figures


def write_family_picture(path: Path) -> None:
    """Write the picture of the family: f, f' and f'' of GEM n=1..3, E-GEM and SE-GEM beside ReLU and GELU.

    E-GEM is drawn with eps=0.1, SE-GEM with eps=0.3 and leak=0.1, so that their shapes can be seen.

    Raises: SettingError: the file ends neither in .svg nor in .png; StoreError: it cannot be written.
    """
    names = ["relu", "gelu", "gem", "gem(n=2)", "gem(n=3)", "egem(eps=0.1)", "segem(eps=0.3, leak=0.1)"]
    colors = [drawing.GREY, drawing.RIVALS[0], "#8ec9f5", "#2f8fdb", "#1b4f9c", "#12a37a", "#6aa84f"]
    dashes = ["--", "-.", "-", "-", "-", "-", "-"]
    with drawing.look():
        figure = Figure(figsize=(10, 3.7), layout="constrained")
        panels = figure.subplots(1, 3)
        lines: list[Line2D] = []
        for name, color, dash in zip(names, colors, dashes, strict=True):
            curve = sample_shape(parse(name))
            drawn = [
                axes.plot(curve.x, values, color=color, linestyle=dash, linewidth=1.6)[0]
                for axes, values in zip(panels, (curve.value, curve.first, curve.second), strict=True)
            ]
            lines.append(drawn[0])
        for axes, title, limits in zip(
            panels, ("f", "f'", "f''"), ((-0.5, 2.5), (-0.25, 2.25), (-2.5, 6)), strict=True
        ):
            axes.set(title=title, xlabel="x", xlim=(-2, 2.5), ylim=limits)
        figure.legend(lines, names, loc="outside lower center", ncols=4)
        write_atomically(path, drawing.render(figure, path.suffix.removeprefix(".")))


def _value_figure(analysis: Analysis, looks: dict[str, drawing.Style]) -> Figure:
    metric = analysis.metric
    drawn = [arm for arm in analysis.arms if arm.mean is not None]
    figure, axes = drawing.row_figure([arm.activation for arm in drawn])
    for row, arm in enumerate(drawn):
        values = list(analysis.values[arm.activation].values())
        _draw_row(axes, row, values, metric, looks[arm.activation], arm.interval)
    _legend(figure, "mean of the finished runs", "95 % Student t interval of the mean")
    axes.set_xlabel(metric.heading)
    return figure


def _paired(analysis: Analysis, arm: str) -> list[tuple[float, float]]:
    """Return the values of baseline and arm, seed by seed, over the seeds that both have."""
    base, values = analysis.values[analysis.baseline], analysis.values[arm]
    return [(base[seed], values[seed]) for seed in values if seed in base]


def _difference_figure(analysis: Analysis, looks: dict[str, drawing.Style]) -> Figure:
    metric = analysis.metric
    drawn = [(arm, difference) for arm, difference in analysis.compared if difference.pairs]
    figure, axes = drawing.row_figure([arm.activation for arm, _ in drawn])
    margin = metric.scale * analysis.criterion.margin
    if margin:
        axes.axvspan(-margin, margin, color=drawing.GREY, alpha=0.12, linewidth=0)
    for row, (arm, difference) in enumerate(drawn):
        pairs = [value - base for base, value in _paired(analysis, arm.activation)]
        _draw_row(axes, row, pairs, metric, looks[arm.activation], difference.interval)
    axes.axvline(0, color=drawing.INK, linewidth=1)
    _legend(figure, "mean difference", f"{analysis.interval_name}, all arms together")
    unit = "percentage points" if metric.difference_unit == "points" else metric.heading
    grey = "; grey: margin of equivalence" if margin else ""
    axes.set_xlabel(f"difference to {analysis.baseline}, {unit}\n{metric.direction} is better{grey}")
    return figure


def _slope_figure(analysis: Analysis, looks: dict[str, drawing.Style]) -> Figure:
    """Draw a line a seed from the baseline's value to the arm's, a panel for each arm."""
    drawn = [arm for arm, difference in analysis.compared if difference.pairs > 1]
    figure, panels = drawing.panel_grid([arm.activation for arm in drawn])
    scale = analysis.metric.scale
    for axes, arm in zip(panels, drawn, strict=True):
        for pair in _paired(analysis, arm.activation):
            gains = analysis.metric.sign * (pair[1] - pair[0]) >= 0
            color = looks[arm.activation].color if gains else drawing.GREY
            line = "-" if gains else "--"
            axes.plot([0, 1], [scale * value for value in pair], line, color=color, marker="o", markersize=3)
        axes.set_xticks([0, 1], [analysis.baseline, "arm"])
        axes.set_xlim(-0.2, 1.2)
        axes.tick_params(labelbottom=True)
    figure.supylabel(analysis.metric.heading, fontsize=9)
    handles = [
        drawing.sample("seed at which the arm is not worse", marker="o", markersize=3),
        drawing.sample("seed at which it is worse", linestyle="--", marker="o", markersize=3),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


def _pareto_figure(analysis: Analysis, costs: Sequence[Metric], looks: dict[str, drawing.Style]) -> Figure:
    """Draw the mean of the metric against what it costs; arms that no other beats in both are ringed."""
    metric = analysis.metric
    figure = Figure(figsize=(drawing.WIDTH, 3.2), layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, costs, strict=True):
        points = {
            arm.activation: (cost.scale * arm.measures[cost.name].mean, metric.scale * arm.mean)
            for arm in analysis.arms
            if arm.mean is not None and cost.name in arm.measures
        }
        for name, (x, y) in points.items():
            best = not any(
                other_x <= x and metric.sign * (other_y - y) >= 0 and (other_x, other_y) != (x, y)
                for other_x, other_y in points.values()
            )
            edge = drawing.INK if best else "none"
            axes.plot(x, y, looks[name].marker, color=looks[name].color, markersize=7, markeredgecolor=edge)
            if best:
                axes.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7)
        axes.set_xlabel(cost.heading)
        axes.margins(x=0.2, y=0.12)
    panels[0].set_ylabel(f"{metric.heading} ({metric.direction} is better)")
    return figure


def _draw_row(
    axes: Axes, row: int, values: Sequence[float], metric: Metric, look: drawing.Style, interval: Interval | None
) -> None:
    points = metric.scale * np.asarray(values)
    if interval is not None:
        # Over two seeds Student's interval is 25 standard errors wide: it may leave the frame, not set it.
        line = Line2D([metric.scale * end for end in interval], [row, row], color=look.color, linewidth=1.4)
        axes.add_line(line) if len(points) > 2 else axes.add_artist(line)
    offsets = np.linspace(0.14, 0.26, len(points)) if len(points) > 1 else [0.2]
    style = {"color": look.color, "markersize": 4, "alpha": 0.8, "markeredgewidth": 0}
    axes.plot(points, row + np.asarray(offsets), look.marker, **style)
    axes.plot(points.mean(), row, "|", color=look.color, markersize=13, markeredgewidth=2.2)
    axes.autoscale_view(scaley=False)


def _legend(figure: Figure, mean: str, interval: str) -> None:
    handles = [
        drawing.sample("one seed", linestyle="", marker="o", markersize=4),
        drawing.sample(mean, linestyle="", marker="|", markersize=11, markeredgewidth=2.2),
        drawing.sample(interval, linewidth=1.4),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


def _activation_figure(activations: Sequence[str], looks: dict[str, drawing.Style]) -> Figure:
    figure, panels = drawing.panel_grid(activations)
    relu = sample_shape(parse("relu"))
    for axes, activation in zip(panels, activations, strict=True):
        curve = sample_shape(parse(activation))
        axes.plot(relu.x, relu.value, color=drawing.GREY, linewidth=0.8)
        axes.plot(curve.x, curve.value, color=looks[activation].color, linewidth=1.8)
        axes.plot(curve.x, curve.first, color=looks[activation].color, linewidth=1.2, linestyle="--")
    panels[0].set(xlim=(-_REACH, _REACH), ylim=(-0.6, 2.4))
    drawing.label_columns(panels, "x")
    handles = [
        drawing.sample("f", drawing.INK, linewidth=1.8),
        drawing.sample("f'", drawing.INK, linestyle="--", linewidth=1.2),
        drawing.sample("ReLU", linewidth=0.8),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


class Shape(NamedTuple):
    """An activation on a grid: x, f(x), f'(x), f''(x), each of shape (points,), float64."""

    x: Array
    value: Array
    first: Array
    second: Array


def sample_shape(activation: Activation) -> Shape:
    """Sample an activation and its first two derivatives on [-3, 3], densely around 0, where small eps bend.

    Members of the family have their closed forms. All others have central differences of the float64 reference with
    the step 1e-4: f' is within 1e-8 and f'' within 1e-6 of the analytic derivative where f is smooth. At a kink or a
    jump, where f' changes by more than 0.01 within the step, both are NaN, so that no line is drawn.

    Example:
        >>> shape = sample_shape(parse("gelu"))
        >>> print(shape.x.shape, f"{shape.first.max():.4f}")
        (800,) 1.1289
    """
    x = _REACH * np.linspace(-1, 1, _POINTS) ** 3
    spec = activation.spec
    if spec is not None:
        return Shape(x, spec(x), spec.derivative(x), spec.second_derivative(x))
    below, value, above = activation(x - _STEP), activation(x), activation(x + _STEP)
    first, second = (above - below) / (2 * _STEP), (above - 2 * value + below) / _STEP**2
    kink = np.abs(second) * _STEP > _KINK
    return Shape(x, value, np.where(kink, np.nan, first), np.where(kink, np.nan, second))


PARAMETERS = ("n", "eps")
FEWEST = 3
"""Values of a parameter that make a curve."""
_DASHES = ("-", "--", "-.", ":")
_REFERENCES = ("relu", "leaky_relu", "gelu")


def find_ablations(activations: Sequence[str], parameter: str) -> dict[str, dict[float, str]]:
    """Find the arms that differ in one parameter of the family alone, "n" or "eps"; GEM is E-GEM with eps = 1.

    Returns: What the arms have in common -> value -> activation, in order of the values; at least three values each.
    Example:
        >>> find_ablations(["gem", "gem(n=2)", "gem(n=3)", "relu"], "n")
        {'gem': {1: 'gem', 2: 'gem(n=2)', 3: 'gem(n=3)'}}
        >>> find_ablations(["gem", "egem(eps=0.1)", "egem(eps=10)"], "eps")
        {'egem': {0.1: 'egem(eps=0.1)', 1.0: 'gem', 10: 'egem(eps=10)'}}
    """
    groups: dict[str, dict[float, str]] = {}
    for activation in activations:
        found = drawing.find_known(activation)
        if found and found.entry.group == "family":
            wide = found.name == "gem" and parameter == "eps"
            name, parameters = ("egem", {"eps": 1.0}) if wide else (found.name, found.parameters)
            defaults = found.entry.defaults
            others = {key: value for key, value in found.arguments if key != parameter and value != defaults[key]}
            if parameter in parameters:
                groups.setdefault(format_call(name, others), {})[parameters[parameter]] = activation
    return {name: dict(sorted(group.items())) for name, group in groups.items() if len(group) >= FEWEST}


def ablation_figures(comparison: Comparison, analysis: Analysis, looks: dict[str, drawing.Style]) -> dict[str, Figure]:
    """Draw `n-ablation` and `eps-ablation` if the arms are one and have a finished run."""
    arms = {arm.activation: arm for arm in analysis.arms if arm.mean is not None}
    figures: dict[str, Figure] = {}
    for parameter in PARAMETERS:
        groups = {
            name: {value: activation for value, activation in group.items() if activation in arms}
            for name, group in find_ablations(comparison.activations, parameter).items()
        }
        groups = {name: group for name, group in groups.items() if group}
        if groups:
            figures[f"{parameter}-ablation"] = _figure(analysis, looks, parameter, groups, arms)
    return figures


def _figure(
    analysis: Analysis,
    looks: dict[str, drawing.Style],
    parameter: str,
    groups: dict[str, dict[float, str]],
    arms: dict[str, Arm],
) -> Figure:
    metric = analysis.metric
    figure = Figure(figsize=(drawing.WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, group in groups.items():
        color, marker = looks[next(iter(group.values()))]
        drawn = [arms[activation] for activation in group.values()]
        means = [metric.scale * (arm.mean or 0.0) for arm in drawn]
        ends = [arm.interval or (0.0, 0.0) for arm in drawn]  # One run gives no interval.
        errors = [metric.scale * (high - low) / 2 for low, high in ends]
        axes.errorbar(
            list(group), means, errors, color=color, marker=marker, markersize=5, capsize=0, linewidth=1.6, label=name
        )
        for value, activation in group.items():
            seeds = list(analysis.values[activation].values())
            axes.plot([value] * len(seeds), metric.scale * np.array(seeds), "_", color=color, markersize=9)
    curved = {activation for group in groups.values() for activation in group.values()}
    references = dict.fromkeys([analysis.baseline, *_REFERENCES])
    straight = [arms[name] for name in references if name in arms and name not in curved]
    for arm, dash in zip(straight, _DASHES[1:], strict=False):
        level, color = metric.scale * (arm.mean or 0.0), drawing.INK if dash == _DASHES[1] else drawing.GREY
        axes.axhline(level, color=color, linestyle=dash, linewidth=1.2, label=arm.activation)
    if parameter == "eps":
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(parameter)
    axes.set_ylabel(f"{metric.heading} ({metric.direction} is better)")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def learning_figures(comparison: Comparison, metric: Metric, looks: dict[str, drawing.Style]) -> dict[str, Figure]:
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


def depth_figures(comparison: Comparison, looks: dict[str, drawing.Style]) -> dict[str, Figure]:
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


def _learning_figure(
    comparison: Comparison, looks: dict[str, drawing.Style], field: str, scale: float, title: str
) -> Figure:
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
    looks: dict[str, drawing.Style],
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
    figure, panels = drawing.panel_grid(comparison.activations)
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
            axes.text(0.5, 0.5, "no finished run", transform=axes.transAxes, ha="center", color=drawing.GREY)
        if activation != comparison.baseline and baseline.size:
            axes.plot(_positions(baseline[0]), baseline.mean(axis=0), color=drawing.INK, linestyle=":", linewidth=1.2)
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
    drawing.label_columns(panels, x_label)
    figure.supylabel(y_label + (" (log)" if panels[0].get_yscale() == "log" else ""), fontsize=9)
    handles = [
        drawing.sample("mean; band: standard error", marker="o", markersize=2.5),
        drawing.sample(f"mean of {comparison.baseline}", drawing.INK, linestyle=":", linewidth=1.2),
    ]
    if thin_label:
        handles.append(drawing.sample(thin_label, linestyle="--", linewidth=0.8, marker="x" if ends else ""))
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


def _stack(curves: list[Array]) -> Array:
    """Put curves into one array, (runs, points), up to the point that all of them reached."""
    shortest = min(map(len, curves), default=0)
    return np.array([curve[:shortest] for curve in curves])


def _positions(curve: Array) -> NDArray[np.int_]:
    return np.arange(1, len(curve) + 1)
