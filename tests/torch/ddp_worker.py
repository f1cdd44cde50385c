"""One process of the distributed test: `python ddp_worker.py RANK WORLD RENDEZVOUS OUT` (see test_distributed.py)."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gem_activations.torch import EGEM, GEM, SEGEM


def make_model() -> nn.Module:
    torch.manual_seed(5)
    layers = [nn.Linear(6, 9), GEM(2), nn.Linear(9, 7), SEGEM(1, 0.1), nn.Linear(7, 7), EGEM(3, 0.1, inplace=True)]
    learnt = [nn.Linear(7, 7), EGEM(2, trainable=True), nn.Linear(7, 7), SEGEM(scale=0.5, trainable=True, channels=7)]
    return nn.Sequential(*layers, *learnt, nn.Linear(7, 1)).double()


def make_batch() -> Tensor:
    return torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def train(model: nn.Module, batch: Tensor) -> None:
    """Take two steps of gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()


def main(rank: int, world: int, rendezvous: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    model = make_model()
    train(DistributedDataParallel(model), make_batch()[rank::world])
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.save({"weights": model.state_dict(), "gradients": gradients}, Path(out) / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
