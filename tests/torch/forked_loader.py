"""Forked workers of a data loader beside their parent, whose threads run already: see test_training_tools.py.

Prints the number of batches, whether the workers' values and gradients are the parent's, and whether the parent still
computes the same.
"""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gem_activations.torch import gem


class Rows(Dataset):
    """Rows that are activated, and differentiated, in the worker that loads them; large enough to share out."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        x = torch.linspace(-3, 3 + index, 2**17, requires_grad=True)
        y = gem(x, n=2)
        (slope,) = torch.autograd.grad(y.sum(), x)
        return torch.stack([y.detach(), slope])


if __name__ == "__main__":
    torch.set_num_threads(2)
    rows = Rows()
    expected = torch.stack([rows[index] for index in range(len(rows))])  # Starts the threads of the parent.
    loader = DataLoader(rows, batch_size=1, num_workers=2, multiprocessing_context="fork", timeout=600)
    batches = list(loader)
    print(len(batches), torch.equal(torch.cat(batches), expected), torch.equal(rows[0], expected[0]))
