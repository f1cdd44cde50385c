"""What the statistics say, as text: the cells of the tables and the sentences of the verdicts.

Accuracies are written in percent and their differences in percentage points, losses in nats. The words follow
`Difference.verdict`: nothing is said to differ, or to be equal, beyond it.
"""

from typing import TYPE_CHECKING

from ..recipes.pipeline import OwnRecipe, Pipeline, StoredRecipe
from .contrasts import ALPHA
from .metrics import Metric
from .verdicts import Verdict

if TYPE_CHECKING:
    from ..store.comparison import Comparison
    from .analysis import Analysis, Arm, Difference, Interval

NOTHING = "-"
SHORT = {
    Verdict.BETTER: "better",
    Verdict.WORSE: "worse",
    Verdict.EQUIVALENT: "equiv.",
    Verdict.UNDECIDED: "open",
    Verdict.UNSTABLE: "fails",
}
"""Verdicts as the narrow table of the terminal writes them."""
_MOST_SEEDS = 8  # Seeds of failed runs are named up to so many.


def mean_text(mean: float | None, sd: float | None, metric: Metric) -> str:
    """Write a mean and a standard deviation: `97.22 ± 0.31`, in the metric's unit."""
    if mean is None:
        return NOTHING
    deviation = "" if sd is None else f" ± {metric.scale * sd:.{metric.decimals}f}"
    return f"{metric.scale * mean:.{metric.decimals}f}{deviation}"


def value_text(arm: "Arm", metric: Metric) -> str:
    """Write mean, standard deviation and number of the finished runs: `97.22 ± 0.31 (3)`, in the metric's unit."""
    return mean_text(arm.mean, arm.sd, metric) + f" ({arm.finished})" * (arm.mean is not None)


def difference_text(difference: "Difference | None") -> str:
    """Write the mean difference and its interval: `+0.42 [+0.10, +0.71]`."""
    if difference is None or difference.mean is None:
        return NOTHING
    metric = difference.criterion.metric
    return f"{signed(difference.mean, metric)} {interval_text(difference.interval, metric) or '[no interval]'}"


def interval_text(interval: "Interval | None", metric: Metric) -> str:
    """Write an interval of differences: `[+0.10, +0.71]`; nothing if there is none."""
    return "" if interval is None else f"[{signed(interval.low, metric)}, {signed(interval.high, metric)}]"


def signed(difference: float, metric: Metric) -> str:
    """Write a difference with its sign in the metric's unit, never rounding one to 0.

    Example:
        >>> from gem_activations.lab.statistics.metrics import ACCURACY, LOSS
        >>> signed(0.0042, ACCURACY), signed(-0.00001, ACCURACY), signed(0.0, ACCURACY), signed(-0.0163, LOSS)
        ('+0.42', '-0.001', '0.00', '-0.016')
    """
    value = metric.scale * difference
    if abs(value) < 1e-9:
        return f"{0:.{metric.decimals}f}"
    return f"{value:+.{metric.decimals}f}" if abs(value) >= 0.5 * 10**-metric.decimals else f"{value:+.1g}"


def amount(difference: float, metric: Metric) -> str:
    """Write the size of a difference with its unit: `0.42 points`."""
    return f"{signed(abs(difference), metric).removeprefix('+')} {metric.difference_unit}".rstrip()


def chance_text(difference: "Difference") -> str:
    """Write the probability of being better and its interval: `0.71 [0.45, 0.88]`."""
    if difference.probability_better is None or difference.probability_interval is None:
        return NOTHING
    low, high = difference.probability_interval
    return f"{difference.probability_better:.2f} [{low:.2f}, {high:.2f}]"


def p_text(value: float | None) -> str:
    """Write a p-value with two significant digits: `0.013`, or `< 0.0001`."""
    if value is None:
        return NOTHING
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def verdict_text(arm: "Arm") -> str:
    """Write the verdict: `shown better`, or `unstable: 25 of 30 failed`."""
    if arm.difference is None:
        return NOTHING
    verdict = arm.difference.verdict
    return f"{verdict}: {arm.failed} of {arm.planned} failed" if verdict is Verdict.UNSTABLE else str(verdict)


