"""Curves over a parameter of the family: the metric against n, or against eps, if the arms are such an ablation."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...grammar import format_call
from ..statistics.analysis import Analysis, Arm
from ..store.records import Comparison
from .drawing import GREY, INK, WIDTH, Style, find_known

PARAMETERS = ("n", "eps")
FEWEST = 3
"""Values of a parameter that make a curve."""
_DASHES = ("-", "--", "-.", ":")
_REFERENCES = ("relu", "leaky_relu", "gelu")


def find_ablations(activations: Sequence[str], parameter: str) -> dict[str, dict[float, str]]:
    """Find the arms that differ in one parameter alone.

    Args:
        activations: Canonical strings.
        parameter: "n" or "eps".
    Returns: What the arms have in common -> value -> activation, in order of the values; at least three values each.
    Example:
        >>> find_ablations(["gem", "gem(n=2)", "gem(n=3)", "relu"], "n")
        {'gem': {1: 'gem', 2: 'gem(n=2)', 3: 'gem(n=3)'}}
    """
    groups: dict[str, dict[float, str]] = {}
    for activation in activations:
        found = find_known(activation)
        if found and found.entry.group == "family" and parameter in found.parameters:
            defaults = found.entry.defaults
            others = {key: value for key, value in found.arguments if key != parameter and value != defaults[key]}
            groups.setdefault(format_call(found.name, others), {})[found.parameters[parameter]] = activation
    return {name: dict(sorted(group.items())) for name, group in groups.items() if len(group) >= FEWEST}


def ablation_figures(comparison: Comparison, analysis: Analysis, looks: dict[str, Style]) -> dict[str, Figure]:
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
    looks: dict[str, Style],
    parameter: str,
    groups: dict[str, dict[float, str]],
    arms: dict[str, Arm],
) -> Figure:
    metric = analysis.metric
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
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
        level, color = metric.scale * (arm.mean or 0.0), INK if dash == _DASHES[1] else GREY
        axes.axhline(level, color=color, linestyle=dash, linewidth=1.2, label=arm.activation)
    if parameter == "eps":
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(parameter)
    axes.set_ylabel(f"{metric.heading} ({metric.direction} is better)")
    figure.legend(loc="outside upper left", ncols=3)
    return figure
