"""What the store holds of a comparison, as frozen dataclasses; `store` writes and reads them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FINISHED, FAILED = "finished", "failed"


@dataclass(frozen=True)
class RunResult:
    """The outcome of one run: one activation trained from one seed.

    Attributes:
        activation: Canonical string of `catalog.parse`.
        seed: Seed of the run; runs of equal seed share initial weights and data order across activations.
        status: "finished", or "failed" (then the accuracies and losses are None).
        reason: Why the run failed; empty for a finished one.
        test_accuracy: Fraction of the test set's targets that are predicted right, 0 to 1, of the weights the rule
            chose. A target is an image's class, or a token.
        test_loss: Mean cross-entropy of a target of the test set, in nats, of the same weights: the negative
            log-likelihood. For text its exponential is the perplexity.
        validation_accuracy: Of the epoch that the rule chose.
        validation_loss: Of the epoch that the rule chose.
        best_epoch: The epoch that the rule chose, counted from 1.
        epochs: Epochs that were finished.
        parameters: Number of trained scalars of the model.
        step_seconds: Seconds of one training step, the median over the run's epochs.
        step_time_ratio: Step time over that of the same model with ReLU, measured in this run.
        seconds: Wall time of the run, in all processes that worked on it.
        calibration_error: Expected calibration error on the test set, 15 bins, 0 to 1; None where it is not measured.
        brier: Brier score on the test set, summed over the classes, 0 to 2; None where it is not measured.
        dead_share: Share of the activation's units whose slope is below 1e-6 on every example looked at, 0 to 1, of
            the weights the rule chose; None where it is not measured.
        peak_memory: Most memory of the run in bytes: on a GPU, what torch held; on a CPU, the whole process. None where
            the system does not tell.
    """

    activation: str
    seed: int
    status: str
    reason: str
    test_accuracy: float | None
    test_loss: float | None
    validation_accuracy: float | None
    validation_loss: float | None
    best_epoch: int | None
    epochs: int
    parameters: int
    step_seconds: float | None
    step_time_ratio: float | None
    seconds: float
    calibration_error: float | None = None
    brier: float | None = None
    dead_share: float | None = None
    peak_memory: int | None = None


@dataclass(frozen=True)
class Depth:
    """The content of `depth.json`: what a run looks like from its first layer to its last.

    Both parts are in the order in which the layers run.

    Attributes:
        layers: Names of the layers with a weight matrix or kernel.
        start_gradients: Norm of the loss gradient of each layer's weights at the start of the run, on one batch.
        gradients: The same with the weights that the rule chose.
        activations: Names of the activation modules.
        start_dead: Share of each activation's units that are dead at the start, 0 to 1; see `RunResult.dead_share`.
        dead: The same with the weights that the rule chose.
    """

    layers: tuple[str, ...]
    start_gradients: tuple[float, ...]
    gradients: tuple[float, ...]
    activations: tuple[str, ...]
    start_dead: tuple[float, ...]
    dead: tuple[float, ...]


@dataclass(frozen=True)
class EpochMetrics:
    """One line of `metrics.jsonl`: one finished epoch, counted from 1.

    Attributes:
        epoch: Number of the epoch.
        train_loss: Mean cross-entropy over the epoch's batches as they were trained on, in nats.
        train_accuracy: Fraction of the targets predicted right over the same batches.
        validation_loss: Mean cross-entropy on the validation set after the epoch.
        validation_accuracy: Fraction of the validation set's targets predicted right after the epoch.
        learning_rate: Learning rate of the epoch's last step.
        seconds: Wall time of the epoch's training steps, validation aside.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The content of `comparison.json`: what makes two comparisons the same, and the runs that are wanted.

    Attributes:
        recipe: The recipe as nested plain values, without activations, baseline and seeds.
        baseline: Activation that the others are compared with; one of `activations`.
        device: Type of the device, such as "cpu".
        threads: CPU threads of torch; their number changes the last bits of a result.
        data: Checksum of each split of the data.
        activations: Canonical strings, in the order in which they were asked for.
        seeds: Number of seeds; the runs have the seeds 0 to seeds - 1.
    """

    recipe: dict[str, Any]
    baseline: str
    device: str
    threads: int
    data: dict[str, str]
    activations: tuple[str, ...]
    seeds: int

    def runs(self) -> list[tuple[str, int]]:
        """List the planned runs, seed by seed, so that an unfinished comparison is paired as far as it goes."""
        return [(activation, seed) for seed in range(self.seeds) for activation in self.activations]


@dataclass(frozen=True)
class Comparison:
    """Everything a report needs, read from the output folder alone.

    Attributes:
        folder: The output folder.
        recipe: The recipe as nested plain values.
        activations: Canonical strings, in the order in which they were asked for.
        baseline: One of `activations`.
        seeds: Number of seeds of the plan.
        results: Results of the runs that ended, finished and failed, in the order of the plan.
        curves: (activation, seed) -> finished epochs, for the same runs.
        environment: env.json of the run that ended last: versions, hardware, git state, command. Empty without a run.
        missing: Planned runs without a result yet.
        depths: (activation, seed) -> what was measured by depth, for the finished runs that have it.
    """

    folder: Path
    recipe: dict[str, Any]
    activations: tuple[str, ...]
    baseline: str
    seeds: int
    results: tuple[RunResult, ...]
    curves: dict[tuple[str, int], tuple[EpochMetrics, ...]]
    environment: dict[str, Any]
    missing: tuple[tuple[str, int], ...]
    depths: dict[tuple[str, int], Depth] = field(default_factory=dict["tuple[str, int]", Depth])
