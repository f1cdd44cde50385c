"""One training step and what it needs: optimiser, learning rates, and random streams.

All streams come from the run's seed: runs of equal seed share weights, order and augmentation.
"""

import contextlib
import math
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...torch import ScaleSchedule, weight_decay_groups
from ..recipes.pipeline import Training
from .group import Group
from .tasks import IGNORED, Batch, Task

WEIGHTS, ORDER, NOISE, AUGMENTATION = range(4)
_DROP = 0.1
_START, _END = 25.0, 1e4  # Of "one-cycle": highest rate over the first, first over the last.
_WAITING = 1 << 22  # Logits that may wait to be counted: 16 MB.


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Make the optimiser of a run; its learning rates are set step by step, see `learning_rates`.

    All parameters are in one group, or in two if some do not decay: all but matrices if the training says so, and a
    learnt scale always.

    Example:
        >>> training = Training(epochs=1, batch_size=2, learning_rate=0.1, decay="matrices")
        >>> groups = make_optimizer(nn.Linear(3, 2), training).param_groups
        >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
        [(1, 0.01), (1, 0.0)]
    """
    groups: list[dict[str, object]] = weight_decay_groups(model, training.weight_decay)
    if training.decay == "matrices":
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in parameters if parameter.dim() >= 2]
        others = [parameter for parameter in parameters if parameter.dim() < 2]
        groups = [{"params": matrices, "weight_decay": training.weight_decay}]
        groups += [{"params": others, "weight_decay": 0.0}] if others else []
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum, fused=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimizer]
    return kind(groups, lr=training.learning_rate, betas=training.betas, fused=True)


def learning_rates(training: Training, steps: int) -> list[float]:
    """Return the learning rate of each of so many steps.

    They are known before the run: a scheduler run beside the steps costs 3 % of a small one, and has a state.

    Example:
        >>> training = Training(1, 2, 0.4, schedule="multistep", warm_up=0.0, milestones=(0.5, 0.75))
        >>> [round(rate, 4) for rate in learning_rates(training, 4)]
        [0.4, 0.4, 0.04, 0.004]
    """
    if training.schedule == "one-cycle":
        return _one_cycle(training, steps)
    warm, low = round(training.warm_up * steps), training.final_rate
    last = max(1, steps - warm - 1)

    def share(step: int) -> float:
        """Return the share of the highest rate at a step after the warm-up."""
        if training.schedule == "multistep":
            # The milestones are those of the whole run, so that a warm-up does not move them.
            return _DROP ** sum(warm + step >= round(part * steps) for part in training.milestones)
        if training.schedule == "cosine":
            return low + (1 - low) * (1 + math.cos(math.pi * step / last)) / 2
        return low + (1 - low) * (1 - step / last) if training.schedule == "linear" else 1.0

    shares = [*((step + 1) / warm for step in range(warm)), *map(share, range(steps - warm))]
    return [training.learning_rate * each for each in shares]


def _one_cycle(training: Training, steps: int) -> list[float]:
    """Return the rates of torch's OneCycleLR over steps + 1 steps, bit for bit; torch takes 50 us for each."""
    high, low = training.learning_rate, training.learning_rate / _START
    top, end = training.warm_up * (steps + 1) - 1, float(steps)

    def between(first: float, last: float, share: float) -> float:
        return last + (first - last) / 2.0 * (math.cos(math.pi * share) + 1)

    return [
        between(low, high, step / top) if step <= top else between(high, low / _END, (step - top) / (end - top))
        for step in range(steps)
    ]


def derive_seed(seed: int, *stream: int) -> int:
    """Return the seed of one stream of random numbers of a run: streams are independent, 63 bits.

    Example:
        >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence((seed, *stream)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def epoch_order(seed: int, epoch: int, examples: int) -> Tensor:
    """Return the order of the training examples in a pass, a function of seed and pass alone: int64, on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, ORDER, epoch))
    return torch.randperm(examples, generator=generator)


