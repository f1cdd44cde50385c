"""How often are the lab's verdicts false, and how often do they find what is there? A simulation of whole comparisons.

    python benchmarks/simulate_verdicts.py --out benchmarks/results/verdicts.csv

Every cell draws comparisons of some arms with a baseline over some seeds from one law, and counts those in which at
least one arm gets a false verdict: of difference if all true means are equal, of equivalence if all arms lie on the
margin. The power is the share of comparisons in which the one better arm is shown better. `lab` is what
`gem-act report` does; the others are candidates that were not taken. It takes about 20 minutes of one core.
docs/statistics.md discusses the table.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from scipy import special, stats

from gem_activations.lab.statistics.contrasts import ALPHA, compare_rows, dunnett_critical
from gem_activations.lab.statistics.verdicts import ORDER, Verdict, judge

SEEDS, ARMS, CORRELATIONS = (3, 5, 10, 30), (1, 7, 20), (0.0, 0.5)
IMAGES = 360
RIVALS = 1000  # Comparisons of a cell for the candidates that were not taken.
SHUFFLES, SHUFFLED = 199, 200  # Permutations of a comparison, and comparisons of a cell that are permuted.
DIFFER = [ORDER.index(Verdict.BETTER), ORDER.index(Verdict.WORSE)]


def normal(rng, shape, rho, noise=None):
    """Draw values of unit variance in which the runs of a seed are correlated by rho."""
    noise = noise or rng.standard_normal
    replications, rows, seeds = shape
    return np.sqrt(rho) * noise((replications, 1, seeds)) + np.sqrt(1 - rho) * noise((replications, rows, seeds))


def images(share):
    """Draw accuracies on 360 images; seeds differ in how hard they are, so that runs of a seed are correlated."""

    def draw(rng, shape, rho, shift=0.0):
        scale = np.sqrt(rho / (1 - rho) / (IMAGES * share * (1 - share)))
        level = special.expit(special.logit(share) + scale * rng.standard_normal((shape[0], 1, shape[2])))
        chance = np.broadcast_to(level, shape).copy()
        chance[:, 1:] -= shift
        return rng.binomial(IMAGES, np.clip(chance, 0, 1)) / IMAGES

    return draw


def wide(row):
    def draw(rng, shape, rho):
        values = normal(rng, shape, rho)
        values[:, row] *= 4
        return values

    return draw


def collapsing(everywhere):
    """Drop a run by 30 standard deviations with probability 0.1: of all rows, or of the arms with equal means."""

    def draw(rng, shape, rho):
        values, falls = normal(rng, shape, rho), rng.random(shape) < 0.1
        if not everywhere:
            falls[:, 0] = False
            values[:, 0] -= 3
        return values - 30 * falls

    return draw


def lognormal(everywhere):
    def draw(rng, shape, rho):
        values = normal(rng, shape, rho)
        skewed = (np.exp(values) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
        if not everywhere:
            skewed[:, 0] = values[:, 0]
        return skewed

    return draw


def failing(share, everywhere=False):
    """Fail the worst runs: those of the arms whose value is below the quantile of the share."""

    def draw(rng, shape, rho):
        values = normal(rng, shape, rho)
        failed = values < special.ndtri(share)
        failed[:, 0] &= everywhere
        return np.where(failed, np.nan, values)

    return draw


def heavy(rng, shape, rho):
    return normal(rng, shape, rho, lambda size: rng.standard_t(3, size) / np.sqrt(3))


def tied(rng, shape, rho):
    """Draw accuracies that are 1 or one image short of it."""
    return 1 - (normal(rng, shape, rho) < 0) / IMAGES


LAWS = {
    "normal": normal,
    "t3": heavy,
    "360 images, .97": images(0.97),
    "360 images, .997": images(0.997),
    "tied": tied,
    "all collapse in 10 %": collapsing(everywhere=True),
    "all lognormal": lognormal(everywhere=True),
    "worst 10 % of the arms fail": failing(0.1),
    "worst 40 % of the arms fail": failing(0.4),
    "worst 20 % of all fail": failing(0.2, everywhere=True),
    "one arm, 4 x spread": wide(1),
    "baseline, 4 x spread": wide(0),
    "arms collapse, equal means": collapsing(everywhere=False),
    "arms lognormal, equal means": lognormal(everywhere=False),
}


def holm_rejects(p_values):
    """Return Holm's rejections, shape (..., arms); NaN for a test that does not exist."""
    p_values = np.where(np.isnan(p_values), 1.0, p_values)
    order = np.argsort(p_values, -1)
    arms = p_values.shape[-1]
    passed = np.logical_and.accumulate(np.take_along_axis(p_values, order, -1) <= ALPHA / (arms - np.arange(arms)), -1)
    rejects = np.zeros(p_values.shape, bool)
    np.put_along_axis(rejects, order, passed, -1)
    return rejects


