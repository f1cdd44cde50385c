"""Looking at results while seeds are still added, without more false verdicts than a single look has.

A schedule names the numbers of seeds at which the results are looked at, and spends the level of 5 % over these looks
in proportion to the seeds (Lan and DeMets 1983, with the linear spending function). Each look tests the whole family at
what it adds to the sum. By Boole's inequality the false verdicts of all looks together then stay below 5 %, whatever
the dependence between looks and whatever the law of the single test. An arm leaves when it is decided; the baseline
runs on. `benchmarks/simulate_verdicts.py` says how many seeds this saves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..store.comparison import Look
from .analysis import Analysis, Run, analyse_runs
from .contrasts import ALPHA
from .metrics import Criterion
from .verdicts import Verdict

FIRST = 3
"""Seeds of the first look."""
_GROWTH = 1.5


def make_schedule(most: int) -> dict[int, float]:
    """Return seeds of each arm at each look -> level of the family there: each look has half as many seeds again.

    Example:
        >>> list(make_schedule(20)), round(sum(make_schedule(40).values()), 6)
        ([3, 5, 8, 12, 20], 0.05)
    """
    looks = [min(FIRST, most)]
    while looks[-1] < most:
        grown = math.ceil(looks[-1] * _GROWTH)
        looks.append(most if grown * 1.25 > most else grown)
    spent = [ALPHA * seeds / most for seeds in looks]
    return {look: now - before for look, now, before in zip(looks, spent, [0.0, *spent], strict=False)}


def replay(
    runs: Sequence[Run], criterion: Criterion, baseline: str, arms: Sequence[str], schedule: Mapping[int, float]
) -> tuple[Analysis, tuple[Look, ...], tuple[str, ...]]:
    """Repeat the looks at stored runs; what was decided stays decided, by the results of that look.

    The first look takes the lowest seeds, and so on; all else is as for `analyse_runs` and `make_schedule`.

    Returns: The analysis; the looks that have all of their runs; the arms that are open after them.
    """
    order = sorted({run.seed for run in runs})
    still_open = [arm for arm in arms if arm != baseline]
    decided: dict[str, Analysis] = {}
    looks: list[Look] = []
    for count, level in schedule.items():
        seeds = set(order[:count])
        ended = {(run.arm, run.seed) for run in runs if run.seed in seeds and run.status in ("finished", "failed")}
        wanted = {(arm, seed) for arm in (baseline, *still_open) for seed in seeds}
        if len(seeds) < count or not wanted <= ended or not still_open:
            break
        found = analyse_runs([run for run in runs if run.seed in seeds], criterion, baseline, arms, alpha=level)
        verdicts = {arm: found.verdicts[arm] for arm in still_open}
        still_open = [arm for arm, verdict in verdicts.items() if verdict is Verdict.UNDECIDED]
        left = tuple(arm for arm in verdicts if arm not in still_open)
        looks.append(Look(count, level, {arm: str(verdict) for arm, verdict in verdicts.items()}, left))
        decided |= dict.fromkeys(left, found)
    level = [*schedule.values()][max(len(looks) - 1, 0)]
    last = analyse_runs(runs, criterion, baseline, arms, alpha=level)
    shown = [
        next(one for one in decided[arm.activation].arms if one.activation == arm.activation)
        if arm.activation in decided
        else replace(arm, difference=replace(arm.difference, verdict=Verdict.UNDECIDED))
        if arm.difference is not None
        else arm
        for arm in last.arms
    ]
    return replace(last, arms=tuple(shown)), tuple(looks), tuple(still_open)
