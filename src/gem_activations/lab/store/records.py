"""What the store holds of a comparison, as frozen dataclasses; `store` writes and reads them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..recipes.pipeline import StoredRecipe

FINISHED, FAILED, INFRASTRUCTURE = "finished", "failed", "infrastructure"
CORE = ("activation", "seed", "status", "reason", "epochs", "seconds")
"""Columns of a table of runs that are not figures of the experiment."""

RunKey = tuple[str, int]
"""Name of the activation, and seed."""


@dataclass(frozen=True)
class RunResult:
    """The outcome of one run: one activation trained from one seed.

    Attributes:
        activation: Name of the arm: a canonical string of `parse_arm`, or the name of a user's own activation.
        seed: Seed of the run; runs of equal seed share initial weights and data order across activations.
        status: "finished"; "failed", because of the experiment itself; or "infrastructure": a full disk, unreadable
            data or too little memory, which the same command tries again.
        reason: Why the run failed; empty for a finished one.
        epochs: Epochs that were finished.
        seconds: Wall time of the run, in all processes that worked on it.
        figures: What the experiment returned, by name; None for a figure that is not finite. Those of the lab's own
            recipes are described in `training.trainer.Trainer.train`.
    """

    activation: str
    seed: int
    status: str
    reason: str = ""
    epochs: int = 0
    seconds: float = 0.0
    figures: dict[str, int | float | None] = field(default_factory=dict[str, "int | float | None"])

    def row(self) -> dict[str, Any]:
        """Return the row of this run in a table of runs: the core columns, and every figure under its own name."""
        return {
            "activation": self.activation,
            "seed": self.seed,
            "status": self.status,
            "reason": self.reason,
            **self.figures,
            "epochs": self.epochs,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Depth:
    """The content of `depth.json`: what a run looks like from its first layer to its last.

    Both parts are in the order in which the layers run.

    Attributes:
        layers: Names of the layers with a weight matrix or kernel.
        start_gradients: Norm of the loss gradient of each layer's weights at the start of the run, on one batch.
        gradients: The same with the weights that the rule chose.
        activations: Names of the activation modules.
        start_dead: Share of each activation's units that are dead at the start, 0 to 1.
        dead: The same with the weights that the rule chose.
    """

    layers: tuple[str, ...]
    start_gradients: tuple[float, ...]
    gradients: tuple[float, ...]
    activations: tuple[str, ...]
    start_dead: tuple[float, ...]
    dead: tuple[float, ...]


EpochRow = dict[str, int | float | None]
"""One line of `metrics.jsonl`: "epoch", counted from 1, and what was logged of it by name; "seconds" is wall time."""


@dataclass(frozen=True)
class Look:
    """One look at the results of a comparison to which seeds are added until it is decided; `looks.json` lists them.

    Attributes:
        seeds: Seeds of each arm that was not decided before.
        level: Level of the tests of this look, all arms together.
        verdicts: What was said of each of these arms.
        left: Those that were decided; they get no more seeds.
    """

    seeds: int
    level: float
    verdicts: dict[str, str]
    left: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The content of `comparison.json`: what makes two comparisons the same, and the runs that are wanted.

    Attributes:
        recipe: The experiment, without activations, baseline and seeds: a recipe of the lab, or what identifies a
            user's own training function.
        baseline: Activation that the others are compared with; one of `activations`.
        device: Type of the device, such as "cpu".
        threads: CPU threads of torch; their number changes the last bits of a result.
        data: Checksum of each split of the data.
        activations: Names of the arms, in the order in which they were asked for.
        seeds: The seeds, ascending.
        versions: What the runs were made with: versions of torch and this package, and SHA-256 of the source files of
            the user's own code.
        max_seeds: Most seeds of the schedule by which seeds are added until the arms are decided; None without one.
        extended: Numbers of seeds that had results when more were added without a schedule.
    """

    recipe: StoredRecipe
    baseline: str
    device: str
    threads: int
    data: dict[str, str]
    activations: tuple[str, ...]
    seeds: tuple[int, ...]
    versions: dict[str, str] = field(default_factory=dict[str, str])
    max_seeds: int | None = None
    extended: tuple[int, ...] = ()

    def runs(self) -> list[RunKey]:
        """List the planned runs, seed by seed, so that an unfinished comparison is paired as far as it goes."""
        return [(activation, seed) for seed in self.seeds for activation in self.activations]


@dataclass(frozen=True)
class Comparison:
    """Everything a report needs, read from the output folder alone.

    Attributes:
        folder: The output folder.
        recipe: As in the plan.
        activations: Canonical strings, in the order in which they were asked for.
        baseline: One of `activations`.
        seeds: Number of seeds of the plan.
        results: Results of the runs that ended, whatever their status, in the order of the plan.
        curves: (activation, seed) -> finished epochs, for the same runs.
        environment: env.json of the run that ended last: versions, hardware, git state, command. Empty without a run.
        environments: (activation, seed) -> env.json of each run that ended.
        missing: Planned runs without a result yet.
        depths: (activation, seed) -> what was measured by depth, for the finished runs that have it.
        max_seeds, extended: As in the plan.
        looks: The looks so far, if seeds are added by a schedule.
    """

    folder: Path
    recipe: StoredRecipe
    activations: tuple[str, ...]
    baseline: str
    seeds: int
    results: tuple[RunResult, ...]
    curves: dict[RunKey, tuple[EpochRow, ...]]
    environment: dict[str, Any]
    missing: tuple[RunKey, ...]
    depths: dict[RunKey, Depth] = field(default_factory=dict["RunKey", Depth])
    environments: dict[RunKey, dict[str, Any]] = field(default_factory=dict["RunKey", dict[str, Any]])
    max_seeds: int | None = None
    extended: tuple[int, ...] = ()
    looks: tuple[Look, ...] = ()
