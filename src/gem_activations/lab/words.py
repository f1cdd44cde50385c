"""What the statistics say, as text: the cells of the tables and the sentences of the verdict.

Accuracies are written in percent, differences in percentage points. The words follow the interval: an arm is said to
differ only where `PairedDifference.shown` holds.
"""

from collections.abc import Sequence

from .statistics import SEEDS_CAP, ArmSummary, Interval, PairedDifference

NOTHING = "-"
# Percent of 95 % BCa intervals that hold the mean of normal differences, by pairs; docs/statistics.md has the command.
_COVERAGE = {2: 49, 3: 72, 4: 80, 5: 84, 6: 86, 7: 87}


def accuracy_text(arm: ArmSummary) -> str:
    """Write mean, standard deviation and number of the finished runs: `97.22 ± 0.31 (3)`, in percent."""
    if arm.mean is None:
        return NOTHING
    spread = "" if arm.sd is None else f" ± {100 * arm.sd:.2f}"
    return f"{100 * arm.mean:.2f}{spread} ({arm.finished})"


def difference_text(difference: PairedDifference | None) -> str:
    """Write the mean difference and its bootstrap interval: `+0.42 [+0.10, +0.71]`, in points.

    A star marks an interval over so few seeds that it covers less than its 95 %.
    """
    if difference is None or difference.mean is None:
        return NOTHING
    if difference.bootstrap is None:
        return f"{points(difference.mean)} [no interval]"
    return f"{points(difference.mean)} {interval_text(difference.bootstrap)}{'*' if difference.undercovers else ''}"


def interval_text(interval: Interval | None) -> str:
    """Write an interval of differences in points: `[+0.10, +0.71]`."""
    return NOTHING if interval is None else f"[{points(interval.low)}, {points(interval.high)}]"


def points(fraction: float) -> str:
    """Write a difference of fractions as signed percentage points, never rounding a difference to 0.

    Example:
        >>> points(0.0042), points(-0.00001), points(0.0)
        ('+0.42', '-0.001', '0.00')
    """
    value = 100 * fraction
    if abs(value) < 1e-9:
        return "0.00"
    return f"{value:+.2f}" if abs(value) >= 0.005 else f"{value:+.1g}"


def ratio_text(value: float | None) -> str:
    """Write a probability or a ratio with two decimals."""
    return NOTHING if value is None else f"{value:.2f}"


def seeds_text(seeds: int | None) -> str:
    """Write the seeds needed: `57`, or `> 10,000`."""
    if seeds is None:
        return NOTHING
    return f"> {SEEDS_CAP:,}" if seeds > SEEDS_CAP else f"{seeds:,}"


def count_text(count: int, of: int) -> str:
    """Write a count of runs: `0`, or `1 of 3`."""
    return f"{count} of {of}" if count else "0"


def summary_sentences(arms: Sequence[ArmSummary], baseline: str) -> list[str]:
    """Say what is shown about each arm, in its order, and what limits the whole.

    Args:
        arms: From `statistics.summarise`.
        baseline: The activation that the others are compared with.
    Returns: One sentence or more per arm, then the limits; plain text, to be escaped by whoever shows it.
    """
    compared = [(arm, arm.difference) for arm in arms if arm.difference is not None]
    sentences = [_headline(compared, baseline)]
    for arm in arms:
        sentences += [] if arm.difference is None else [f"{arm.activation}: {_verdict(arm.difference, baseline)}"]
        sentences += _incomplete(arm)
    few = [difference.pairs for _, difference in compared if difference.undercovers]
    if few:
        sentences.append(
            f"* Over few seeds the bootstrap interval is too short: over {min(few)} it covers the true difference in "
            f"about {_COVERAGE[min(few)]} % of comparisons, not in 95 %. A difference counts as shown only where "
            "Student's t interval leaves 0 out as well."
        )
    if len(compared) > 1:
        sentences.append(
            f"The {len(compared)} comparisons are not corrected for their number: each by itself calls a difference "
            "shown in at most about 5 % of cases where there is none."
        )
    return sentences


def _headline(compared: Sequence[tuple[ArmSummary, PairedDifference]], baseline: str) -> str:
    if not compared:
        return f"Only {baseline} was trained: there is nothing to compare it with."
    shown = [
        f"{arm.activation} ({points(diff.mean)})" for arm, diff in compared if diff.shown and diff.mean is not None
    ]
    if not shown:
        return f"No activation is shown to differ from {baseline}."
    return f"A difference to {baseline} is shown, in points of test accuracy, for {', '.join(shown)}."


def _verdict(difference: PairedDifference, baseline: str) -> str:
    if difference.mean is None:
        return f"no comparison with {baseline}, no seed has a finished run of both."
    seeds = f"{difference.pairs} paired seed{'s' if difference.pairs > 1 else ''}"
    size = f"{points(difference.mean)} points"
    if difference.bootstrap is None or difference.student is None:
        return f"no difference is shown: {size} on {seeds}, and one seed gives no interval."
    if difference.without_spread:
        return f"no difference is shown: {size} on each of {seeds}; equal differences say nothing about their spread."
    bootstrap, student = interval_text(difference.bootstrap), interval_text(difference.student)
    if difference.shown:
        side = "above" if difference.mean > 0 else "below"
        amount = points(abs(difference.mean)).removeprefix("+")
        return f"a difference is shown, {amount} points {side} {baseline} {bootstrap} over {seeds}."
    text = f"no difference is shown: {size} {bootstrap} over {seeds}."
    if difference.bootstrap.excludes_zero():
        text = (
            f"no difference is shown: {size} over {seeds}. The bootstrap interval {bootstrap} leaves 0 out, but it is "
            f"too short for {seeds}; Student's t interval {student} contains 0."
        )
    return text + _seeds_sentence(difference.seeds_needed)


def _seeds_sentence(seeds: int | None) -> str:
    if seeds is None:
        return ""
    number = f"More than {SEEDS_CAP:,}" if seeds > SEEDS_CAP else f"About {seeds:,}"
    return f" {number} seeds would be needed to show a difference of this size at 80 % power."


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
