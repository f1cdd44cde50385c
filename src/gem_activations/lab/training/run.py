"""Train one run: epochs, validation, checkpoints, and the test set scored once at the end.

Every random number comes from the run's seed through a stream of its own (weights, order, noise, augmentation), so
that runs of equal seed share initial weights, data order and augmentation whatever their activation, and a resumed
run equals one never stopped.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.classifiers import count_parameters
from ..recipes.pipeline import Recipe
from ..store.comparison import FINISHED, Depth, EpochMetrics, RunResult
from .checkpoint import load_checkpoint, save_checkpoint
from .diagnostics import describe_depth, profile
from .evaluation import Score, evaluate
from .group import Alone, Group
from .memory import measure_peak, reset_peak
from .optimisation import learning_rates
from .step import Record, Stepper, autocast
from .streams import AUGMENTATION, NOISE, WEIGHTS, derive_seed, epoch_order, step_batches
from .tasks import SplitName, Task
from .timing import measure_step_ratio

_FORMAT = 2  # Of a checkpoint.
_UNTESTED: dict[str, Any] = dict.fromkeys(("test_accuracy", "test_loss", "step_time_ratio"))

EpochListener = Callable[[list[EpochMetrics]], None]


class NotFiniteError(ArithmeticError):
    """The loss of a run became NaN or infinite."""


class Run:
    """One run in memory: model, optimiser, learning rates, best weights so far, finished epochs.

    Args:
        recipe: How it is trained.
        activation: Canonical string of the catalog.
        seed: Seed of the run.
        task: What is trained, on the device of the run.
        identity: Plain values that a checkpoint must repeat to be continued.
        group: The processes that train this run together; all of them construct it and call `train`.
    """

    def __init__(
        self,
        recipe: Recipe,
        activation: str,
        seed: int,
        task: Task,
        identity: dict[str, Any] | None = None,
        group: Group | None = None,
    ) -> None:
        recipe = recipe.for_arm(activation)
        self.recipe, self.activation, self.seed, self.task = recipe, activation, seed, task.replicate(seed)
        self.identity, self.group = identity or {}, group or Alone()
        self.device, self.examples = self.task.device, self.task.sizes["train"]
        self.metrics: list[EpochMetrics] = []
        self.best: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.depth: Depth | None = None
        reset_peak(self.device)
        self.peak = 0
        self.model = self.make_model(activation)
        self.rates = learning_rates(recipe.training, recipe.training.total_steps(self.examples))
        self.stepper = Stepper(self.model, self.task, recipe.training, torch.Generator(self.device), self.group)
        torch.manual_seed(derive_seed(seed, NOISE))

    def make_model(self, activation: str) -> nn.Module:
        """Build the model with the initial weights of this run's seed and any activation."""
        model = self.task.make_model(activation, derive_seed(self.seed, WEIGHTS))
        if self.recipe.training.channels_last:
            model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] -- the stubs leave it out
        return model

    def train(self, checkpoint: Path, on_epoch: EpochListener) -> RunResult:
        """Train from the checkpoint, or from the start where there is none, and score the split of the recipe.

        Args:
            checkpoint: File that is written after every epoch.
            on_epoch: Called with all finished epochs, at the start and after each, once its checkpoint is written.
        Raises: NotFiniteError: a loss is NaN or infinite; StoreError: the checkpoint cannot be written.
        """
        self.advance(checkpoint, on_epoch)
        return self._score()

    def advance(self, checkpoint: Path, on_epoch: EpochListener) -> None:
        """Train to the last epoch without scoring, which is all that ranks above 0 do; see `train`."""
        self.resume(checkpoint)
        self.group.agree(len(self.metrics), "the epochs of the checkpoint")
        on_epoch(self.metrics)
        for epoch in range(len(self.metrics) + 1, self.epochs + 1):
            started = time.perf_counter()
            self.metrics.append(self._run_epoch(epoch))
            self.seconds += time.perf_counter() - started
            if self.group.rank == 0:
                save_checkpoint(checkpoint, self.state())
            on_epoch(self.metrics)

    @property
    def epochs(self) -> int:
        """The epochs of the whole run."""
        return math.ceil(len(self.rates) / self.recipe.training.steps_of_epoch(self.examples))

    def state(self) -> dict[str, Any]:
        """Give all that a resumption needs, as tensors and plain values.

        The data position is the number of steps done: it fixes, with the seed, the order and the augmentation.
        """
        return {
            "format": _FORMAT,
            "identity": self.identity,
            "steps": self._steps_before(len(self.metrics) + 1),
            "model": self.model.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "best": self.best,
            "metrics": [dataclasses.asdict(epoch) for epoch in self.metrics],
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "seconds": self.seconds,
            "peak": max(self.peak, measure_peak(self.device)),
        }

    def resume(self, checkpoint: Path) -> bool:
        """Take over the state of a checkpoint; False where there is none that is intact and of this very run."""
        state = load_checkpoint(checkpoint, self.device)
        if state is None or (state.get("format"), state.get("identity")) != (_FORMAT, self.identity):
            return False
        self.model.load_state_dict(state["model"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.best, self.peak = state["best"], state["peak"]
        self.metrics = [EpochMetrics(**epoch) for epoch in state["metrics"]]
        self.seconds = state["seconds"]
        torch.set_rng_state(state["random"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"].cpu(), self.device)
        return True

    def _steps_before(self, epoch: int) -> int:
        return min((epoch - 1) * self.recipe.training.steps_of_epoch(self.examples), len(self.rates))

    def _run_epoch(self, epoch: int) -> EpochMetrics:
        started = time.perf_counter()
        first, last = self._steps_before(epoch), self._steps_before(epoch + 1)
        training = self.recipe.training
        whole = training.epoch_steps is not None
        batches = step_batches(self.seed, range(first, last), training.batch_size, self.examples, whole=whole)
        self.stepper.generator.manual_seed(derive_seed(self.seed, AUGMENTATION, epoch))
        if self.group.rank:  # Noise of its own in each process, and the same whether the run was resumed or not.
            torch.manual_seed(derive_seed(self.seed, NOISE, epoch, self.group.rank))
        record = self.stepper.train(self.rates[first:last], [batch.to(self.device) for batch in batches])
        loss, accuracy = self._summarise(record, batches, epoch)
        seconds = time.perf_counter() - started
        score = self._evaluate("validation")
        if not math.isfinite(score.loss):
            raise NotFiniteError(f"the validation loss is not finite after epoch {epoch}")
        lowest = all(score.loss < past.validation_loss for past in self.metrics)
        if self.recipe.selection == "lowest-validation-loss" and lowest:
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return EpochMetrics(
            epoch=epoch,
            train_loss=loss,
            train_accuracy=accuracy,
            validation_loss=score.loss,
            validation_accuracy=score.accuracy,
            learning_rate=self.rates[last - 1],
            seconds=seconds,
        )

    def _summarise(self, record: Record, batches: list[Tensor], epoch: int) -> tuple[float, float]:
        """Give loss and accuracy of an epoch's training; here the device is waited for."""
        losses = self.group.total(torch.stack(record.losses))
        right, targets = self.group.total(record.counts()).tolist()
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            raise NotFiniteError(f"the training loss is not finite at step {int(bad[0]) + 1} of epoch {epoch}")
        sizes = torch.tensor([len(batch) for batch in batches], device=self.device)
        return float((losses * sizes).sum() / sizes.sum()), right / max(1, targets)

    def _evaluate(self, split: SplitName, *, calibration: bool = False) -> Score:
        with autocast(self.device, self.recipe.training):
            return evaluate(self.model, self.task.evaluation_batches(split), calibration=calibration)

    def _score(self) -> RunResult:
        """Score the chosen weights on the test set, unless the recipe leaves it alone, and make the result."""
        started = time.perf_counter()
        chosen = self.metrics[-1]
        if self.recipe.selection == "lowest-validation-loss":
            chosen = min(self.metrics, key=lambda epoch: epoch.validation_loss)
            self.model.load_state_dict(self.best)
        tested = self._test() if self.recipe.scored == "test" else _UNTESTED
        steps = [self._steps_before(epoch.epoch + 1) - self._steps_before(epoch.epoch) for epoch in self.metrics]
        return RunResult(
            activation=self.activation,
            seed=self.seed,
            status=FINISHED,
            reason="",
            validation_accuracy=chosen.validation_accuracy,
            validation_loss=chosen.validation_loss,
            best_epoch=chosen.epoch,
            epochs=len(self.metrics),
            parameters=count_parameters(self.model),
            step_seconds=statistics.median(
                epoch.seconds / count for epoch, count in zip(self.metrics, steps, strict=True)
            ),
            seconds=self.seconds + time.perf_counter() - started,
            **tested,
        )

    def _test(self) -> dict[str, Any]:
        """Score the test set, look inside the model and measure the step time: fields of `RunResult`."""
        score = self._evaluate("test", calibration=True)
        if not math.isfinite(score.loss):
            raise NotFiniteError("the test loss is not finite")
        peak = max(self.peak, measure_peak(self.device))
        return {
            "test_accuracy": score.accuracy,
            "test_loss": score.loss,
            "calibration_error": score.calibration_error,
            "brier": score.brier,
            "dead_share": self._look_inside(),
            "step_time_ratio": self._measure_ratio(),
            "peak_memory": peak or None,
        }

    def _look_inside(self) -> float | None:
        """Profile the model at its start and with the chosen weights; give the share of dead units of the latter."""
        noise = torch.Generator(self.device).manual_seed(derive_seed(self.seed, AUGMENTATION, 0))
        training = self.recipe.training
        indices = epoch_order(self.seed, 0, self.examples)[: self._most_at_once()].to(self.device)
        batch = self.task.train_batch(indices, noise)
        start, end = (
            profile(model, self.activation, batch, training) for model in (self.make_model(self.activation), self.model)
        )
        self.depth = describe_depth(start, end)
        return end.dead_share

    def _most_at_once(self) -> int:
        """Give the examples that are known to fit into this process's memory: those of one pass in training."""
        training = self.recipe.training
        share = math.ceil(training.batch_size / self.group.size)
        return min(share, training.micro_batch or share)

    def _measure_ratio(self) -> float:
        """Time throwaway copies of the model, so that nothing of the run is touched."""
        training = self.recipe.training
        if self.group.size > 1:  # This process takes the whole batch here, but has room for its share only.
            training = dataclasses.replace(training, micro_batch=self._most_at_once())
        order = epoch_order(self.seed, 0, self.examples).to(self.device)
        batches = order.split(training.batch_size)

        def stepper(activation: str) -> Callable[[int], None]:
            noise = torch.Generator(self.device).manual_seed(0)
            model = self.make_model(activation)
            timed = Stepper(model, self.task, training, noise, Alone())

            def step(index: int) -> None:
                timed.train([training.learning_rate], [batches[index % max(1, len(batches) - 1)]])

            return step

        fewest = 3 if self.recipe.scale == "smoke" else 15  # A smoke run has fewer steps than a good measurement.
        return measure_step_ratio(stepper(self.activation), stepper("relu"), self.device, fewest)
