"""The processes that train one run together, as the training loop sees them: one process, unless it is told."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """Processes that share each batch; this one is a process by itself.

    Every process makes the whole batch and takes the examples `rank::size` of it. The loop divides a process's loss
    by the targets of the whole batch and multiplies it by `size`, so that the mean of the gradients over the
    processes, which `wrap` takes, is the gradient of the whole batch.

    Attributes:
        rank: Number of this process, from 0. Only rank 0 writes files.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a module with the same parameters whose backward pass averages the gradients over the processes."""
        return model

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, in each of them."""
        return values

    def agree(self, number: int, what: str) -> None:
        """See that every process has the same number.

        Raises: StoreError: they have not; `what` names it.
        """

    def announce(self, message: dict[str, Any] | None) -> None:
        """Tell the other processes, from rank 0, which run comes next, in plain values; None that none does."""
