"""The random streams of a run, all from its seed: equal seeds share weights, order and augmentation."""

import math

import numpy as np
import torch
from torch import Tensor

WEIGHTS, ORDER, NOISE, AUGMENTATION = range(4)


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
        seed: Seed of the run.
        steps: Which steps, counted from 0 at the start of the run.
        batch_size: Examples of a step.
        examples: Examples of the training set.
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
