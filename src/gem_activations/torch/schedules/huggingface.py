"""A scale on a schedule as a callback of the Trainer of transformers."""

from typing import Any

from torch import nn

from ...errors import ModelError
from ...extras import framework
from . import ScaleSchedule, Shape

with framework("transformers", at_least="5.0", install="'gem-activations[huggingface]'"):
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class HuggingFaceScaleSchedule(TrainerCallback):
    """A `ScaleSchedule` of the model of a `Trainer.train`, a step for each of the optimizer.

    Args:
        start, end, steps, shape: As for `ScaleSchedule`.
    Attributes:
        schedule: The schedule of the last training; None before the first.
    Edge cases: A training that is resumed goes on from its step.
    Example:
        >>> HuggingFaceScaleSchedule(1.0, 0.1, steps=1000).schedule is None
        True
    """

    def __init__(self, start: float, end: float, steps: int, shape: Shape = "cosine") -> None:
        self._options = start, end, steps, shape
        self.schedule: ScaleSchedule | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002 -- the Trainer's signature, here and below
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Set the scale to that of the step at which the training begins."""
        if model is None:
            raise ModelError("the Trainer gave its callbacks no model")
        self.schedule = ScaleSchedule(model, *self._options)
        self.schedule.step(to=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Go on to the step that the optimizer has made."""
        if self.schedule is not None:
            self.schedule.step(to=state.global_step)
