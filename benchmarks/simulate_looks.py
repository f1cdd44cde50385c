"""How many seeds does looking again save? A simulation of comparisons that add seeds until their arms are decided.

    python benchmarks/simulate_looks.py

One of four arms differs from the baseline by some standard deviations of a run, or none does; values are normal. Beside
the schedule of `gem-act compare --until-decided --max-seeds 40` stands the fixed number of seeds that gives the verdict
as often: one would have to know the difference in advance to choose it. It takes a minute or two.
docs/statistics.md discusses the table.
"""

import argparse

import numpy as np

from gem_activations.lab.statistics.sequential import make_schedule
from gem_activations.lab.statistics.verdicts import ORDER, Verdict, judge

ARMS, MOST = 4, 40
BETTER, WORSE, EQUIVALENT, OPEN = (
    ORDER.index(one) for one in (Verdict.BETTER, Verdict.WORSE, Verdict.EQUIVALENT, Verdict.UNDECIDED)
)


def draw(effect, replications, seeds):
    values = np.random.default_rng((int(100 * effect), seeds)).standard_normal((replications, ARMS + 1, seeds))
    values[:, 1] += effect
    return values


def look_again(values, margin=None):
    """Return the code of the verdict of each arm, and the seeds at which it left, shapes (replications, arms)."""
    values = values.copy()
    codes = np.full((len(values), ARMS), OPEN)
    left = np.full(codes.shape, values.shape[-1])
    schedule = make_schedule(values.shape[-1])
    for count, level in schedule.items():
        seen = values[..., :count]
        found = judge(seen, np.zeros(seen.shape, bool), margin, alpha=level).code
        decided = (codes == OPEN) & (found != OPEN)
        codes[decided], left[decided] = found[decided], count
        values[:, 1:, count:][codes != OPEN] = np.nan  # It gets no more seeds.
    return codes, left


def fixed_design(effect, wanted, share, replications, margin=None):
    """Return the fewest seeds of a fixed design whose first arm gets the verdict as often, counted up to 95 %."""
    for seeds in range(3, 4 * MOST):
        values = draw(effect, replications, seeds)
        if (judge(values, np.isnan(values), margin).code[:, 0] == wanted).mean() >= min(share, 0.95):
            return seeds
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=2000)
    replications = parser.parse_args().replications
    print("| difference | margin | verdict | in % | seeds of the arm, mean | fixed number | false verdicts in % |")
    print("|---|---|---|---|---|---|---|")
    plan = [(effect, None, BETTER) for effect in (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)]
    for effect, margin, wanted in [*plan, (0.0, 1.0, EQUIVALENT), (0.0, 1.5, EQUIVALENT), (0.0, 2.0, EQUIVALENT)]:
        codes, left = look_again(draw(effect, replications, MOST), margin)
        share = (codes[:, 0] == wanted).mean()
        false = np.isin(codes[:, 1 if effect else 0 :], (BETTER, WORSE)).any(-1).mean()
        fixed = fixed_design(effect, wanted, share, replications, margin)
        cells = (f"{effect:g}", margin or "-", ORDER[wanted], f"{share:.1%}", f"{left[:, 0].mean():.1f}", fixed)
        print("|", " | ".join(map(str, cells)).replace("%", ""), f"| {100 * false:.1f} |", flush=True)


if __name__ == "__main__":
    main()
