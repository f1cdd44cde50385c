"""Optimisers and learning-rate schedules of a recipe's training."""

import math

import torch
from torch import nn

from ...torch import weight_decay_groups
from ..recipes.pipeline import Training

_DROP = 0.1
_START, _END = 25.0, 1e4  # Of "one-cycle": highest rate over the first, first over the last.


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Make the optimiser of a run; its learning rates are set step by step, see `learning_rates`.

    Args:
        model: Its trained parameters are optimised, in one group, or in two where some do not decay: all but matrices
            if the training says so, and a learnt scale always.
        training: The recipe's training.
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
