"""Timing of callables in turn, so that a drift of the machine's speed meets all of them alike."""

import ctypes
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Call = Callable[[int], object]
"""A call to time; its argument counts all calls, and picks one of the rotating buffers."""

SHORTEST_SAMPLE = 1e-4

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles over the rounds."""

    median: float
    low: float
    high: float
    rounds: int


def time_in_turn(calls: Mapping[str, Call], seconds: float, most_rounds: int = 200) -> dict[str, Timing]:
    """Return name to Timing, in seconds for one call, as `sample_in_turn` measures."""
    return {name: summarize(values) for name, values in sample_in_turn(calls, seconds, most_rounds).items()}


def sample_in_turn(calls: Mapping[str, Call], seconds: float, most_rounds: int = 200) -> dict[str, list[float]]:
    """Time every call once a round, in a new order each round, for about `seconds` in all.

    The order is shuffled and the buffers rotate from call to call, so that no call always finds its input in the cache
    because of who came before it.

    Args:
        calls: Name to call. A call that is too short to time alone is repeated within a round.
        seconds: Wanted length of the whole measurement; at least 5 rounds are made.
        most_rounds: No more rounds than this.
    Returns: Name to the seconds of one call in each round.
    """
    _keep_freed_memory()
    repeats: dict[str, int] = {}
    for name, call in calls.items():
        for number in range(2):  # The first calls build caches and touch the memory.
            call(number)
        begin = time.perf_counter()
        call(2)
        repeats[name] = max(1, round(SHORTEST_SAMPLE / max(time.perf_counter() - begin, 1e-9)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    number = 0
    start = time.perf_counter()
    for made in range(most_rounds):
        shuffle(order)
        for name in order:
            call = calls[name]
            begin = time.perf_counter()
            for _ in range(repeats[name]):
                call(number)
                number += 1
            samples[name].append((time.perf_counter() - begin) / repeats[name])
        if made >= 4 and time.perf_counter() - start > seconds:
            break
    return samples


def _keep_freed_memory() -> None:
    """Make the C library keep freed memory, if it can: page faults of fresh memory cost more than the work itself.

    A training step meets the same sizes again and again; without this, which call pays for the faults is chance.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def summarize(values: list[float]) -> Timing:
    """Return median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4)
    return Timing(median, low, high, len(values))