def step_batches(seed: int, steps: range, batch_size: int, examples: int, *, whole: bool) -> list[Tensor]:
    """Return the indices of the training examples of some steps of a run, int64, on the CPU.

    Args:
        steps: Which steps, counted from 0 at the start of the run.
        whole: Whether batches go on from one pass into the next, so that all are whole; else the last batch of each
            pass is as small as it comes out.
    Example:
        >>> [len(batch) for batch in step_batches(0, range(6), 4, 10, whole=False)]
        [4, 4, 2, 4, 4, 2]
        >>> [len(batch) for batch in step_batches(0, range(6), 4, 10, whole=True)]
        [4, 4, 4, 4, 4, 4]
    """
    per_pass = math.ceil(examples / batch_size)
    stride = examples if whole else per_pass * batch_size  # Positions of a pass in the row of all passes.
    first, last = steps.start * batch_size, steps.stop * batch_size
    orders: list[Tensor] = []
    for number in range(first // stride, math.ceil(last / stride)):
        order = epoch_order(seed, number + 1, examples)
        orders.append(order[max(0, first - number * stride) : max(0, last - number * stride)])
    if whole:
        return list(torch.cat(orders).split(batch_size)) if orders else []
    return [batch for order in orders for batch in order.split(batch_size)]


class Record:
    """Losses and right answers of an epoch's steps, kept on the device: reading a number would make a step wait."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._size = 0
        self._right: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Keep the logits (..., classes) and targets (...) of a forward pass until they are counted."""
        self._waiting.append((logits.detach(), targets))
        self._size += logits.numel()
        if self._size >= _WAITING:
            self._count()

    def counts(self) -> Tensor:
        """Return the number of right answers and of targets so far: (2,), int64, on the device."""
        self._count()
        return torch.stack([torch.stack(self._right).sum(), torch.stack(self._targets).sum()])

    def _count(self) -> None:
        if self._waiting:
            many = len(self._waiting) > 1  # One alone, as of a large vocabulary, is spared the copy.
            logits, targets = map(torch.cat, zip(*self._waiting, strict=True)) if many else self._waiting[0]
            self._right.append((logits.argmax(-1) == targets).sum())
            self._targets.append((targets != IGNORED).sum())
            self._waiting, self._size = [], 0


class Stepper:
    """Trains a model step by step: batch, forward and backward pass, clipping, optimiser.

    Args:
        generator: Random stream of the batches, on the task's device.
        group: The processes that share each batch.
        schedule: Moves the scales of the model's activations, a step after each of the optimiser.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        training: Training,
        generator: torch.Generator,
        group: Group,
        schedule: ScaleSchedule | None = None,
    ) -> None:
        self.model, self.task, self.training, self.generator, self.group = model, task, training, generator, group
        self.optimizer, self.schedule = make_optimizer(model, training), schedule
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        wrapped = group.wrap(model)
        self.network = torch.compile(wrapped) if training.compiled else wrapped
        self.divided = training.micro_batch is not None or group.size > 1
        self.record = Record()

    def train(self, rates: list[float], batches: list[Tensor]) -> Record:
        """Take one step on each batch of indices, at the learning rate that goes with it."""
        self.record = Record()
        self.model.train()
        for indices, rate in zip(batches, rates, strict=True):
            self.record.losses.append(self.step(indices, rate))
        return self.record

    def step(self, indices: Tensor, rate: float) -> Tensor:
        """Take one step; give this process's part of the batch's mean loss, on the device."""
        optimizer = self.optimizer
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = self.task.train_batch(indices, self.generator)
        optimizer.zero_grad()
        loss = self._divided(batch) if self.divided else self._whole(batch)
        if self.training.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.training.clip)
        optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return loss

    def _whole(self, batch: Batch) -> Tensor:
        loss = self._loss(batch, "mean")
        loss.backward()
        return loss.detach()

    def _divided(self, batch: Batch) -> Tensor:
        """Sum the gradients of the parts of a batch: those of other processes, and micro-batches."""
        count = (batch.targets != IGNORED).sum()
        own = take_share(batch, self.group.rank, self.group.size)
        size = self.training.micro_batch or len(own.targets)
        total = torch.zeros((), device=self.task.device)
        for inputs, targets in zip(own.inputs.split(size), own.targets.split(size), strict=True):
            loss = self._loss(Batch(inputs, targets), "sum") / count
            (loss * self.group.size).backward()
            total += loss.detach()
        return total

    def _loss(self, batch: Batch, reduction: str) -> Tensor:
        inputs = batch.inputs
        if self.training.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with autocast(self.task.device, self.training):
            logits = self.network(inputs)
            loss = cross_entropy(logits, batch.targets, reduction)
        self.record.add(logits, batch.targets)
        return loss


def take_share(batch: Batch, rank: int, size: int) -> Batch:
    """Return the examples of a batch that one of several processes trains on; all shares have the same length.

    A share that would be one example shorter repeats the batch's first example with targets that count nowhere: the
    processes must make the same number of passes, or one would wait for another for ever.

    Example:
        >>> batch = Batch(torch.arange(3.0), torch.tensor([5, 6, 7]))
        >>> [take_share(batch, rank, 2).targets.tolist() for rank in range(2)]
        [[5, 7], [6, -100]]
    """
    inputs, targets = (values[rank::size] for values in batch)
    if len(targets) == -(-len(batch.targets) // size):
        return Batch(inputs, targets)
    filler = torch.full_like(batch.targets[:1], IGNORED)
    return Batch(torch.cat([inputs, batch.inputs[:1]]), torch.cat([targets, filler]))


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy, in nats, of logits (..., classes) and targets (...); ignored targets count nowhere."""
    if logits.dim() > 2:
        logits, targets = logits.flatten(0, -2), targets.flatten()
    return functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction=reduction)


def autocast(device: torch.device, training: Training) -> AbstractContextManager[object]:
    """Return the context in which the model runs."""
    if training.precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
