"""What the statistics say, as text: the cells of the tables and the sentences of the verdicts.

Accuracies are written in percent and their differences in percentage points, losses in nats. The words follow
`PairedDifference.verdict`: nothing is said to differ, or to be equal, beyond it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .inference import Interval
from .metrics import Measure, Metric
from .paired import PairedDifference, Verdict
from .power import SEEDS_CAP
from .summary import ArmSummary, Spread, Summary

NOTHING = "-"
SHORT = {Verdict.BETTER: "better", Verdict.WORSE: "worse", Verdict.EQUIVALENT: "equiv.", Verdict.UNDECIDED: "open"}
"""Verdicts as the narrow table of the terminal writes them."""
# Percent of 95 % BCa intervals that hold the mean of normal differences, by pairs; docs/statistics.md has the command.
_COVERAGE = {2: 49, 3: 72, 4: 80, 5: 84, 6: 86, 7: 87}


def value_text(arm: ArmSummary, metric: Metric) -> str:
    """Write mean, standard deviation and number of the finished runs: `97.22 ± 0.31 (3)`, in the metric's unit."""
    if arm.mean is None:
        return NOTHING
    scale, decimals = metric.scale, metric.decimals
    deviation = "" if arm.sd is None else f" ± {scale * arm.sd:.{decimals}f}"
    return f"{scale * arm.mean:.{decimals}f}{deviation} ({arm.finished})"


def measure_text(found: Spread | None, measure: Measure) -> str:
    """Write mean and standard deviation of a further figure: `1.20 ± 0.10`."""
    if found is None:
        return NOTHING
    scale, decimals = measure.scale, measure.decimals
    deviation = "" if found.sd is None else f" ± {scale * found.sd:.{decimals}f}"
    return f"{scale * found.mean:.{decimals}f}{deviation}"


def difference_text(difference: PairedDifference | None) -> str:
    """Write the mean difference and its bootstrap interval: `+0.42 [+0.10, +0.71]`.

    A star marks an interval over so few seeds that it covers less than its 95 %.
    """
    if difference is None or difference.mean is None:
        return NOTHING
    metric = difference.yardstick.metric
    if difference.bootstrap is None:
        return f"{signed(difference.mean, metric)} [no interval]"
    star = "*" if difference.undercovers else ""
    return f"{signed(difference.mean, metric)} {interval_text(difference.bootstrap, metric)}{star}"


def interval_text(interval: Interval | None, metric: Metric) -> str:
    """Write an interval of differences: `[+0.10, +0.71]`."""
    return NOTHING if interval is None else f"[{signed(interval.low, metric)}, {signed(interval.high, metric)}]"


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


def ratio_text(value: float | None) -> str:
    """Write a probability or a ratio with two decimals."""
    return NOTHING if value is None else f"{value:.2f}"


def p_text(value: float | None) -> str:
    """Write a p-value with two significant digits: `0.013`, or `< 0.0001`."""
    if value is None:
        return NOTHING
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def seeds_text(seeds: int | None) -> str:
    """Write a number of seeds: `57`, or `> 10,000`."""
    if seeds is None:
        return NOTHING
    return f"> {SEEDS_CAP:,}" if seeds > SEEDS_CAP else f"{seeds:,}"


def verdict_text(difference: PairedDifference | None) -> str:
    """Write the verdict: `shown better`, or `not decided (3 seeds of 37 needed)`."""
    if difference is None:
        return NOTHING
    if difference.verdict is not Verdict.UNDECIDED:
        return str(difference.verdict)
    return undecided_text(difference.pairs, difference.seeds_to_decide)


def undecided_text(seeds: int, needed: int | None) -> str:
    """Write that nothing is decided, with the seeds there are and the seeds that are needed where that is known."""
    of = "" if needed is None else f" of {seeds_text(needed)} needed"
    return f"{Verdict.UNDECIDED} ({seeds} seed{'s' if seeds != 1 else ''}{of})"


def count_text(count: int, of: int) -> str:
    """Write a count of runs: `0`, or `1 of 3`."""
    return f"{count} of {of}" if count else "0"


def headline(summary: Summary) -> str:
    """Say in a sentence or two which arms differ from the baseline, and which are equivalent to it."""
    compared, baseline, metric = summary.compared, summary.baseline, summary.metric
    if not compared:
        return f"Only {baseline} was trained: there is nothing to compare it with."
    groups: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
    for arm, difference in compared:
        groups[difference.verdict].append(f"{arm.activation} ({signed(difference.mean or 0.0, metric)})")
    unit = f", in {metric.difference_unit} of {metric.title}" if metric.difference_unit else f", in {metric.title}"
    parts = [
        f"Shown {word} than {baseline}{unit}: {', '.join(groups[verdict])}."
        for verdict, word in ((Verdict.BETTER, "better"), (Verdict.WORSE, "worse"))
        if groups[verdict]
    ] or [f"No activation is shown to differ from {baseline}."]
    if groups[Verdict.EQUIVALENT]:
        names = ", ".join(groups[Verdict.EQUIVALENT])
        parts.append(f"Equivalent to it within {amount(summary.yardstick.margin, metric)}: {names}.")
    return " ".join(parts)


