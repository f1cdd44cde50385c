"""Time two kinds of training step against each other, in the same seconds and on the same batches."""

import statistics
import time
from collections.abc import Callable

import torch

_WARM_UP = 3
_MOST = 60  # Pairs.
_BUDGET = 0.5  # Seconds after which no pair beyond the least number is measured.

Step = Callable[[int], None]


def measure_step_ratio(step: Step, reference: Step, device: torch.device, fewest: int = 15) -> float:
    """Return the time of a step over that of a reference step: the median ratio of interleaved pairs.

    Each pair does the same batch, in alternating order, so that neither kind has the warmer caches or the quieter
    machine. The global random state is left as it was.

    Args:
        step: Does one training step on the batch of a given index.
        reference: The same for the reference.
        device: Where the steps run; its queue is emptied before the clock is read.
        fewest: Pairs that are measured however long they take.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        for index in range(_WARM_UP):
            step(index)
            reference(index)
        ratios: list[float] = []
        started = time.perf_counter()
        while len(ratios) < fewest or (len(ratios) < _MOST and time.perf_counter() - started < _BUDGET):
            index = len(ratios)
            if index % 2:
                below = _seconds(reference, index, device)
                above = _seconds(step, index, device)
            else:
                above = _seconds(step, index, device)
                below = _seconds(reference, index, device)
            ratios.append(above / below)
    return statistics.median(ratios)


def _seconds(step: Step, index: int, device: torch.device) -> float:
    _finish(device)
    started = time.perf_counter()
    step(index)
    _finish(device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
