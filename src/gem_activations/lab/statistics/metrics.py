"""What a comparison compares, which direction is better, how it is written, and what else is recorded of a run.

A recipe names its metric. Values are kept as they are stored
(accuracies are fractions); texts and plots show them scaled.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ...errors import SettingError
from ..recipes.pipeline import OwnRecipe, Pipeline, StoredRecipe


@dataclass(frozen=True)
class Metric:
    """A figure of a run: one by which arms are compared, or a further one, on which no verdict stands.

    Attributes:
        name, title: Name that a recipe gives, and in tables of files; and what it is, in words.
        field: Name of the figure in `RunResult.figures`.
        direction: "higher" or "lower", whichever is better.
        margin: Default margin of equivalence, in stored units: differences below it are taken as too small to matter.
        scale: Factor from stored to shown values.
        unit, difference_unit: Units of shown values and of their differences; "" for none.
        decimals: Of shown values and differences.
        exponential: Whether the metric is exp(field).
    """

    name: str
    title: str
    field: str
    direction: str = "lower"
    margin: float = 0.0
    scale: float = 1.0
    unit: str = ""
    difference_unit: str = ""
    decimals: int = 3
    exponential: bool = False

    @property
    def sign(self) -> int:
        """1 if higher is better, -1 if lower is: a difference times it is an improvement."""
        return 1 if self.direction == "higher" else -1

    @property
    def heading(self) -> str:
        """Title and unit, as over a column or beside an axis."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def of(self, figures: Mapping[str, float | None]) -> float | None:
        """Return the value that a run's figures give; None if they give none, or one that is not finite."""
        value = figures.get(self.field)
        if value is None:
            return None
        figure = math.exp(min(value, 700.0)) if self.exponential else float(value)
        return figure if math.isfinite(figure) else None


ACCURACY = Metric("accuracy", "test accuracy", "test_accuracy", "higher", 0.005, 100.0, "%", "points", 2)
LOSS = Metric("loss", "test loss", "test_loss", "lower", 0.01, 1.0, "nats", "nats", 3)
PERPLEXITY = Metric("perplexity", "test perplexity", "test_loss", "lower", 0.5, decimals=2, exponential=True)
_CLASSES = {"digits": 10, "mnist": 10, "fashion-mnist": 10, "cifar10": 10, "cifar100": 100, "stl10": 10}
_HIGHER = ("acc", "f1", "auc", "bleu", "score", "iou", "recall", "precision", "r2", "psnr")
_LOWER = ("loss", "perplexity", "ppl", "error", "nll", "mse", "mae", "rmse", "fid", "wer", "brier")
METRICS = {metric.name: metric for metric in (ACCURACY, LOSS, PERPLEXITY)}


class Criterion(NamedTuple):
    """What arms are compared by.

    Attributes:
        metric: The metric.
        margin: Margin of equivalence in the metric's stored unit; 0 if nothing is to be called equivalent.
        chance: Value of the metric by guessing, in the stored unit; None if it is not known.
    """

    metric: Metric
    margin: float
    chance: float | None = None

    def at_chance(self, value: float) -> bool:
        """Return whether a run is no better than guessing: within a tenth of the level of chance, or worse.

        Example:
            >>> Criterion(ACCURACY, 0.005, 0.1).at_chance(0.105), Criterion(ACCURACY, 0.005, 0.1).at_chance(0.5)
            (True, False)
        """
        if self.chance is None:
            return False
        return self.metric.sign * (value - self.chance) <= 0.1 * abs(self.chance) * (self.metric.sign > 0)


MEASURES = (
    ACCURACY,
    replace(LOSS, title="test loss (NLL)"),
    PERPLEXITY,
    Metric("calibration_error", "calibration error", "calibration_error", scale=100.0, unit="%", decimals=2),
    Metric("brier", "Brier score", "brier"),
    Metric("dead_share", "dead units", "dead_share", scale=100.0, unit="%", decimals=2),
    Metric("rho", "largest a / sigma at the start", "rho", decimals=2),
    Metric("chi", "chi over the depth at the start", "chi", decimals=2),
    Metric("scale_change", "change of a learnt scale", "scale_change", scale=100.0, unit="%", decimals=1),
    Metric("step_seconds", "step", "step_seconds", scale=1e3, unit="ms", decimals=2),
    Metric("step_time_ratio", "step time / ReLU", "step_time_ratio", decimals=2),
    Metric("peak_memory", "peak memory", "peak_memory", scale=2.0**-20, unit="MiB", decimals=0),
)


def measures_beside(metric: Metric) -> tuple[Metric, ...]:
    """Return the further figures of a comparison by a metric: the metric itself is none, and perplexity is of text."""
    unwanted = {metric.name, *(() if metric is LOSS else ("perplexity",))}
    return tuple(measure for measure in MEASURES if measure.name not in unwanted)


def criterion_of(recipe: StoredRecipe, values: Sequence[float] = ()) -> Criterion:
    """Return the metric and the margin that a stored recipe names.

    What was measured sets the decimals of a metric that is not one of the lab's.

    Example:
        >>> from gem_activations.lab.recipes.registry import make_recipe
        >>> criterion_of(make_recipe("bert-small"))[1:]
        (0.01, None)
    """
    if isinstance(recipe, OwnRecipe):
        named = recipe.metric, recipe.better, recipe.margin or 0.0, recipe.unit or None
        return own_criterion(*named, recipe.chance, values)
    assert isinstance(recipe, Pipeline)
    metric, classes = METRICS[recipe.metric], _CLASSES.get(recipe.data)
    margin = metric.margin if recipe.margin is None else recipe.margin
    levels = {} if classes is None else {"accuracy": 1 / classes, "loss": math.log(classes)}
    return Criterion(metric, margin, levels.get(metric.name))


def own_criterion(
    name: str,
    better: str | None,
    margin: float = 0.0,
    unit: str | None = None,
    chance: float | None = None,
    values: Sequence[float] = (),
) -> Criterion:
    """Make the criterion of a metric that is not one of the lab's, from its name and what a user says of it.

    Args:
        name: Its name; an accuracy without a unit is a fraction, and is shown in percent.
        better: "higher" or "lower"; None if the name says so, as loss does.
        values: What was measured, which sets the decimals.
    Raises: SettingError: it is not clear which is better, or an accuracy is above 1.
    Example:
        >>> own_criterion("validation_loss", None).metric.direction
        'lower'
    """
    low = name.lower()
    if better is None:
        better = "higher" if any(word in low for word in _HIGHER) else None
        better = "lower" if any(word in low for word in _LOWER) else better
    if better not in ("higher", "lower"):
        asked = "say better='higher' or 'lower' (--better)"
        raise SettingError(f"better={better!r}: {asked}" if better else f"{name} does not say which is better: {asked}")
    high, width = max(values, default=0.0), max(values, default=0.0) - min(values, default=0.0)
    decimals = 4 if width <= 0 else min(max(2 - math.floor(math.log10(width)), 0), 8)
    shown = 1.0, unit or "", "points" if unit == "%" else unit or "", decimals
    if "acc" in low and unit is None:
        if high > 1:
            raise SettingError(f"{name} is {high:g}, which is no fraction; say unit='%' (--unit %) if it is percent")
        shown = 100.0, "%", "points", 2
    return Criterion(Metric(name, name, name, better, margin, *shown), margin, chance)
