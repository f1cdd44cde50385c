"""The monitor as a callback of Lightning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import MissingDependencyError
from .recording import Window
from .watching import INTERVAL, WINDOW, DeadUnitMonitor

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "lightning":
        raise
    raise MissingDependencyError("lightning is not installed; run: pip install 'gem-activations[monitor]'") from error


class LightningMonitor(Callback):
    """Watch the module of a `Trainer.fit`: a `DeadUnitMonitor` from its first step to its last.

    A step is a step of the optimizer, however many batches are accumulated for it. At the end of each window the shares
    of each layer (never_active, zero_gradient, gate_closed, gate_open) and its rms are logged as
    `monitor/NAME/LAYER` to the trainer's loggers, for the window's last step.

    Args:
        path: File for `gem-act monitor`, written at the end of each window and of the fit by the process of rank 0,
            with what this process saw; None writes none.
        interval, window, channel_dim: As for `DeadUnitMonitor`.
        log: Log to the trainer's loggers.
    Attributes:
        monitor: The monitor of the last fit; None before the first. Its report stays after the fit.
    Raises: MissingDependencyError (where this module is imported): lightning is not installed; as `DeadUnitMonitor`
        where a fit begins.
    Edge cases: A fit that fails closes the monitor and writes what was counted.
    Example:
        >>> callback = LightningMonitor(interval=10)
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
        log: bool = True,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.monitor: DeadUnitMonitor | None = None
        self._options = {"interval": interval, "window": window, "channel_dim": channel_dim}
        self._log = log
        self._seen = 0
        self._fresh: Window | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch."""
        self._close()
        self.monitor = DeadUnitMonitor(pl_module, on_window=self._keep, **self._options)
        self._seen = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002 -- Lightning's signature, here and below
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Count a step where the optimizer has made one, and log a window that it ends."""
        if self.monitor is None or trainer.global_step == self._seen:
            return
        self._seen = trainer.global_step
        self.monitor.step()
        if self._fresh is not None:
            self._write(trainer, self._fresh)
            self._fresh = None
            self._save(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Remove the hooks and write the file."""
        self._close()
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Remove the hooks and write what was counted until then."""
        self._close()
        self._save(trainer)

    def _write(self, trainer: Trainer, window: Window) -> None:
        # Not by the module's own `log`, which gives a logger the last value again at every step.
        if self._log and trainer.loggers:
            metrics = {
                f"monitor/{name}/{window.label(layer)}": value
                for layer in window.layers
                for name, value in layer.scalars().items()
            }
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step - 1)

    def _keep(self, window: Window) -> None:
        self._fresh = window

    def _close(self) -> None:
        if self.monitor is not None:
            self.monitor.close()

    def _save(self, trainer: Trainer) -> None:
        if self.monitor is not None and self.path is not None and trainer.is_global_zero:
            self.monitor.save(self.path)
