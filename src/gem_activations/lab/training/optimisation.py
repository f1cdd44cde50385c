"""Optimisers and learning-rate schedules of a recipe's training."""

import math
from collections.abc import Callable

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
    groups = _groups(model, training)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum, fused=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimizer]
    return kind(groups, lr=training.learning_rate, betas=training.betas, fused=True)


def _groups(model: nn.Module, training: Training) -> list[dict[str, object]]:
    if training.decay == "all":
        return weight_decay_groups(model, training.weight_decay)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.dim() >= 2]
    others = [parameter for parameter in parameters if parameter.dim() < 2]
    groups: list[dict[str, object]] = [{"params": matrices, "weight_decay": training.weight_decay}]
    return [*groups, {"params": others, "weight_decay": 0.0}] if others else groups


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
    factor = {"multistep": _multistep, "cosine": _cosine, "linear": _linear, "constant": _constant}[training.schedule]
    warm = round(training.warm_up * steps)
    rises = [(step + 1) / warm for step in range(warm)]
    rest = steps - warm
    scaled = factor(training)
    falls = [scaled(step, rest, warm + step, steps) for step in range(rest)]
    return [training.learning_rate * share for share in (*rises, *falls)]


# (step after the warm-up, steps after it, step, steps) -> share of the highest rate.
Factor = Callable[[int, int, int, int], float]


def _multistep(training: Training) -> Factor:
    # The milestones are those of the whole run, so that a warm-up does not move them.
    return lambda _step, _rest, at, steps: _DROP ** sum(at >= round(part * steps) for part in training.milestones)


def _cosine(training: Training) -> Factor:
    low = training.final_rate

    def share(step: int, rest: int, _at: int, _steps: int) -> float:
        return low + (1 - low) * (1 + math.cos(math.pi * step / max(1, rest - 1))) / 2

    return share


def _linear(training: Training) -> Factor:
    low = training.final_rate
    return lambda step, rest, _at, _steps: low + (1 - low) * (1 - step / max(1, rest - 1))


def _constant(_: Training) -> Factor:
    return lambda *_: 1.0


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
