"""What the callbacks of trainers share: a monitor for each training, and its file."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from .recording import Window
from .watching import INTERVAL, WINDOW, DeadUnitMonitor


class TrainingMonitor:
    """Watch one training after the other, and write what was counted.

    Args:
        path: File for `gem-act monitor`; None writes none.
        interval, window, channel_dim, on_window: As for `DeadUnitMonitor`.
    Attributes:
        monitor: The monitor of the last training; None before the first. Its report stays after the training.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        interval: int = INTERVAL,
        window: int = WINDOW,
        channel_dim: int | Mapping[str, int] | None = None,
        on_window: Callable[[Window], object] | None = None,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.monitor: DeadUnitMonitor | None = None
        self._options = {"interval": interval, "window": window, "channel_dim": channel_dim, "on_window": on_window}

    def _begin(self, model: nn.Module) -> None:
        """Watch a model from now on.

        Raises: ModelError, SettingError: as DeadUnitMonitor.
        """
        if self.monitor is not None:
            self.monitor.close()
        self.monitor = DeadUnitMonitor(model, **self._options)

    def _count_step(self, *, writes: bool) -> Window | None:
        """Count a step, and write the file where that ends a window and this process `writes`; give the window."""
        if self.monitor is None:
            return None
        self.monitor.step()
        if self.monitor.steps % (self.monitor.interval * self.monitor.window):
            return None
        self._save(writes)
        return self.monitor.windows[-1]

    def _end(self, *, writes: bool) -> None:
        """Remove the hooks and write the file."""
        if self.monitor is not None:
            self.monitor.close()
            self._save(writes)

    def _save(self, writes: bool) -> None:
        if writes and self.monitor is not None and self.path is not None:
            self.monitor.save(self.path)
