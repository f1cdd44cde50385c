"""Callbacks of Lightning: the monitor, and a scale on a schedule."""

from pathlib import Path
from typing import Any

from ..extras import framework
from .monitor.watching import TrainingMonitor
from .schedules import TrainerSchedule

with framework("lightning", at_least="2.6", install="'gem-activations[monitor]'"):
    from lightning.pytorch import Callback, LightningModule, Trainer


class LightningMonitor(TrainingMonitor, Callback):
    """Watch the module of a `Trainer.fit`: a `DeadUnitMonitor` from its first step to its last.

    A step is a step of the optimizer, however many batches are accumulated for it. At the end of each window the shares
    of each layer (never_active, zero_gradient, gate_closed, gate_open) and its rms are logged as
    `monitor/NAME/LAYER` to the trainer's loggers, for the window's last step.

    Args:
        path: File for `gem-act monitor`, written at the end of each window and of the fit by the process of rank 0,
            with what this process saw; None writes none.
        interval, window, channel_dim, on_window: As for `DeadUnitMonitor`.
        log: Log to the trainer's loggers.
    Attributes:
        monitor: The monitor of the last fit; None before the first. Its report stays after the fit.
    Raises: MissingDependencyError (on import): lightning is not installed, or too old; as
        `DeadUnitMonitor` when a fit begins.
    Edge cases: A fit that fails closes the monitor and writes what was counted. A fit that is resumed (`ckpt_path`, or
        another `fit` of the same trainer) counts on from its step and continues the file; windows that reach beyond the
        checkpoint are dropped, since their steps are made again.
    Example:
        >>> callback = LightningMonitor(interval=10)
        >>> callback.monitor is None
        True
    """

    def __init__(self, path: str | Path | None = None, *, log: bool = True, **options: Any) -> None:
        super().__init__(path, **options)
        self._log = log
        self._seen = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch, after the steps of the checkpoint that a fit is resumed from."""
        self._seen = trainer.global_step
        self._begin(pl_module, self._seen, writes=trainer.is_global_zero)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Count a step if the optimizer has made one, and log a window that it ends."""
        if trainer.global_step == self._seen:
            return
        self._seen = trainer.global_step
        window = self._count_step(writes=trainer.is_global_zero)
        if window is None or not self._log:
            return
        metrics = {
            f"monitor/{name}/{window.label(layer)}": value
            for layer in window.layers
            for name, value in layer.scalars().items()
        }
        # Not by the module's own `log`, which gives a logger the last value again at every step.
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step - 1)

    def on_fit_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Remove the hooks and write the file."""
        self._end(writes=trainer.is_global_zero)

    def on_exception(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Remove the hooks and write what was counted until then."""
        self._end(writes=trainer.is_global_zero)


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
