"""Train one run of a recipe: epochs, validation, and the test set scored once at the end.

Every random number comes from the run's seed through a stream of its own (weights, order, noise, augmentation), so
that runs of equal seed share initial weights, data order and augmentation whatever their activation, and a resumed
run equals one never stopped.
"""

import contextlib
import dataclasses
import math
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...spec import GemSpec
from ...torch import ScaleReport, ScaleSchedule, calibrate_, check_scale
from ...torch.modules import named_members
from ..models import Factory, count_parameters
from ..recipes.arms import Arm, parse_arm
from ..recipes.pipeline import Recipe
from ..store.comparison import DEPTH, SCALE, Depth, write_json
from .evaluation import Score, evaluate, profile
from .group import Group
from .run import NotFiniteError, Run
from .step import (
    AUGMENTATION,
    NOISE,
    WEIGHTS,
    Record,
    Stepper,
    autocast,
    derive_seed,
    epoch_order,
    learning_rates,
    step_batches,
)
from .tasks import Batch, SplitName, Task, load_task

_WARM_UP = 3
_MOST = 60  # Pairs.
_BUDGET = 0.5  # Seconds after which no pair beyond the least number is measured.
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
SCALE_COLUMNS = ("name", "sigma", "scale", "eps", "rho", "chi", "gain", "gate_closed", "reason")
_UNTESTED: dict[str, Any] = dict.fromkeys(("test_accuracy", "test_loss", "step_time_ratio"))


