"""One training run over several processes or machines: torchrun starts them, DistributedDataParallel joins them.

Every process runs the same command. Rank 0 does all that one process would do: it decides which run is next, locks
it, writes every file. It announces each run to the other processes, which take their part of each batch and write
nothing. All of them read the data and the checkpoints, so the folders must be the same for all.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ...errors import SettingError, StoreError
from ..store.comparison import run_folder
from ..training.group import Group
from ..training.run import NotFiniteError, Run
from .experiment import Experiment, Loaded
from .runner import reproducible, seeded

# Rank 0 may wait for another comparison's run for as long as that takes; the others wait for its word.
_TIMEOUT = timedelta(days=30)


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
    """Join the processes that torchrun started, over NCCL on GPUs and gloo on CPUs; alone where there are none.

    An error in the block of one process ends that process, and torchrun ends the others then: none of them could tell
    what the one that failed would have sent.
    """
    if not is_launched():
        yield Group()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    processes = ProcessGroup(
        distributed.get_rank(),
        distributed.get_world_size(),
        device=device,
        control=distributed.new_group(backend="gloo", timeout=_TIMEOUT),
    )
    yield processes
    if processes.rank == 0:
        processes.announce(None)
    distributed.destroy_process_group()


@dataclass(frozen=True)
class ProcessGroup(Group):
    """The processes of a torchrun, as the training loop sees them.

    Attributes:
        device: Where this process trains.
        control: The same processes over gloo, for the announcements.
    """

    device: torch.device = field(kw_only=True)
    control: Any = field(kw_only=True, repr=False)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module as `DistributedDataParallel`.

        BatchNorm's layers are changed to take their statistics over all processes.

        Raises: SettingError: a model with BatchNorm on CPUs, for which torch has no such layer.
        """
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
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed

    def agree(self, number: int, what: str) -> None:
        """See that every process has the same number."""
        numbers = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        numbers[self.rank] = number
        found = self.total(numbers).tolist()
        if len(set(found)) > 1:
            raise StoreError(f"the processes differ in {what} ({found}); see that all of them share the --out folder")

    def announce(self, message: dict[str, Any] | None) -> None:
        """Tell the other processes what comes next; None that nothing does. Rank 0 alone calls this."""
        distributed.broadcast_object_list([message], 0, group=self.control)

    def listen(self) -> dict[str, Any] | None:
        """Wait for what rank 0 announces; the other processes call this."""
        heard: list[Any] = [None]
        distributed.broadcast_object_list(heard, 0, group=self.control)
        return heard[0]


def follow(folder: Path, experiment: Experiment, loaded: Loaded, device: torch.device, processes: ProcessGroup) -> None:
    """Take part in each run that rank 0 announces, until it announces that there is none left.

    Args:
        folder: The output folder; only checkpoints are read from it.
        experiment: What a run does.
        loaded: The experiment with its data, on this process's device.
        device: Where this process trains.
        processes: The processes; this one's rank is above 0.
    """
    assert loaded.advance is not None
    while (message := processes.listen()) is not None:
        identity = message["identity"]
        activation, seed = identity["activation"], identity["seed"]
        make = experiment.arms[activation]
        run = Run(
            activation, seed, device, run_folder(folder, activation, seed), make, identity=identity, group=processes
        )
        # A loss that is not finite is so in every process, and rank 0 stores it.
        with reproducible(message["threads"]), seeded(seed, device), contextlib.suppress(NotFiniteError):
            loaded.advance(run, processes)
