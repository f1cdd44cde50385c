"""Rows of the benchmark for whole blocks: step time, bytes kept for the backward pass, peak memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GemError
from ..lab.models import Block as TransformerBlock
from ..lab.models import ResNet
from ..torch import GEM
from .timing import time_in_turn

Factory = Callable[[], nn.Module]

ARMS: dict[str, Factory] = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "gem(n=1) plain": lambda: GEM(backend="plain", save="input"),
    "gem(n=1) from input": lambda: GEM(save="input"),
    "gem(n=1) from output": lambda: GEM(save="output"),
    "gem(n=1) in place": lambda: GEM(inplace=True),
    "gem(n=2) from output": lambda: GEM(n=2, save="output"),
}


def gpt2_block(activation: Factory) -> nn.Module:
    """Make one pre-norm transformer block of GPT-2 124M: 768 wide, 12 heads, feed-forward 3072, causal."""
    return TransformerBlock(768, 12, 3072, activation, causal=True)


def feed_forward(activation: Factory) -> nn.Module:
    """Make the feed-forward block of GPT-2: 768 -> 3072 -> 768."""
    return nn.Sequential(nn.Linear(768, 3072), activation(), nn.Linear(3072, 768))


@dataclass(frozen=True)
class Block:
    """A block to measure: what it is called, how it is made with an activation, the shape of its input."""

    title: str
    build: Callable[[Factory], nn.Module]
    shape: tuple[int, ...]


BLOCKS = {
    "feed-forward": Block("feed-forward 768-3072-768, 1024 tokens", feed_forward, (1024, 768)),
    "gpt2-block": Block("GPT-2 block, 1 x 1024 tokens", gpt2_block, (1, 1024, 768)),
    "resnet56": Block("ResNet-56, batch 128", lambda activation: ResNet(9, 10, activation), (128, 3, 32, 32)),
}


def measure_block(name: str, arms: list[str], seconds: float) -> list[dict[str, Any]]:
    """Time a step of each arm in turn, all with the same weights and data, then measure the memory of each.

    Args:
        name: A key of BLOCKS.
        arms: Keys of ARMS.
        seconds: Wanted length of the timing.
    Returns: A row for each arm: seconds of a forward and backward pass, and bytes.
    """
    steps = {arm: _step(*_make(name, arm)) for arm in arms}
    timings = time_in_turn({arm: lambda _, step=step: step() for arm, step in steps.items()}, seconds)
    return [
        {
            **{"row": "block", "block": name, "arm": arm, "kept_bytes": kept_bytes(*_make(name, arm))},
            "peak_bytes": _peak_in_child(name, arm),
            **{"seconds_median": timing.median, "seconds_low": timing.low, "seconds_high": timing.high},
            "rounds": timing.rounds,
        }
        for arm, timing in timings.items()
    ]


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    """Return the bytes of the distinct storages that the graph of model(x) keeps, its parameters and buffers aside."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = model(x)
    del y
    return sum(kept.values())


def _make(name: str, arm: str) -> tuple[nn.Module, Tensor]:
    block = BLOCKS[name]
    torch.manual_seed(0)
    return block.build(ARMS[arm]), torch.randn(block.shape, requires_grad=True)


def _step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(x).square().mean().backward()

    return step


def _peak_in_child(name: str, arm: str) -> int | None:
    """Return the peak growth of resident memory over one step, in a process of its own; None without Linux's /proc."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    # Freed blocks must go back to the system at once, or the peak of the warm-up would hide the one of the step.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-m", __name__, name, arm, str(torch.get_num_threads())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GemError(f"measuring the memory of {name!r} with {arm!r} failed: {done.stderr.strip()[-300:]}")
    return int(json.loads(done.stdout))


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise GemError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    step = _step(*_make(sys.argv[1], sys.argv[2]))
    step()
    step()
    Path("/proc/self/clear_refs").write_text("5")  # Resets the high-water mark.
    before = _status("VmRSS")
    step()
    print(json.dumps(_status("VmHWM") - before))
