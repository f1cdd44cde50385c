"""One recording of what all processes of a distributed training saw."""

import torch.distributed as dist

from .recording import Recording


def gather(recording: Recording, group: "dist.ProcessGroup | None" = None) -> Recording:
    """Put the recordings of all processes of a group into one; every process calls it and gets the same.

    A unit counts as never active, or without gradient, where it was so in every process.

    Args:
        recording: What `DeadUnitMonitor.report` gave in this process. All monitors have the same interval, window and
            number of steps.
        group: The processes; None for all. Without torch.distributed the recording is given back.
    Raises: SettingError: the recordings do not fit together.
    Example:
        >>> empty = Recording(1, 1, ())
        >>> gather(empty) is empty
        True
    """
    if not dist.is_available() or not dist.is_initialized():
        return recording
    gathered: list[Recording] = [recording] * dist.get_world_size(group)
    dist.all_gather_object(gathered, recording, group=group)
    return gathered[0].merge(gathered[1:])