def paired_t(values):
    found = compare_rows(values, method="own")
    return holm_rejects(2 * special.stdtr(found.freedom, -np.abs(found.mean) / found.error))


def welch(values):
    n = values.shape[-1]
    spread = values.var(-1, ddof=1) / n
    total = spread[:, 1:] + spread[:, :1]
    freedom = total**2 * (n - 1) / (spread[:, 1:] ** 2 + spread[:, :1] ** 2)
    return holm_rejects(2 * special.stdtr(freedom, -np.abs((values[:, 1:] - values[:, :1]).mean(-1)) / np.sqrt(total)))


def unblocked_dunnett(values):
    """Test as scipy.stats.dunnett: pooled spread of all rows, no blocks; of complete tables only."""
    _, rows, seeds = values.shape
    error = np.sqrt(2 * values.var(-1, ddof=1).mean(-1, keepdims=True) / seeds)
    statistic = np.abs(values[:, 1:].mean(-1) - values[:, :1].mean(-1)) / np.maximum(error, 1e-15)
    return statistic > dunnett_critical(rows - 1, rows * (seeds - 1))


def brunner_munzel(values):
    """Test P(better) = 1/2 by Brunner and Munzel's statistic with Satterthwaite's degrees of freedom, and Holm."""
    n = values.shape[-1]
    arms, baseline = values[:, 1:, :, None], values[:, :1, None, :]
    above = (arms > baseline) + 0.5 * (arms == baseline)
    ours, theirs = above.mean(-1), above.mean(-2)
    spreads = ours.var(-1, ddof=1) / n, theirs.var(-1, ddof=1) / n
    total = spreads[0] + spreads[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = (above.mean((-2, -1)) - 0.5) / np.sqrt(total)
        freedom = total**2 / ((spreads[0] ** 2 + spreads[1] ** 2) / (n - 1))
    p_values = np.where(total > 0, 2 * stats.t.sf(np.abs(statistic), freedom), np.nan)
    return holm_rejects(np.where((total == 0) & (np.abs(above.mean((-2, -1)) - 0.5) == 0.5), 0.0, p_values))


def permutation(values, rng):
    """Shuffle the rows of every seed; the largest pooled statistic of each shuffle is the critical law."""
    values = values[:SHUFFLED]

    def statistic(table):
        found = compare_rows(table, method="pooled")
        return np.nan_to_num(np.abs(found.mean) / found.error, nan=0.0, posinf=np.inf)

    observed = statistic(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        largest = np.stack([statistic(rng.permuted(values, axis=1)).max(-1) for _ in range(SHUFFLES)])
    return (largest[..., None] >= observed - 1e-9).sum(0) + 1 <= ALPHA * (SHUFFLES + 1)


def lab(values, margin=None):
    return judge(values, np.isnan(values), margin).code


def candidates(values, rng):
    """Return the rejections of every candidate, of comparisons without a failed run; of others of those that exist."""
    yield "lab", np.isin(lab(values), DIFFER)
    values = values[:RIVALS]
    whole = not np.isnan(values).any()
    with np.errstate(divide="ignore", invalid="ignore"):
        yield "paired t, Holm", paired_t(values)
        if whole:
            yield "Welch, Holm", welch(values)
            yield "unblocked Dunnett", unblocked_dunnett(values)
            yield "Brunner-Munzel, Holm", brunner_munzel(values)
            if values.shape[-1] <= 10 and values.shape[-2] <= 8:
                yield "permutation", permutation(values, rng)
        yield "pooled Dunnett", compare_rows(values, method="pooled").shown
        yield "adaptive Dunnett", compare_rows(values).shown


def margin_of(law, seeds):
    """Return a margin that is wide beside the error: on it, false verdicts of equivalence are most frequent."""
    return 0.005 if law.startswith("360") else 6 * np.sqrt(2 / seeds)


def on_the_margin(law, rng, shape, rho):
    margin = margin_of(law, shape[2])
    if law.startswith("360"):
        return LAWS[law](rng, shape, rho, shift=margin)
    values = LAWS[law](rng, shape, rho)
    values[:, 1:] -= margin
    return values


def cell(law, seeds, arms, rho, replications):
    """Return the rows of one cell: name of the procedure, what was counted, its share, comparisons."""
    number = (list(LAWS).index(law), seeds, arms, int(2 * rho))
    rng = np.random.default_rng(number)
    shape = (replications, arms + 1, seeds)
    rows = []

    def add(procedure, counted, found):
        share = float(np.mean(found))
        error = np.sqrt(share * (1 - share) / len(found))
        rows.append((law, seeds, arms, rho, procedure, counted, share, error, len(found)))

    with np.errstate(all="ignore"):
        null = LAWS[law](rng, shape, rho)
        for name, rejects in candidates(null, rng):
            add(name, "false difference", rejects.any(-1))
        codes = lab(null)
        add("lab", "unstable", (codes == ORDER.index(Verdict.UNSTABLE)).any(-1))
        if not law.startswith(("tied", "worst", "arms")):
            near = on_the_margin(law, rng, shape, rho)
            said = lab(near, margin_of(law, seeds)) == ORDER.index(Verdict.EQUIVALENT)
            add("lab", "false equivalence", said.any(-1))
        if law in ("normal", "t3", "one arm, 4 x spread"):
            better = LAWS[law](rng, shape, rho)
            row = 2 if law.startswith("one") and arms > 1 else 1
            better[:, row] += 3 if seeds == 3 else 6 * np.sqrt(1 / seeds) / 1.5
            for name, rejects in candidates(better, rng):
                add(name, "power", rejects[:, row - 1])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=4000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    started, rows = time.perf_counter(), []
    plan = [(law, seeds, arms, rho) for law in LAWS for seeds in SEEDS for arms in ARMS for rho in CORRELATIONS]
    plan += [("normal", 3, 4, rho) for rho in CORRELATIONS] + [("one arm, 4 x spread", 3, 4, r) for r in CORRELATIONS]
    for one in plan:
        rows += cell(*one, arguments.replications)
        print(*one, f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    names = ["law", "seeds", "arms", "correlation", "procedure", "counted", "share", "error", "comparisons"]
    table = pl.DataFrame(rows, schema=names, orient="row").with_columns(pl.col("share", "error").round(4))
    if arguments.out:
        table.write_csv(arguments.out)
    worst = table.filter(pl.col("counted") != "power").group_by("law", "procedure", "counted", maintain_order=True)
    with pl.Config(tbl_rows=-1, fmt_str_lengths=40):
        print(worst.agg(pl.col("share").max().alias("worst share")).pivot(on="procedure", index=["law", "counted"]))
        at_three = table.filter((pl.col("counted") == "power") & (pl.col("seeds") == 3) & (pl.col("arms") == 4))
        print(at_three.select("law", "correlation", "procedure", "share", "error"))
    print(f"{len(table)} rows, {arguments.replications} comparisons a cell, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
