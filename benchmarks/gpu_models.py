"""Measure training steps on a GPU: GPT-2 124M and ResNet-56, time and memory, by activation.

    PYTHONPATH=src python benchmarks/gpu_models.py --out benchmarks/results/gpu_models.jsonl

GPT-2: batch 16 x 1024 tokens, bfloat16 autocast, AdamW, eager and compiled; by `transformers` where it is installed,
else a stack of the same shape written here. ResNet-56: batch 128 of 32x32 images, float32, SGD. Activation bytes are
what the forward pass leaves allocated. The kernels are checked first, and a wrong one ends the run.
"""

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_measuring as measuring
import torch
from torch import Tensor, nn
from torch.nn import functional

from gem_activations.torch import GEM

Factory = Callable[[], nn.Module]
ARMS: dict[str, Factory] = {
    "relu": nn.ReLU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "gem(n=1) from input": lambda: GEM(save="input"),
    "gem(n=1) from output": lambda: GEM(save="output"),
    "gem(n=2) from output": lambda: GEM(n=2, save="output"),
    "gem(n=1) plain": lambda: GEM(save="input", backend="plain"),
    "gem(n=1) in place": lambda: GEM(inplace=True),
    "relu in place": lambda: nn.ReLU(inplace=True),
}
VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS = 50257, 1024, 768, 12, 12


class Block(nn.Module):
    """A pre-norm transformer block of GPT-2."""

    def __init__(self, width: int, heads: int, activation: Factory) -> None:
        super().__init__()
        self.norm1, self.norm2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), activation(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = self.attend(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.feed_forward(self.norm2(x))


class GPT2(nn.Module):
    """The shape of GPT-2, without dropout, the embedding shared with the output; gives the mean loss."""

    def __init__(self, activation: Factory, width: int = WIDTH, heads: int = HEADS, layers: int = LAYERS) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*[Block(width, heads, activation) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        logits = functional.linear(self.norm(self.blocks(x)), self.token.weight)
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


class LibraryGPT2(nn.Module):
    """GPT-2 of the transformers library with another activation; gives the mean loss."""

    def __init__(self, activation: Factory, width: int = WIDTH, heads: int = HEADS, layers: int = LAYERS) -> None:
        super().__init__()
        from transformers import (  # pyright: ignore[reportMissingImports]  # optional, asked for before
            GPT2Config,
            GPT2LMHeadModel,
        )

        none: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
        self.model = GPT2LMHeadModel(GPT2Config(n_embd=width, n_head=heads, n_layer=layers, **none))
        for block in self.model.transformer.h:
            block.mlp.act = activation()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, labels=tokens).loss


class ResNet56(nn.Module):
    """The lab's ResNet-56 for 32x32 images; gives the mean loss."""

    def __init__(self, activation: Factory) -> None:
        super().__init__()
        from gem_activations.lab.models import ResNet

        self.model = ResNet(9, 10, activation)

    def forward(self, images: Tensor) -> Tensor:
        return functional.cross_entropy(self.model(images), images.new_zeros(len(images), dtype=torch.long))


def main() -> None:
    arguments = _arguments()
    report = measuring.Report(arguments.out, arguments.seconds)
    import gpu_correctness

    report.add(kind="check", comparisons=gpu_correctness.check_kernels((0, 1, 37, 4097, 1 << 20)))
    gpt2 = LibraryGPT2 if importlib.util.find_spec("transformers") else GPT2
    tokens = torch.randint(0, VOCABULARY, (16, CONTEXT), device="cuda")
    images = torch.randn(128, 3, 32, 32, device="cuda")
    plans: list[tuple[str, type[nn.Module], Tensor, bool]] = [
        ("gpt2 eager", gpt2, tokens, False),
        ("resnet56 eager", ResNet56, images, False),
        ("gpt2 compiled", gpt2, tokens, True),
    ]
    for work, build, batch, compiled in plans:
        for name, activation in ARMS.items():
            if report.has_time():
                measured = measure_step(build(activation).cuda(), batch, compiled)
                report.add(kind="step", work=work, model=build.__name__, name=name, **measured)
    report.close(summary(report.rows))


def measure_step(model: nn.Module, batch: Tensor, compiled: bool) -> dict[str, float]:
    """Return the seconds of a training step, the bytes its forward pass leaves allocated, and the peak."""
    half = batch.dtype == torch.long
    optimizer = torch.optim.AdamW(model.parameters(), fused=True) if half else torch.optim.SGD(model.parameters(), 0.01)
    run = torch.compile(model) if compiled else model

    def forward() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            return run(batch)

    def step(_: int) -> None:
        forward().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(0)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = forward()
    kept = torch.cuda.memory_allocated() - before
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    peak = torch.cuda.max_memory_allocated()
    del loss
    times = measuring.time_call(step)
    torch.compiler.reset()
    return {"activation_bytes": kept, "peak_bytes": peak, "items_per_second": len(batch) / times["seconds"], **times}


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table: step time, activation memory and peak of every arm, and the ratios to gelu_tanh."""
    steps = [row for row in rows if row["kind"] == "step"]
    base = {row["work"]: row for row in steps if row["name"] == "gelu_tanh"}
    lines = []
    for row in steps:
        ratios = [f"{row[key] / base[row['work']][key]:.3f}" if row["work"] in base else "" for key in COMPARED]
        sizes = [f"{row[key] / 2**20:.0f}" for key in ("activation_bytes", "peak_bytes")]
        lines.append([row["work"], row["name"], f"{row['seconds'] * 1e3:.2f}", *sizes, *ratios])
    head = ["work", "activation", "ms", "kept MiB", "peak MiB", "time to gelu_tanh", "kept to gelu_tanh"]
    return measuring.table(head, lines)


COMPARED = ("seconds", "activation_bytes")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_models.jsonl"), help="file of JSON lines to append to")
    parser.add_argument("--seconds", type=float, default=480.0, help="no further arm is begun after this time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
