"""A scale on a schedule as a callback of the Trainer of transformers."""

from typing import Any

from torch import nn

from ...errors import ModelError
from ...extras import framework
from . import TrainerSchedule

with framework("transformers", at_least="5.0", install="'gem-activations[huggingface]'"):
    from transformers import TrainerCallback, TrainerState, TrainingArguments


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