class Trainer:
    """One run of a recipe in memory: model, optimiser, learning rates, best weights so far, finished epochs.

    Args:
        activation: Name of the arm.
        task: What is trained, on the device of the run.
        group: The processes that train this run together; all of them construct it and call `train` or `advance`.
        make: The arm, or what makes a module of the user's own activation; None for the arm that the string names.
    """

    def __init__(
        self,
        recipe: Recipe,
        activation: str,
        seed: int,
        task: Task,
        group: Group | None = None,
        make: Factory | None = None,
    ) -> None:
        recipe = recipe.for_arm(activation)
        self.recipe, self.activation, self.seed, self.task = recipe, activation, seed, task.replicate(seed)
        make = make or parse_arm(activation)
        self.group = group or Group()
        self.arm, self.own = (make, str(make)) if isinstance(make, Arm) else (None, make)
        self.device, self.examples = self.task.device, self.task.sizes["train"]
        self.metrics: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        reset_peak(self.device)
        self.peak = 0
        self.model = self.make_model(self.own)
        self.rates = learning_rates(recipe.training, recipe.training.total_steps(self.examples))
        noise = torch.Generator(self.device)
        self.schedule = self._schedule(self.model)
        self.stepper = Stepper(self.model, self.task, recipe.training, noise, self.group, self.schedule)
        torch.manual_seed(derive_seed(seed, NOISE))

    def make_model(self, activation: str | Factory) -> nn.Module:
        """Build the model with the initial weights of this run's seed; this run's own activation is calibrated."""
        model = self.task.make_model(activation, derive_seed(self.seed, WEIGHTS))
        if self.recipe.training.channels_last:
            model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] -- the stubs leave it out
        if activation is self.own and self.arm is not None and self.arm.ratio is not None:
            with autocast(self.device, self.recipe.training):
                calibrate_(model, self._first_batch().inputs, float(self.arm.ratio))
        return model

    def _first_batch(self) -> Batch:
        """Return the examples of the first step, as many as one process has room for, with noise of their own."""
        noise = torch.Generator(self.device).manual_seed(derive_seed(self.seed, AUGMENTATION, 0))
        indices = epoch_order(self.seed, 0, self.examples)[: self._most_at_once()].to(self.device)
        return self.task.train_batch(indices, noise)

    def _schedule(self, model: nn.Module) -> ScaleSchedule | None:
        """Return the schedule of the scales of a model of this run's own activation, None if they have none."""
        if self.arm is None or self.arm.end is None:
            return None
        assert self.arm.ratio is not None
        return ScaleSchedule(model, 1.0, float(self.arm.end / self.arm.ratio), len(self.rates), relative=True)

    def _check_scale(self, run: Run) -> dict[str, float | None]:
        """Check the scales of a member of the family before the first step; store the table, return its extremes."""
        if self.arm is None or self.arm.base.spec is None:
            return {}
        with autocast(self.device, self.recipe.training):
            report = check_scale(self.model, self._first_batch().inputs)
        rows = [{name: getattr(row, name) for name in SCALE_COLUMNS} for row in report.rows]
        write_json(run.folder / SCALE, {"rows": rows, "warnings": report.warnings})
        return {"rho": max((row.rho for row in report.rows if row.rho is not None), default=None), "chi": report.chi}

    def train(self, run: Run) -> dict[str, float | None]:
        """Train from the run's checkpoint, or from the start, and score the split of the recipe.

        Returns: The figures of the run, by name:
            test_accuracy: Fraction of the test set's targets that are predicted right, 0 to 1, of the weights the rule
                chose. A target is an image's class, or a token.
            test_loss: Mean cross-entropy of a target of the test set, in nats, of the same weights: the negative
                log-likelihood. For text its exponential is the perplexity.
            validation_accuracy, validation_loss: Of the epoch that the rule chose.
            best_epoch: The epoch that the rule chose, counted from 1.
            parameters: Number of trained scalars of the model.
            step_seconds: Seconds of one training step, the median over the run's epochs.
            step_time_ratio: Step time over that of the same model with ReLU, measured in this run.
            calibration_error: Expected calibration error on the test set, 15 bins, 0 to 1.
            brier: Brier score on the test set, summed over the classes, 0 to 2.
            dead_share: Share of the activation's units whose slope is below 1e-6 on every example looked at, 0 to 1,
                of the weights the rule chose.
            rho: Of a member of the family, the largest scale over the deviation of its pre-activations, before the
                first step; chi: the product of chi over the depth there, see `gem_activations.torch.check_scale`.
            scale_change: Of a learnt scale, the largest change of a module's scale over what it was at the start, of
                the weights the rule chose.
            peak_memory: Most memory of the run in bytes: on a GPU, what torch held; on a CPU, the whole process. None
                if the system does not tell.
        A recipe that leaves the test set alone has the figures of the test set as None, or not at all.
        Raises: NotFiniteError: a loss is NaN or infinite; StoreError: the checkpoint cannot be written.
        """
        checked = self._check_scale(run)
        self.advance(run)
        return self._score(run) | checked

    def advance(self, run: Run) -> None:
        """Train to the last epoch without scoring, which is all that ranks above 0 do; see `train`."""
        for epoch in run.epochs(self.epochs, trainer=self):
            self.metrics.append(self._run_epoch(epoch + 1))
            run.log(steps=self._steps_before(epoch + 2), **self.metrics[-1])

    @property
    def epochs(self) -> int:
        """The epochs of the whole run."""
        return math.ceil(len(self.rates) / self.recipe.training.steps_of_epoch(self.examples))

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumption needs but the random states, as tensors and plain values.

        The data position is the number of steps done: it fixes, with the seed, the order and the augmentation.
        """
        return {
            "steps": self._steps_before(len(self.metrics) + 1),
            "model": self.model.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "best": self.best,
            "metrics": self.metrics,
            "peak": max(self.peak, measure_peak(self.device)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.best, self.peak, self.metrics = state["best"], state["peak"], state["metrics"]

    def _steps_before(self, epoch: int) -> int:
        return min((epoch - 1) * self.recipe.training.steps_of_epoch(self.examples), len(self.rates))

    def _run_epoch(self, epoch: int) -> dict[str, float]:
        """Train an epoch, counted from 1, and return what is logged of it.

        The training loss is the mean cross-entropy over the epoch's batches as they were trained on, in nats; the
        accuracies are fractions of the targets; the learning rate is that of the last step; the seconds are those of
        the training steps, validation aside.
        """
        started = time.perf_counter()
        first, last = self._steps_before(epoch), self._steps_before(epoch + 1)
        training = self.recipe.training
        whole = training.epoch_steps is not None
        batches = step_batches(self.seed, range(first, last), training.batch_size, self.examples, whole=whole)
        self.stepper.generator.manual_seed(derive_seed(self.seed, AUGMENTATION, epoch))
        if self.schedule is not None:
            self.schedule.step(to=first)
        if self.group.rank:  # Noise of its own in each process, and the same whether the run was resumed or not.
            torch.manual_seed(derive_seed(self.seed, NOISE, epoch, self.group.rank))
        record = self.stepper.train(self.rates[first:last], [batch.to(self.device) for batch in batches])
        loss, accuracy = self._summarise(record, batches, epoch)
        seconds = time.perf_counter() - started
        score = self._evaluate("validation")
        if not math.isfinite(score.loss):
            raise NotFiniteError(f"the validation loss is not finite after epoch {epoch}")
        lowest = all(score.loss < past["validation_loss"] for past in self.metrics)
        if self.recipe.selection == "lowest-validation-loss" and lowest:
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return {
            "train_loss": loss,
            "train_accuracy": accuracy,
            "validation_loss": score.loss,
            "validation_accuracy": score.accuracy,
            "learning_rate": self.rates[last - 1],
            "seconds": seconds,
        }

    def _summarise(self, record: Record, batches: list[Tensor], epoch: int) -> tuple[float, float]:
        """Return loss and accuracy of an epoch's training; here the device is waited for."""
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

    def _score(self, run: Run) -> dict[str, float | None]:
        """Score the chosen weights on the test set, unless the recipe leaves it alone, and return the figures."""
        losses, best = [epoch["validation_loss"] for epoch in self.metrics], len(self.metrics)
        if self.recipe.selection == "lowest-validation-loss":
            best = 1 + losses.index(min(losses))
            self.model.load_state_dict(self.best)
        if self.schedule is not None:  # It is not in the state.
            self.schedule.step(to=self._steps_before(best + 1))
        tested = self._test(run) if self.recipe.scored == "test" else _UNTESTED
        return {
            "validation_accuracy": self.metrics[best - 1]["validation_accuracy"],
            "validation_loss": losses[best - 1],
            "best_epoch": best,
            "parameters": count_parameters(self.model),
            "step_seconds": statistics.median(
                row["seconds"] / (self._steps_before(epoch + 1) - self._steps_before(epoch))
                for epoch, row in enumerate(self.metrics, start=1)
            ),
            **tested,
        }

    def _test(self, run: Run) -> dict[str, float | None]:
        """Score the test set, profile the model at its start and with the chosen weights, and measure the step time."""
        score = self._evaluate("test", calibration=True)
        if not math.isfinite(score.loss):
            raise NotFiniteError("the test loss is not finite")
        peak = max(self.peak, measure_peak(self.device))
        batch, fresh = self._first_batch(), self.make_model(self.own)
        start, end = (profile(model, self.own, batch, self.recipe.training) for model in (fresh, self.model))
        depth = Depth(
            layers=tuple(start.gradients),
            start_gradients=tuple(start.gradients.values()),
            gradients=tuple(end.gradients.values()),
            activations=tuple(start.dead),
            start_dead=tuple(start.dead.values()),
            dead=tuple(end.dead.values()),
        )
        write_json(run.folder / DEPTH, depth)
        looked: dict[str, float | None] = {"dead_share": end.dead_share}
        if self.arm is not None and self.arm.trainable:
            before, now = ([part.spec.scale for _, part in named_members(model)] for model in (fresh, self.model))
            looked["scale_change"] = max((b / a - 1 for a, b in zip(before, now, strict=True)), key=abs)
        return {
            "test_accuracy": score.accuracy,
            "test_loss": score.loss,
            "calibration_error": score.calibration_error,
            "brier": score.brier,
            **looked,
            "step_time_ratio": self._measure_ratio(),
            "peak_memory": peak or None,
        }

    def _most_at_once(self) -> int:
        """Return the examples that are known to fit into this process's memory: those of one pass in training."""
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

        def stepper(activation: str | Factory) -> Callable[[int], None]:
            noise = torch.Generator(self.device).manual_seed(0)
            model = self.make_model(activation)
            schedule = self._schedule(model) if activation is self.own else None
            timed = Stepper(model, self.task, training, noise, Group(), schedule)

            def step(index: int) -> None:
                timed.train([training.learning_rate], [batches[index % max(1, len(batches) - 1)]])

            return step

        fewest = 3 if self.recipe.scale == "smoke" else 15  # A smoke run has fewer steps than a good measurement.
        return measure_step_ratio(stepper(self.own), stepper("relu"), self.device, fewest)