def headline(analysis: "Analysis") -> str:
    """Say in a sentence or two which arms differ from the baseline, are equivalent to it, or fail."""
    compared, baseline, metric = analysis.compared, analysis.baseline, analysis.metric
    if not compared:
        return f"Only {baseline} was trained: there is nothing to compare it with."
    groups: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
    for arm, difference in compared:
        size = f"{arm.failed} of {arm.planned} failed"
        if difference.verdict is not Verdict.UNSTABLE:
            size = signed(difference.mean or 0.0, metric)
        groups[difference.verdict].append(f"{arm.activation} ({size})")
    unit = f", in {metric.difference_unit} of {metric.title}" if metric.difference_unit else f", in {metric.title}"
    parts = [
        f"Shown {word} than {baseline}{unit}: {', '.join(groups[verdict])}."
        for verdict, word in ((Verdict.BETTER, "better"), (Verdict.WORSE, "worse"))
        if groups[verdict]
    ] or [f"No activation is shown to differ from {baseline}."]
    failing = next(arm for arm in analysis.arms if arm.difference is None)
    if failing.failed:
        parts.append(f"Of the baseline's own runs {failing.failed} of {failing.planned} failed.")
    if groups[Verdict.EQUIVALENT]:
        names = ", ".join(groups[Verdict.EQUIVALENT])
        parts.append(f"Equivalent to it within {amount(analysis.criterion.margin, metric)}: {names}.")
    if groups[Verdict.UNSTABLE]:
        parts.append(f"Unstable: {', '.join(groups[Verdict.UNSTABLE])}.")
    if groups[Verdict.UNDECIDED] and len(groups[Verdict.UNDECIDED]) < len(compared):
        parts.append(f"Not decided: {', '.join(groups[Verdict.UNDECIDED])}.")
    return " ".join(parts)


def analysis_sentences(analysis: "Analysis") -> list[str]:
    """Say what is shown: the headline, one line an arm, then what limits the whole.

    Returns: Plain text, to be escaped by whoever shows it.
    """
    compared = analysis.compared
    lines = [headline(analysis)]
    lines += [f"{arm.activation}: {_arm_line(arm, difference)}" for arm, difference in compared]
    lines += failure_lines(analysis)
    guessing = [f"{arm.activation} ({arm.at_chance} of {arm.finished})" for arm in analysis.arms if arm.at_chance]
    if guessing:
        lines.append(f"Runs no better than chance: {', '.join(guessing)}.")
    apart = [arm.activation for arm, difference in compared if difference.error is not None and not difference.pooled]
    if apart and len(compared) > 1:
        named = "every arm" if len(apart) == len(compared) else ", ".join(apart)
        lines.append(f"Spread of its own, and tested with it: {named}.")
    reach = {
        amount(difference.smallest_shown, analysis.metric): arm.activation
        for arm, difference in compared
        if difference.smallest_shown is not None and difference.verdict is Verdict.UNDECIDED
    }
    if reach:
        each = [size if len(reach) == 1 else f"{size} ({name})" for size, name in reach.items()]
        lines.append(f"Smallest difference that these seeds show at 80 % power: {', '.join(each)}.")
    if len(compared) > 1 and all(difference.level == ALPHA for _, difference in compared):
        lines.append(
            f"Verdicts and 95 % intervals hold for the {len(compared)} arms together: of comparisons without any "
            "difference, about 5 % show one."
        )
    return lines


def failure_lines(analysis: "Analysis") -> list[str]:
    """Name the failed runs, grouped by arm and reason, and those without a result."""
    lines: list[str] = []
    for arm in analysis.arms:
        for reason, seeds in analysis.failures.get(arm.activation, {}).items():
            named = ", ".join(map(str, seeds[:_MOST_SEEDS])) + ", ..." * (len(seeds) > _MOST_SEEDS)
            lines.append(f"{arm.activation}, seed{'s' if len(seeds) > 1 else ''} {named}: failed, {reason}")
        if arm.infrastructure:
            lines.append(
                f"{arm.activation}: {_plural(arm.infrastructure, 'run')} left out; the same command tries them again."
            )
        if arm.missing:
            lines.append(f"{arm.activation}: {_plural(arm.missing, 'run')} without a result yet.")
    return lines


