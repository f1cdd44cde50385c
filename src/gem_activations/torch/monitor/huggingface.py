"""The monitor as a callback of the Trainer of transformers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import MissingDependencyError, ModelError
from .recording import Window
from .watching import INTERVAL, WINDOW, DeadUnitMonitor

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "transformers":
        raise
    raise MissingDependencyError(
        "transformers is not installed; run: pip install 'gem-activations[huggingface]'"
    ) from error


class HuggingFaceMonitor(TrainerCallback):
    """Watch the model of a `Trainer.train`: a `DeadUnitMonitor` from its first step to its last.

    A step is a step of the optimizer, however many batches are accumulated for it.

    Args:
        path: File for `gem-act monitor`, written at the end of each window and of the training by the process of rank
            0, with what this process saw; None writes none.
        interval, window, channel_dim, on_window: As for `DeadUnitMonitor`.
    Attributes:
        monitor: The monitor of the last training; None before the first. Its report stays after the training.
    Raises: MissingDependencyError (where this module is imported): transformers is not installed; as `DeadUnitMonitor`
        where the training begins.
    Edge cases: Where a training fails, the Trainer tells no callback: the hooks stay until the next training or until
        `callback.monitor.close()`, and the file holds the windows that were complete.
    Example:
        >>> callback = HuggingFaceMonitor(interval=10)
        >>> callback.monitor is None
        True
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
        self._options = {"interval": interval, "window": window, "channel_dim": channel_dim}
        self._on_window = on_window

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002 -- the Trainer's signature, here and below
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Begin to watch."""
        if model is None:
            raise ModelError("the Trainer gave its callbacks no model to watch")
        if self.monitor is not None:
            self.monitor.close()
        self.monitor = DeadUnitMonitor(model, on_window=self._on_window, **self._options)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Count a step, and write the file where it ends a window."""
        if self.monitor is None:
            return
        self.monitor.step()
        if self.monitor.steps % (self.monitor.interval * self.monitor.window) == 0:
            self._save(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Remove the hooks and write the file."""
        if self.monitor is not None:
            self.monitor.close()
            self._save(state)

    def _save(self, state: TrainerState) -> None:
        if self.monitor is not None and self.path is not None and state.is_world_process_zero:
            self.monitor.save(self.path)
