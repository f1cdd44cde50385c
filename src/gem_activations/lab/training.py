"""Train one run: epochs, validation, checkpoints, and the test set scored once at the end.

Every random number comes from the run's seed through a stream of its own (weights, order, noise), so that runs of
equal seed share initial weights and data order whatever their activation, and a resumed run equals one never stopped.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .checkpoint import load_checkpoint, save_checkpoint
from .data import Dataset, Split
from .models import build_model, count_parameters
from .recipes import Recipe, Training
from .store import FINISHED, EpochMetrics, RunResult
from .timing import measure_step_ratio

_WEIGHTS, _ORDER, _NOISE = range(3)
_EVALUATION_BATCH = 1000
_FORMAT = 1  # Of a checkpoint.

EpochListener = Callable[[list[EpochMetrics]], None]


class NotFiniteError(ArithmeticError):
    """The loss of a run became NaN or infinite."""


class Run:
    """One run in memory: model, optimiser, learning rates, best weights so far, finished epochs.

    Args:
        recipe: What is trained and how.
        activation: Canonical string of the catalog.
        seed: Seed of the run.
        dataset: The data, on the device of the run.
        identity: Plain values that a checkpoint must repeat to be continued.
    """

    def __init__(
        self, recipe: Recipe, activation: str, seed: int, dataset: Dataset, identity: dict[str, Any] | None = None
    ) -> None:
        self.recipe, self.activation, self.seed, self.dataset = recipe, activation, seed, dataset
        self.identity = identity or {}
        self.device = dataset.train.x.device
        self.metrics: list[EpochMetrics] = []
        self.best: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.model = self.make_model(activation)
        self.steps = math.ceil(len(dataset.train.y) / recipe.training.batch_size)
        self.optimizer = make_optimizer(self.model, recipe.training)
        self.rates = learning_rates(recipe.training, recipe.training.epochs * self.steps)
        torch.manual_seed(derive_seed(seed, _NOISE))

    def make_model(self, activation: str) -> nn.Module:
        """Build the model with the initial weights of this run's seed and any activation."""
        shape, classes = self.dataset.shape, self.dataset.classes
        weights = derive_seed(self.seed, _WEIGHTS)
        return build_model(self.recipe.model, activation, shape, classes, weights).to(self.device)

    def train(self, checkpoint: Path, on_epoch: EpochListener) -> RunResult:
        """Train from the checkpoint, or from the start where there is none, and score the test set.

        Args:
            checkpoint: File that is written after every epoch.
            on_epoch: Called with all finished epochs, at the start and after each, once its checkpoint is written.
        Raises: NotFiniteError: a loss is NaN or infinite; StoreError: the checkpoint cannot be written.
        """
        self.resume(checkpoint)
        on_epoch(self.metrics)
        for epoch in range(len(self.metrics) + 1, self.recipe.training.epochs + 1):
            started = time.perf_counter()
            self.metrics.append(self._run_epoch(epoch))
            self.seconds += time.perf_counter() - started
            save_checkpoint(checkpoint, self.state())
            on_epoch(self.metrics)
        return self._score()

    def state(self) -> dict[str, Any]:
        """Give all that a resumption needs, as tensors and plain values; the epoch fixes the data order."""
        return {
            "format": _FORMAT,
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "metrics": [asdict(epoch) for epoch in self.metrics],
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "seconds": self.seconds,
        }

    def resume(self, checkpoint: Path) -> bool:
        """Take over the state of a checkpoint; False where there is none that is intact and of this very run."""
        state = load_checkpoint(checkpoint, self.device)
        if state is None or (state.get("format"), state.get("identity")) != (_FORMAT, self.identity):
            return False
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = state["best"]
        self.metrics = [EpochMetrics(**epoch) for epoch in state["metrics"]]
        self.seconds = state["seconds"]
        torch.set_rng_state(state["random"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"].cpu(), self.device)
        return True

    def _run_epoch(self, epoch: int) -> EpochMetrics:
        started = time.perf_counter()
        order = epoch_order(self.seed, epoch, len(self.dataset.train.y)).to(self.device)
        batches = order.split(self.recipe.training.batch_size)
        rates = self.rates[(epoch - 1) * self.steps : epoch * self.steps]
        losses, outputs = train_epoch(self.model, self.optimizer, rates, self.dataset.train, batches)
        bad = (~losses.isfinite()).nonzero()
        seconds = time.perf_counter() - started
        if len(bad):
            raise NotFiniteError(f"the training loss is not finite at step {int(bad[0]) + 1} of epoch {epoch}")
        sizes = torch.tensor([len(batch) for batch in batches], device=self.device)
        loss, accuracy = evaluate(self.model, self.dataset.validation)
        if not math.isfinite(loss):
            raise NotFiniteError(f"the validation loss is not finite after epoch {epoch}")
        if all(loss < past.validation_loss for past in self.metrics):
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return EpochMetrics(
            epoch=epoch,
            train_loss=float((losses * sizes).sum() / sizes.sum()),
            train_accuracy=float((outputs.argmax(1) == self.dataset.train.y[order]).float().mean()),
            validation_loss=loss,
            validation_accuracy=accuracy,
            learning_rate=rates[-1],
            seconds=seconds,
        )

    def _score(self) -> RunResult:
        """Score the chosen weights on the test set, measure the step time, and make the result."""
        started = time.perf_counter()
        chosen = min(self.metrics, key=lambda epoch: epoch.validation_loss)
        self.model.load_state_dict(self.best)
        loss, accuracy = evaluate(self.model, self.dataset.test)
        if not math.isfinite(loss):
            raise NotFiniteError("the test loss is not finite")
        ratio = self._measure_ratio()
        return RunResult(
            activation=self.activation,
            seed=self.seed,
            status=FINISHED,
            reason="",
            test_accuracy=accuracy,
            test_loss=loss,
            validation_accuracy=chosen.validation_accuracy,
            validation_loss=chosen.validation_loss,
            best_epoch=chosen.epoch,
            epochs=len(self.metrics),
            parameters=count_parameters(self.model),
            step_seconds=statistics.median(epoch.seconds for epoch in self.metrics) / self.steps,
            step_time_ratio=ratio,
            seconds=self.seconds + time.perf_counter() - started,
        )

    def _measure_ratio(self) -> float:
        """Time throwaway copies of the model, so that nothing of the run is touched."""
        train, training = self.dataset.train, self.recipe.training
        batches = epoch_order(self.seed, 0, len(train.y)).to(self.device).split(training.batch_size)

        def stepper(activation: str) -> Callable[[int], None]:
            model = self.make_model(activation)
            optimizer = make_optimizer(model, training)

            def step(index: int) -> None:
                batch = batches[index % max(1, len(batches) - 1)]
                train_epoch(model, optimizer, [training.learning_rate], train, (batch,))

            return step

        return measure_step_ratio(stepper(self.activation), stepper("relu"), self.device)


def derive_seed(seed: int, *stream: int) -> int:
    """Give the seed of one stream of random numbers of a run: streams are independent, 63 bits.

    Example:
        >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence((seed, *stream)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def epoch_order(seed: int, epoch: int, examples: int) -> Tensor:
    """Give the order of the training examples in an epoch, a function of seed and epoch alone: int64, on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, _ORDER, epoch))
    return torch.randperm(examples, generator=generator)


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Make the optimiser of a run."""
    return torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )


def learning_rates(training: Training, steps: int) -> list[float]:
    """Give the learning rate of each step of a run.

    They are read off torch's scheduler once: run beside the steps it costs 3 % of a small one, and has a state.
    """
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=training.learning_rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=steps + 1, pct_start=training.warm_up, cycle_momentum=False
    )
    rates: list[float] = []
    for _ in range(steps):
        rates.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return rates


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, rates: list[float], split: Split, batches: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Train on batches of indices, one step each, at the given learning rates.

    Losses and logits stay on the device until the end: reading one number a step would make every step wait.

    Returns: The loss of each step, (steps,), and the logits of each example in the order trained, (N, classes).
    """
    losses: list[Tensor] = []
    outputs: list[Tensor] = []
    model.train()
    for batch, rate in zip(batches, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = model(split.x[batch])
        loss = functional.cross_entropy(logits, split.y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        outputs.append(logits.detach())
    return torch.stack(losses), torch.cat(outputs)


def evaluate(model: nn.Module, split: Split) -> tuple[float, float]:
    """Give mean cross-entropy, in nats, and accuracy, 0 to 1, of a model on a split."""
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model(x) for x in split.x.split(_EVALUATION_BATCH)])
        loss = functional.cross_entropy(logits, split.y)
        return float(loss), float((logits.argmax(1) == split.y).double().mean())
