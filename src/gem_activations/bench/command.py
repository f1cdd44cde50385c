"""The options of `gem-act bench`; no framework is imported for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff


@dataclass(frozen=True)
class BenchRequest:
    """What to measure; None takes what the full or the short table has."""

    short: Annotated[bool, FlagCreatePairsOff] = False
    """Two sizes, one dtype, one block."""
    second_order: Annotated[bool, FlagCreatePairsOff] = False
    """Networks that are differentiated twice, beside Softplus, SiLU, tanh and ReLU, and nothing else."""
    scales: Annotated[bool, FlagCreatePairsOff] = False
    """Learnt scales beside fixed ones, PReLU beside LeakyReLU, and nothing else."""
    log2_sizes: tuple[int, ...] | None = None
    """Numbers of elements, as powers of two."""
    dtypes: tuple[str, ...] | None = None
    """Of float32, bfloat16, float16, float64."""
    layouts: tuple[str, ...] | None = None
    """Of contiguous, channels_last."""
    directions: tuple[str, ...] | None = None
    """Of forward, backward, both."""
    orders: tuple[int, ...] | None = None
    """The n of GEM."""
    blocks: tuple[str, ...] | None = None
    """Of feed-forward, gpt2-block, resnet56, or none."""
    compiled: bool | None = None
    """Time torch.compile's code too; needs a C++ compiler."""
    seconds: float | None = None
    """Wanted length of the timing of each table."""
    out: Path | None = None
    """File for the rows, one JSON object a line."""
    json: Annotated[bool, FlagCreatePairsOff] = False
    """Print the rows as JSON, and the tables to stderr."""
