"""Search the learning rate of each activation: the same trials for every one, on the validation split alone.

A trial is a comparison of its own: all arms at one learning rate, in the folder `rate-R`, without test scores. So it
resumes, fails, and shares processes and machines as comparisons do. Optuna keeps the book of each arm's trials. The
rates are the recipe's own times whole powers of a factor, the same ones for every arm; none follows from a result.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ...errors import MissingDependencyError, SettingError
from ..recipes.pipeline import Recipe
from ..store.comparison import FAILED, Comparison, read_plan
from ..store.rates import Trial, Tuned, Tuning, write_tuning
from .compare import compare
from .distributed import is_launched
from .request import Request, resolve_recipe
from .runner import Observer

if TYPE_CHECKING:
    import optuna

_RATE = "learning_rate"
_FEWEST = 3
_DIGITS = 6  # Of a rate: its folder's name says it in full.


def tune(request: Request, trials: int, factor: float, observer: Observer) -> Tuning:
    """Bring every trial of a search to its end and choose each arm's rate.

    Args:
        request: What is trained. Its seeds are those of each trial: 1 where not given, and no fewer than there are.
        trials: Learning rates of each arm, an odd number of at least 3; the recipe's own is in their middle.
        factor: Ratio of neighbouring rates, above 1.
        observer: Is told of each run.
    Returns: The outcome, which is also stored as `rates.json` in `tuning_folder(request)`. It has the arms of earlier
        searches in that folder too, with as many trials. Of rates with equal values the one nearest to the recipe's own
        is chosen. Trials that ended before are not repeated.
    Raises: MissingDependencyError: Optuna is not installed; GemError: something in the request is wrong.
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
        tuning = _search(wanted, recipe, rates, observer)
        with FileLock(folder / ".rates.lock"):
            # Another search may have joined since: the file of whoever ends last must hold the arms of both.
            joined = _join(request, recipe, folder / _name(rates[0]))
            if joined == wanted:
                write_tuning(folder, tuning)
                return tuning
        wanted = joined


def _join(request: Request, recipe: Recipe, trial: Path) -> Request:
    """Give the request with the arms and seeds that every search in the folder wants, as the first trial has them."""
    plan = read_plan(trial)
    arms = tuple(dict.fromkeys((*(plan.activations if plan else ()), *recipe.activations)))
    seeds = max(request.seeds or 1, plan.seeds if plan else 1)
    return dataclasses.replace(request, out=trial.parent, study=None, activations=arms, baseline=None, seeds=seeds)


def _search(request: Request, recipe: Recipe, rates: list[float], observer: Observer) -> Tuning:
    """Bring the trials of all arms to their end and choose each arm's rate."""
    arms, seeds, folder = request.activations or (), request.seeds or 1, tuning_folder(request)
    with _books(arms, rates, recipe.metric) as books:
        for rate in rates:
            asked = {arm: book.ask(_space(rates)) for arm, book in books.items()}
            found = compare(dataclasses.replace(request, out=folder / _name(rate), trial=rate), observer)
            for arm, trial in asked.items():
                _tell(books[arm], trial, found, arm, recipe.metric)
        return Tuning(recipe.pipeline(), seeds, {arm: _choose(book) for arm, book in books.items()})


def tuning_folder(request: Request) -> Path:
    """Give the output folder of a search: the request's, or that of its comparison with `-tuning` after it.

    Example:
        >>> tuning_folder(Request("digits", study="twenty")).as_posix()
        'runs/digits-twenty-tuning'
    """
    return request.out or request.folder.with_name(f"{request.folder.name}-tuning")


def make_rates(own: float, trials: int, factor: float) -> list[float]:
    """Give the learning rates of a search: the recipe's own, then its neighbours, then theirs.

    Example:
        >>> make_rates(0.1, 5, 2.0)
        [0.1, 0.05, 0.2, 0.025, 0.4]
    """
    steps = [0, *(sign * step for step in range(1, trials // 2 + 1) for sign in (-1, 1))]
    return [float(f"{own * factor**step:.{_DIGITS}g}") for step in steps]


def tuning_lines(tuning: Tuning) -> Iterator[str]:
    """Say of each arm what was found, in a line or two."""
    accuracy = tuning.recipe["metric"] == "accuracy"
    for name, arm in tuning.arms.items():
        count, lowest, highest = len(arm.trials), arm.trials[0].rate, arm.trials[-1].rate
        failed = f", {arm.failed} failed" if arm.failed else ""
        if arm.rate is None:
            yield f"{name}: no learning rate, all {count} trials from {lowest:g} to {highest:g} failed"
            continue
        value = next(trial.value for trial in arm.trials if trial.rate == arm.rate) or 0.0
        score = f"accuracy {100 * value:.2f} %" if accuracy else f"loss {value:.3f} nats"
        yield f"{name}: learning rate {arm.rate:g}, validation {score} ({count} trials{failed})"
        if arm.at_edge:
            yield f"  the edge of {lowest:g} to {highest:g}: a better rate may lie beyond; give --trials {count + 2}"


@contextlib.contextmanager
def _books(arms: tuple[str, ...], rates: list[float], metric: str) -> Iterator[dict[str, "optuna.Study"]]:
    """Give an Optuna study an arm that asks for the rates one after the other; Optuna is quiet meanwhile."""
    try:
        import optuna
    except ImportError as error:
        raise MissingDependencyError('gem-act tune needs Optuna: pip install "gem-activations[tune]"') from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        direction = "maximize" if metric == "accuracy" else "minimize"
        books = {arm: optuna.create_study(direction=direction) for arm in arms}
        for book in books.values():
            for rate in rates:
                book.enqueue_trial({_RATE: rate})
        yield books
    finally:
        optuna.logging.set_verbosity(before)


def _space(rates: list[float]) -> dict[str, Any]:
    from optuna.distributions import FloatDistribution

    return {_RATE: FloatDistribution(min(rates), max(rates), log=True)}


def _tell(book: "optuna.Study", trial: "optuna.Trial", found: Comparison, arm: str, metric: str) -> None:
    """Enter the mean validation metric of an arm's runs into its book, or that one of them failed."""
    from optuna.trial import TrialState

    runs = [run for run in found.results if run.activation == arm]
    failed = sum(run.status == FAILED for run in runs)
    trial.set_user_attr("failed", failed)
    if failed:
        book.tell(trial, state=TrialState.FAIL)
        return
    values = [run.validation_accuracy if metric == "accuracy" else run.validation_loss for run in runs]
    book.tell(trial, sum(value for value in values if value is not None) / len(values))


def _choose(book: "optuna.Study") -> Tuned:
    ended = [trial.value is not None for trial in book.trials]
    rows = [Trial(trial.params[_RATE], trial.value, trial.user_attrs["failed"]) for trial in book.trials]
    best = book.best_trial.params[_RATE] if any(ended) else None  # The first of equals, so the nearest to the middle.
    return Tuned(tuple(sorted(rows, key=lambda row: row.rate)), best)


def _name(rate: float) -> str:
    return f"rate-{rate:.{_DIGITS}g}"
