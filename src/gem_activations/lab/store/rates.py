"""Learning rates that a search found, one an activation: the file between `gem-act tune` and `gem-act compare`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from ...errors import SettingError
from ..recipes.pipeline import Recipe, StoredRecipe
from .comparison import flatten, read_format, write_json

FILE = "rates.json"
_FORMAT = 1
_FREE = ("training.epochs", "training.steps")  # A search may be shorter than what it is for.


@dataclass(frozen=True)
class Trial:
    """One learning rate of one activation.

    Attributes:
        rate: Highest learning rate of the schedule.
        value: Mean over the seeds of the metric on the validation split: the accuracy as a fraction, or the loss in
            nats. None if a run of the trial failed.
        failed: Runs that failed.
    """

    rate: float
    value: float | None
    failed: int


@dataclass(frozen=True)
class Tuned:
    """What a search says of one activation.

    Attributes:
        trials: Every trial, in the order of the rates.
        rate: The chosen rate; None if every trial failed.
    """

    trials: tuple[Trial, ...]
    rate: Annotated[float, msgspec.Meta(gt=0)] | None

    @property
    def failed(self) -> int:
        """Trials without a value."""
        return sum(trial.value is None for trial in self.trials)

    @property
    def at_edge(self) -> bool:
        """Whether the chosen rate is the lowest or the highest that was tried, so that a better one may lie beyond."""
        return self.rate in (self.trials[0].rate, self.trials[-1].rate)


@dataclass(frozen=True)
class Tuning:
    """The outcome of a search over learning rates: what `rates.json` holds.

    Attributes:
        recipe: The recipe that was searched over.
        seeds: Runs of each trial.
        arms: Activation -> what was found.
    """

    recipe: StoredRecipe
    seeds: int
    arms: dict[str, Tuned]


def write_tuning(folder: Path, tuning: Tuning) -> Path:
    """Write `rates.json` into a folder and return its path. Raises: StoreError: it cannot be written."""
    path = folder / FILE
    write_json(path, {"format": _FORMAT, **msgspec.to_builtins(tuning)})
    return path


def read_rates(path: Path, recipe: Recipe) -> dict[str, float]:
    """Return the rates, chosen for a recipe, of every activation of a file that has one.

    Args:
        path: What `write_tuning` wrote, or its folder.
    Raises: SettingError: no such file; it is of another recipe, but for the length of the training; an arm of the
        recipe has no rate in it. StoreError: it cannot be read, or is damaged.
    """
    path = path / FILE if path.is_dir() else path
    stored = read_format(path, Tuning, _FORMAT)
    if stored is None:
        raise SettingError(f"--rates {path}: there is no such file; gem-act tune makes one")
    rates = {name: arm.rate for name, arm in stored.arms.items() if arm.rate is not None}
    found, wanted = flatten(stored.recipe), flatten(recipe.pipeline())
    differing = [key for key in {**wanted, **found} if key not in _FREE and found.get(key) != wanted.get(key)]
    if differing:
        named = ", ".join(f"{key} ({found.get(key)} there, {wanted.get(key)} now)" for key in differing[:3])
        raise SettingError(f"--rates {path} was tuned with another recipe, which differs in {named}; tune this one")
    absent = [name for name in recipe.activations if name not in rates]
    if absent:
        raise SettingError(f"--rates {path} has no learning rate for {', '.join(absent)}; tune these too")
    return rates