def measure_step_ratio(
    step: Callable[[int], None], reference: Callable[[int], None], device: torch.device, fewest: int = 15
) -> float:
    """Return the time of a training step over that of a reference step: the median ratio of interleaved pairs.

    Each pair does the batch of the same index, in alternating order, so that neither kind has the warmer caches or the
    quieter machine. The global random state is left as it was.

    Args:
        fewest: Pairs that are measured however long they take.
    """

    def seconds(one: Callable[[int], None]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        one(len(ratios))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for index in range(_WARM_UP):
            step(index)
            reference(index)
        ratios: list[float] = []
        begun = time.perf_counter()
        while len(ratios) < fewest or (len(ratios) < _MOST and time.perf_counter() - begun < _BUDGET):
            order = (reference, step) if len(ratios) % 2 else (step, reference)
            taken = {one: seconds(one) for one in order}
            ratios.append(taken[step] / taken[reference])
    return statistics.median(ratios)


def reset_peak(device: torch.device) -> None:
    """Forget the peaks so far. On a CPU this needs Linux; elsewhere peaks are those of the process's life."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            _CLEAR.write_text(_RESET_PEAK)


def measure_peak(device: torch.device) -> int:
    """Return the peak since `reset_peak`, in bytes; 0 if the system does not tell.

    On a GPU: what torch held in tensors, data included. On a CPU: the resident memory of the whole process, libraries
    and data included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0


def measure_scale(
    recipe: Recipe, spec: GemSpec, seed: int, data_dir: Path | None, ratio: float | None = None
) -> ScaleReport:
    """Check the scale of a member of the family in a recipe's model on its first batch, in training mode.

    Args:
        seed: Of the initial weights and of the batch's augmentation.
        ratio: Calibrate to this ratio instead; None checks the scale as it is.
    Raises: DataError: the data are missing or damaged; SettingError: a ratio that is not above 0; ModelError: a model
        without a module of the family.
    """
    task = load_task(recipe, data_dir)
    model = task.make_model(str(spec), seed).train()
    indices = torch.arange(min(recipe.training.batch_size, task.sizes["train"]), device=task.device)
    batch = task.train_batch(indices, torch.Generator(task.device).manual_seed(seed)).inputs
    return check_scale(model, batch) if ratio is None else calibrate_(model, batch, ratio)
