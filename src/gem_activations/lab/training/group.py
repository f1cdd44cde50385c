"""The processes that train one run together: one, or as many as torchrun starts and DistributedDataParallel joins."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ...errors import SettingError, StoreError

# Rank 0 may wait for another comparison's run for as long as that takes; the others wait for its word.
_TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class Group:
    """Processes that share each batch; a process by itself unless torchrun started it with others.

    Every process makes the whole batch and takes the examples `rank::size` of it. The loop divides a process's loss
    by the targets of the whole batch and multiplies it by `size`, so that the mean of the gradients over the
    processes, which `wrap` takes, is the gradient of the whole batch.

    Attributes:
        rank: Number of this process, from 0. Only rank 0 writes files.
        size: Number of processes.
        device: Where this process trains.
        control: The same processes over gloo, for the announcements; None: nobody is there to be told or asked.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: Any = field(default=None, repr=False)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a module with the same parameters whose backward pass averages the gradients over the processes.

        BatchNorm's layers are changed to take their statistics over all processes.

        Raises: SettingError: a model with BatchNorm on CPUs, for which torch has no such layer.
        """
        if self.control is None:
            return model
        if any(isinstance(module, _BatchNorm) for module in model.modules()):
            if self.device.type != "cuda":
                raise SettingError(
                    "the model has BatchNorm, whose statistics torch shares between processes on GPUs alone; "
                    "train it in one process with more --threads, or on GPUs"
                )
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, in each of them."""
        if self.control is None:
            return values
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed

    def agree(self, number: int, what: str) -> None:
        """See that every process has the same number. Raises: StoreError: they have not; `what` names it."""
        numbers = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        numbers[self.rank] = number
        found = self.total(numbers).tolist()
        if self.control is not None and len(set(found)) > 1:
            raise StoreError(f"the processes differ in {what} ({found}); see that all of them share the --out folder")

    def announce(self, message: dict[str, Any] | None) -> None:
        """Tell the others, from rank 0, which run comes next, in plain values; None that none does."""
        if self.control is not None:
            distributed.broadcast_object_list([message], 0, group=self.control)

    def listen(self) -> dict[str, Any] | None:
        """Wait for what rank 0 announces; the other processes call this."""
        heard: list[Any] = [None]
        distributed.broadcast_object_list(heard, 0, group=self.control)
        return heard[0]


def is_launched() -> bool:
    """Return whether torchrun started this process together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ


def is_rank_zero() -> bool:
    """Return whether this process shows and writes what all of them do: it is the first, or alone."""
    return not is_launched() or os.environ.get("RANK", "0") == "0"


def local_device(text: str) -> str:
    """Return the device of this process: of those of a machine's GPUs the one of its local rank.

    Raises: SettingError: one GPU is named for all processes.
    """
    if not is_launched() or not text.startswith("cuda"):
        return text
    if text != "cuda":
        raise SettingError(f"--device {text}: under torchrun every process takes a GPU of its own; give --device cuda")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


@contextlib.contextmanager
def init_processes(device: torch.device) -> Iterator[Group]:
    """Join the processes that torchrun started, over NCCL on GPUs and gloo on CPUs; alone if there are none.

    An error in the block of one process ends that process, and torchrun ends the others then: none of them could tell
    what the one that failed would have sent.
    """
    if not is_launched():
        yield Group()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control = distributed.new_group(backend="gloo", timeout=_TIMEOUT)
    group = Group(distributed.get_rank(), distributed.get_world_size(), device, control)
    yield group
    if group.rank == 0:
        group.announce(None)
    distributed.destroy_process_group()
