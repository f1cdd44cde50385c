"""Callbacks of the Trainer of transformers: the monitor, and a scale on a schedule."""

from typing import Any

from torch import nn

from ..errors import ModelError
from ..extras import framework
from .monitor.watching import TrainingMonitor
from .schedules import TrainerSchedule

with framework("transformers", at_least="5.0", install="'gem-activations[huggingface]'"):
    from transformers import TrainerCallback, TrainerState, TrainingArguments


class HuggingFaceMonitor(TrainingMonitor, TrainerCallback):
    """Watch the model of a `Trainer.train`: a `DeadUnitMonitor` from its first step to its last.

    A step is a step of the optimizer, however many batches are accumulated for it.

    Args:
        path: File for `gem-act monitor`, written at the end of each window and of the training by the process of rank
            0, with what this process saw; None writes none.
        interval, window, channel_dim, on_window: As for `DeadUnitMonitor`.
    Attributes:
        monitor: The monitor of the last training; None before the first. Its report stays after the training.
    Raises: MissingDependencyError (on import): transformers is not installed, or too old; as
        `DeadUnitMonitor` when the training begins.
    Edge cases: If a training fails, the Trainer tells no callback: the hooks stay until the next training or until
        `callback.monitor.close()`, and the file holds the windows that were complete. A training that is resumed
        (`resume_from_checkpoint`) counts on from its step and continues the file; windows that reach beyond the
        checkpoint are dropped, since their steps are made again.
    Example:
        >>> callback = HuggingFaceMonitor(interval=10)
        >>> callback.monitor is None
        True
    """

    def on_train_begin(
        self, _args: TrainingArguments, state: TrainerState, *_: Any, model: nn.Module | None = None, **__: Any
    ) -> None:
        """Begin to watch, after the steps of the checkpoint that a training is resumed from."""
        if model is None:
            raise ModelError("the Trainer gave its callbacks no model to watch")
        self._begin(model, state.global_step, writes=state.is_world_process_zero)

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Count a step, and write the file if it ends a window."""
        self._count_step(writes=state.is_world_process_zero)

    def on_train_end(self, _args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Remove the hooks and write the file."""
        self._end(writes=state.is_world_process_zero)


class HuggingFaceScaleSchedule(TrainerSchedule, TrainerCallback):
    """A `ScaleSchedule` of the model of a `Trainer.train`; arguments and attributes are those of `TrainerSchedule`.

    Example:
        >>> HuggingFaceScaleSchedule(1.0, 0.1, steps=1000).schedule is None
        True
    """

    def on_train_begin(
        self, _args: TrainingArguments, state: TrainerState, *_: Any, model: nn.Module | None = None, **__: Any
    ) -> None:
        """Set the scale to that of the step at which the training begins."""
        if model is None:
            raise ModelError("the Trainer gave its callbacks no model")
        self._begin(model, state.global_step)

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Go on to the step that the optimizer has made."""
        self._go_to(state.global_step)
