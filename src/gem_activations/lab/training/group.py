"""The processes that train one run together, as the training loop sees them: one process, unless it is told."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


class Group(Protocol):
    """Processes that share each batch.

    Every process makes the whole batch and takes the examples `rank::size` of it. The loop divides a process's loss
    by the targets of the whole batch and multiplies it by `size`, so that the mean of the gradients over the
    processes, which `wrap` takes, is the gradient of the whole batch.

    Attributes:
        rank: Number of this process, from 0. Only rank 0 writes files.
        size: Number of processes.
    """

    @property
    def rank(self) -> int: ...  # noqa: D102 -- described above

    @property
    def size(self) -> int: ...  # noqa: D102

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a module with the same parameters whose backward pass averages the gradients over the processes."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, in each of them."""
        ...

    def agree(self, number: int, what: str) -> None:
        """See that every process has the same number.

        Raises: StoreError: they have not; `what` names it.
        """
        ...

    def announce(self, message: dict[str, Any]) -> None:
        """Tell the other processes, from rank 0, which run comes next; plain values."""
        ...


@dataclass(frozen=True)
class SingleProcess:
    """One process by itself."""

    rank: int = 0
    size: int = 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as it is."""
        return model

    def total(self, values: Tensor) -> Tensor:
        """Return the values as they are."""
        return values

    def agree(self, number: int, what: str) -> None:
        """Agree with itself."""

    def announce(self, message: dict[str, Any]) -> None:
        """Tell nobody."""
