"""One training step, and the record of what the steps of an epoch gave."""

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...torch import ScaleSchedule
from ..recipes.pipeline import Training
from .group import Group
from .optimisation import make_optimizer
from .tasks import IGNORED, Batch, Task

_WAITING = 1 << 22  # Logits that may wait to be counted: 16 MB.


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
        model: The model; it is put in training mode by `train`.
        task: Makes the batches.
        training: The recipe's training.
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
