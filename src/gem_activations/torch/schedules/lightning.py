"""A scale on a schedule as a callback of Lightning."""

from typing import Any

from ...extras import framework
from . import TrainerSchedule

with framework("lightning", at_least="2.6", install="'gem-activations[monitor]'"):
    from lightning.pytorch import Callback, LightningModule, Trainer


class LightningScaleSchedule(TrainerSchedule, Callback):
    """A `ScaleSchedule` of the module of a `Trainer.fit`; arguments and attributes are those of `TrainerSchedule`.

    Example:
        >>> LightningScaleSchedule(1.0, 0.1, steps=1000).schedule is None
        True
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the scale to that of the step at which the training begins."""
        self._begin(pl_module, trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Go on to the step that the optimizer has made."""
        self._go_to(trainer.global_step)