def control_sentences(recipe: StoredRecipe) -> list[str]:
    """Say what the verdicts are about, and what sets a stored recipe apart: inputs, initial weights, learning rates.

    Example:
        >>> from gem_activations.lab.recipes.registry import make_recipe
        >>> control_sentences(make_recipe("digits"))[0]
        'The unit is this split, this test set and one learning rate for all arms, 0.005.'
    """
    if isinstance(recipe, OwnRecipe):
        table = recipe.options is None
        what = "what the seeds of the table vary" if table else "this training function with its options"
        return [f"The unit is {what}: of other splits, test sets or learning rates the verdicts say nothing."]
    assert isinstance(recipe, Pipeline)
    split = "a split drawn anew for each seed" if recipe.resplit else "this split, this test set"
    sentences: list[str] = []
    if recipe.input_scale != 1:
        sentences.append(f"Pixels are multiplied by {recipe.input_scale:g} after their standardisation.")
    if recipe.initialisation == "gain":
        sentences.append("Initial weights that read an activation's output are scaled by its gain over ReLU's.")
    if recipe.rates:
        rates = ", ".join(f"{name} {rate:g}" for name, rate in recipe.rates.items())
        sentences.append(f"Learning rates, tuned on the validation split: {rates}.")
        return [f"The unit is {split} and a learning rate tuned for each arm.", *sentences]
    return [
        f"The unit is {split} and one learning rate for all arms, {recipe.training.learning_rate:g}.",
        f"Another rate may suit another arm: `gem-act tune {recipe.name}` searches one for each, then --rates.",
        *sentences,
    ]


def scale_sentences(comparison: "Comparison") -> list[str]:
    """Warn of activations whose scale was above the deviation of their pre-activations before the first step."""
    sentences: list[str] = []
    for activation in comparison.activations:
        found = [
            rho
            for run in comparison.results
            if run.activation == activation and (rho := run.figures.get("rho")) is not None
        ]
        high = [rho for rho in found if rho > 1.001]  # Not 1 sigma, rounded.
        if high:
            sentences.append(
                f"{activation}: at the start its scale a was up to {max(high):.2g} times the deviation of its "
                f"pre-activations, in {len(high)} of {_plural(len(found), 'run')}: its gate was mostly closed, "
                "a hint to compare it with egem(a=0.1sigma), which is calibrated."
            )
    return sentences


def looking_sentences(comparison: "Comparison", baseline: str) -> list[str]:
    """Say when the results were looked at while seeds were added, and which seeds were added without a schedule."""
    sentences = [
        f"Seeds were added when {_plural(count, 'seed')} had results, without a schedule of looks: if because the "
        "verdict was open, false verdicts are more frequent than 5 %."
        for count in comparison.extended
    ]
    if comparison.max_seeds is None:
        return sentences
    for look in comparison.looks:
        found = [f"{arm} {look.verdicts[arm]}" for arm in look.left] or ["nothing decided"]
        sentences.append(f"Look at {_plural(look.seeds, 'seed')}, at a level of {look.level:.2%}: {', '.join(found)}.")
    sentences.append(
        f"Looks by a schedule, up to {comparison.max_seeds} seeds: false verdicts of all of them together are below "
        "5 %; each arm has the figures of the look that decided it, and that look's wider intervals."
        if baseline == comparison.baseline
        else f"Seeds were added until {comparison.baseline} beside each arm was decided: beside {baseline} false "
        "verdicts may be more frequent than 5 %."
    )
    return sentences


def _arm_line(arm: "Arm", difference: "Difference") -> str:
    metric, verdict = difference.criterion.metric, difference.verdict
    words = verdict_text(arm)
    if verdict is Verdict.EQUIVALENT:
        words = f"equivalent within {amount(difference.criterion.margin, metric)}"
    if difference.mean is None:
        return f"{words}; no seed has a finished run of both."
    size = f"{signed(difference.mean, metric)} {metric.difference_unit}".rstrip()
    interval = interval_text(difference.interval, metric)
    words += f": {size}{' ' * bool(interval)}{interval} over {_plural(difference.pairs, 'seed')}"
    if difference.shown and difference.within_margin:
        words += f", within the margin of {amount(difference.criterion.margin, metric)} all the same"
    if verdict is Verdict.UNDECIDED:
        words += _why_undecided(arm, difference)
    elif arm.collapsed:
        words += f"; {arm.collapsed} of {arm.planned} runs collapsed"
    if arm.failed and verdict is not Verdict.UNSTABLE:
        words += f"; {arm.failed} of {arm.planned} failed"
    return f"{words}."


def _why_undecided(arm: "Arm", difference: "Difference") -> str:
    chance = difference.probability_better
    if difference.cautious and chance is not None and difference.mean_shown != difference.ranks_shown:
        usual = f"usually {'better' if chance > 0.5 else 'worse'} (P = {chance:.2f})" if chance != 0.5 else "no better"
        fallen = f"{arm.collapsed} of {arm.planned} runs collapsed, " if arm.collapsed else ""
        return f"; {usual}, {fallen}the {'ranks' if difference.mean_shown else 'means'} do not differ"
    if difference.pairs == 1:
        return "; one seed gives no interval"
    if difference.error is None:
        return "; equal differences say nothing about their spread"
    return ""


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' if count != 1 else ''}"
