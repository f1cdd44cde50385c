"""A scale on a schedule as a callback of Lightning."""

from typing import Any

from ...extras import framework
from . import ScaleSchedule, Shape

with framework("lightning", at_least="2.6", install="'gem-activations[monitor]'"):
    from lightning.pytorch import Callback, LightningModule, Trainer


class LightningScaleSchedule(Callback):
    """A `ScaleSchedule` of the module of a `Trainer.fit`, a step for each of the optimizer.

    Args:
        start, end, steps, shape: As for `ScaleSchedule`.
    Attributes:
        schedule: The schedule of the last fit; None before the first.
    Edge cases: A fit that is resumed goes on from its step.
    Example:
        >>> LightningScaleSchedule(1.0, 0.1, steps=1000).schedule is None
        True
    """

    def __init__(self, start: float, end: float, steps: int, shape: Shape = "cosine") -> None:
        self._options = start, end, steps, shape
        self.schedule: ScaleSchedule | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the scale to that of the step at which the training begins."""
        self.schedule = ScaleSchedule(pl_module, *self._options)
        self.schedule.step(to=trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002 -- Lightning's signature
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Go on to the step that the optimizer has made."""
        if self.schedule is not None:
            self.schedule.step(to=trainer.global_step)
