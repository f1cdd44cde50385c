"""A Llama-like decoder on text: which activation for the gate of its feed-forward layers?

    gem-act compare examples/llm.py:train --activations silu gelu relu gem "gem(n=2)" "egem(eps=1e-4)" \
      --metric bits --better lower --baseline silu --seeds 5 --out runs/llm

Llama's feed-forward layer is a gated unit, (x V) * f(x W) (Shazeer 2020, arXiv:2002.05202): with f = SiLU it is
SwiGLU, with GELU GEGLU, with ReLU ReGLU, with a member of this family GEMGLU. Around it stand RMSNorm, rotary positions
and causal attention. The text is the reference of Python that comes with its standard library, or `--text FILE`, byte
by byte; the last tenth is for the test, the tenth before it for validation. One run takes ten seconds on a core.
"""

import math
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn

from gem_activations.lab import Run


class GatedUnit(nn.Module):
    """Map (..., width) to itself by (x V) * f(x W), then a linear map.

    `gem_activations.torch.GEMGLU` computes value times gate in one pass; here every f goes the same way.
    """

    def __init__(self, run: Run, width: int, hidden: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.leave, self.activation = nn.Linear(hidden, width, bias=False), run.activation()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit to the last dimension."""
        return self.leave(self.value(x) * self.activation(self.gate(x)))


def rotate(x: Tensor) -> Tensor:
    """Turn pairs of features (..., positions, features) by angles that grow with the position (arXiv:2104.09864)."""
    length, half = x.shape[-2], x.shape[-1] // 2
    angle = torch.arange(length)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)


class Block(nn.Module):
    """Causal attention, then the gated unit, each of a normalised input and added to it."""

    def __init__(self, run: Run, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_unit = nn.RMSNorm(width), nn.RMSNorm(width)
        self.mixed, self.leave = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.unit = GatedUnit(run, width, 8 * width // 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, positions, width) to the same shape."""
        batch, length, width = x.shape
        parts = self.mixed(self.before_attention(x)).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(rotate(parts[0]), rotate(parts[1]), parts[2], is_causal=True)
        x = x + self.leave(found.transpose(1, 2).reshape(batch, length, width))
        return x + self.unit(self.before_unit(x))


def read_bytes(text: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the bytes of a file, or of Python's reference if no file is named, for training, validation and test."""
    data = Path(text).read_bytes() if text else "\n".join(topics[name] for name in sorted(topics)).encode()
    found = torch.frombuffer(bytearray(data), dtype=torch.uint8).long()
    tenth = len(found) // 10
    training, validation, test = found.split([len(found) - 2 * tenth, tenth, tenth])
    return training, validation, test


def train(
    run: Run,
    text: str = "",
    steps: int = 300,
    width: int = 64,
    context: int = 64,
    learning_rate: float = 4e-3,
    scored: str = "test",
) -> dict[str, float]:
    """Learn the text; return the loss in bits a byte on text not seen, that for the "test" or for the "validation"."""
    training, validation, test = read_bytes(text)
    model = nn.Sequential(
        nn.Embedding(256, width), *(Block(run, width, 4) for _ in range(2)), nn.RMSNorm(width), nn.Linear(width, 256)
    )
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)

    def loss_at(source: Tensor, places: Tensor) -> Tensor:
        windows = source[places[:, None] + torch.arange(context + 1)]
        logits = model(windows[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    for _ in range(steps):
        loss = loss_at(training, torch.randint(len(training) - context, (16,)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    held = test if scored == "test" else validation
    with torch.no_grad():
        places = torch.linspace(0, len(held) - context - 1, 512).long()
        losses = [loss_at(held, some) for some in places.split(64)]
    return {"bits": float(torch.stack(losses).mean()) / math.log(2), "loss": float(loss.detach()) / math.log(2)}
