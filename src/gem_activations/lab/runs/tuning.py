"""Search the learning rate of each activation: the same trials for every one, on the validation split alone.

A trial is a comparison of its own: all arms at one learning rate, in the folder `rate-R`, without test scores. So it
resumes, fails, and shares processes and machines as comparisons do. The rates are the recipe's own times whole powers
of a factor, the same ones for every arm; none follows from a result.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from ...errors import SettingError
from ..recipes.pipeline import Recipe
from ..statistics.formatting import mean_text
from ..statistics.metrics import ACCURACY, LOSS
from ..store.comparison import FINISHED, read_plan
from ..store.rates import Trial, Tuned, Tuning, write_tuning
from ..training.group import is_launched
from .engine import ProgressCallback, run_comparison
from .planning import resolve_recipe
from .request import Request

_FEWEST = 3
_DIGITS = 6  # Of a rate: its folder's name says it in full.


def tune(request: Request, trials: int, factor: float, callback: ProgressCallback) -> Tuning:
    """Bring every trial of a search to its end and choose each arm's rate.

    Args:
        request: What is trained. Its seeds are those of each trial: 1 if not given, and no fewer than there are.
        trials: Learning rates of each arm, an odd number of at least 3; the recipe's own is in their middle.
        factor: Ratio of neighbouring rates, above 1.
        callback: Is told of each run.
    Returns: The outcome, also stored as `rates.json`, with the arms of earlier searches in the folder. Of rates with
        equal values the one nearest to the recipe's own is chosen. Trials that ended before are not repeated.
    Raises: GemError: something in the request is wrong.
    """
    if trials < _FEWEST or trials % 2 == 0:
        raise SettingError(f"--trials {trials}: give an odd number of at least {_FEWEST}, for the recipe's own rate")
    if not 1 < factor < math.inf:
        raise SettingError(f"--factor {factor:g}: the ratio of neighbouring learning rates must be a number above 1")
    if is_launched():
        raise SettingError("gem-act tune starts without torchrun; share its runs by --engine ray, or start it twice")
    folder = tuning_folder(request)
    recipe = resolve_recipe(request)
    rates = make_rates(recipe.training.learning_rate, trials, factor)
    wanted = _join(request, recipe, folder / _name(rates[0]))
    while True:
        tuning = _search(wanted, recipe, rates, callback)
        with FileLock(folder / ".rates.lock"):
            # Another search may have joined since: the file of whoever ends last must hold the arms of both.
            joined = _join(request, recipe, folder / _name(rates[0]))
            if joined == wanted:
                write_tuning(folder, tuning)
                return tuning
        wanted = joined


def _join(request: Request, recipe: Recipe, trial: Path) -> Request:
    """Return the request with the arms and seeds that every search in the folder wants, as the first trial has them."""
    plan = read_plan(trial)
    arms = tuple(dict.fromkeys((*(plan.activations if plan else ()), *recipe.activations)))
    seeds = max(request.seeds or 1, len(plan.seeds) if plan else 1)
    return dataclasses.replace(request, out=trial.parent, study=None, activations=arms, baseline=None, seeds=seeds)


def _search(request: Request, recipe: Recipe, rates: list[float], callback: ProgressCallback) -> Tuning:
    """Bring the trials of all arms to their end and choose each arm's rate."""
    arms, seeds, folder = request.activations or (), request.seeds or 1, tuning_folder(request)
    found = {
        rate: run_comparison(dataclasses.replace(request, out=folder / _name(rate), trial=rate), callback)
        for rate in rates
    }
    metric = ACCURACY if recipe.metric == "accuracy" else LOSS
    field = metric.field.replace("test", "validation")
    tuned: dict[str, Tuned] = {}
    for arm in arms:
        trials: list[Trial] = []
        for rate in rates:
            runs = [run for run in found[rate].results if run.activation == arm]
            failed = sum(run.status != FINISHED for run in runs)
            values = [value for run in runs if (value := run.figures.get(field)) is not None]
            trials.append(Trial(rate, None if failed else sum(values) / len(values), failed))
        finished = [trial for trial in trials if trial.value is not None]
        best = max(finished, key=lambda trial: metric.sign * (trial.value or 0.0), default=None)  # The first of equals.
        tuned[arm] = Tuned(tuple(sorted(trials, key=lambda trial: trial.rate)), best.rate if best else None)
    return Tuning(recipe.pipeline(), seeds, tuned)


def tuning_folder(request: Request) -> Path:
    """Return the output folder of a search: the request's, or that of its comparison with `-tuning` after it.

    Example:
        >>> tuning_folder(Request("digits", study="twenty")).as_posix()
        'runs/digits-twenty-tuning'
    """
    return Path(request.out) if request.out else request.folder.with_name(f"{request.folder.name}-tuning")


def make_rates(own: float, trials: int, factor: float) -> list[float]:
    """Return the learning rates of a search: the recipe's own, then its neighbours, then theirs.

    Example:
        >>> make_rates(0.1, 5, 2.0)
        [0.1, 0.05, 0.2, 0.025, 0.4]
    """
    steps = [0, *(sign * step for step in range(1, trials // 2 + 1) for sign in (-1, 1))]
    return [float(f"{own * factor**step:.{_DIGITS}g}") for step in steps]


def tuning_lines(tuning: Tuning) -> Iterator[str]:
    """Say of each arm what was found, in a line or two."""
    metric = ACCURACY if tuning.recipe.metric == "accuracy" else LOSS
    for name, arm in tuning.arms.items():
        count, lowest, highest = len(arm.trials), arm.trials[0].rate, arm.trials[-1].rate
        failed = f", {arm.failed} failed" if arm.failed else ""
        if arm.rate is None:
            yield f"{name}: no learning rate, all {count} trials from {lowest:g} to {highest:g} failed"
            continue
        value = next(trial.value for trial in arm.trials if trial.rate == arm.rate) or 0.0
        score = f"{metric.title.replace('test', 'validation')} {mean_text(value, None, metric)} {metric.unit}"
        yield f"{name}: learning rate {arm.rate:g}, {score} ({count} trials{failed})"
        if arm.at_edge:
            yield f"  the edge of {lowest:g} to {highest:g}: a better rate may lie beyond; give --trials {count + 2}"


def _name(rate: float) -> str:
    return f"rate-{rate:.{_DIGITS}g}"