def summary_sentences(summary: Summary) -> list[str]:
    """Say what is shown about each arm, in its order, and what limits the whole.

    Returns: The headline, one sentence or more per arm, then the limits; plain text, to be escaped by whoever shows it.
    """
    sentences = [headline(summary)]
    for arm in summary.arms:
        if arm.difference is not None:
            sentences.append(f"{arm.activation}: {_verdict_sentence(arm.difference, summary.baseline)}")
        sentences += _incomplete(arm)
    return sentences + _limits([difference for _, difference in summary.compared])


def control_sentences(recipe: Mapping[str, Any]) -> list[str]:
    """Say what a stored recipe gives each activation of its own: initial weights of its gain, a tuned learning rate.

    Example:
        >>> control_sentences({"initialisation": "model", "rates": {"gelu": 0.01, "gem": 0.005}})
        ['Learning rates, tuned on the validation split: gelu 0.01, gem 0.005.']
    """
    sentences: list[str] = []
    if recipe.get("initialisation") == "gain":
        sentences.append("Initial weights that read an activation's output are scaled by its gain over ReLU's.")
    if recipe.get("rates"):
        rates = ", ".join(f"{name} {rate:g}" for name, rate in recipe["rates"].items())
        sentences.append(f"Learning rates, tuned on the validation split: {rates}.")
    return sentences


def _verdict_sentence(difference: PairedDifference, baseline: str) -> str:
    metric = difference.yardstick.metric
    if difference.mean is None:
        return f"no comparison with {baseline}, no seed has a finished run of both."
    seeds = f"{difference.pairs} paired seed{'s' if difference.pairs > 1 else ''}"
    size = f"{signed(difference.mean, metric)} {metric.difference_unit}".rstrip()
    if difference.student is None:
        return f"not decided: {size} on {seeds}, and one seed gives no interval."
    if difference.without_spread:
        return f"not decided: {size} on each of {seeds}; equal differences say nothing about their spread."
    found = f"{size}, 95 % t interval {interval_text(difference.student, metric)} over {seeds}"
    margin = amount(difference.yardstick.margin, metric)
    if difference.shown:
        small = f" The mean lies within the margin of {margin} all the same." if difference.equivalent else ""
        return f"{difference.verdict} than {baseline}: {found} (adjusted p {_p_phrase(difference.p_adjusted)}).{small}"
    if difference.equivalent:
        p_value = _p_phrase(difference.equivalence_p_adjusted)
        return f"equivalent to {baseline} within the margin of {margin}: {found} (adjusted TOST p {p_value})."
    return f"not decided: {found} (adjusted p {_p_phrase(difference.p_adjusted)}).{_seeds_sentence(difference)}"


def _p_phrase(value: float | None) -> str:
    text = p_text(value)
    return text if text.startswith("<") else f"= {text}"


def _seeds_sentence(difference: PairedDifference) -> str:
    wanted = [
        f"{_about(seeds)} {purpose}"
        for seeds, purpose in (
            (difference.seeds_needed, "to show a difference of this size"),
            (difference.seeds_for_equivalence, "to show equivalence within the margin"),
        )
        if seeds is not None
    ]
    if not wanted:
        return ""
    text = ", or ".join(wanted)
    return f" {text[0].upper()}{text[1:]}, at 80 % power and corrected for the number of arms."


def _about(seeds: int) -> str:
    return f"more than {SEEDS_CAP:,} seeds" if seeds > SEEDS_CAP else f"about {seeds:,} seeds"


def _limits(differences: Sequence[PairedDifference]) -> list[str]:
    sentences: list[str] = []
    few = [one.pairs for one in differences if one.undercovers]
    if few:
        sentences.append(
            f"* Over few seeds the bootstrap interval is too short: over {min(few)} it covers the true difference in "
            f"about {_COVERAGE[min(few)]} % of comparisons, not in 95 %. The verdicts stand on paired t tests."
        )
    if len(differences) > 1:
        sentences.append(
            f"The tests of the {len(differences)} arms are corrected for their number (Holm): where there is no "
            "difference at all, one is called shown in at most about 5 % of such comparisons."
        )
    return sentences


def _incomplete(arm: ArmSummary) -> list[str]:
    sentences: list[str] = []
    planned = arm.finished + arm.failed + arm.missing
    if arm.failed:
        stands = "" if arm.difference is None else f", and its comparison stands on {_pairs(arm.difference.pairs)}"
        sentences.append(
            f"{arm.activation}: {count_text(arm.failed, planned)} runs failed; its mean leaves them out{stands}."
        )
    if arm.missing:
        sentences.append(f"{arm.activation}: {count_text(arm.missing, planned)} runs without a result yet.")
    return sentences


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count} pairs"
