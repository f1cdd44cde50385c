"""Train one run of a recipe in a folder, as the runner of a comparison does."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gem_activations.lab.store.comparison import EpochRow
from gem_activations.lab.training.run import Run
from gem_activations.lab.training.trainer import Trainer
from gem_activations.torch import make_activation


def train(
    trainer: Trainer,
    folder: Path,
    on_epoch: Callable[[list[EpochRow]], None] | None = None,
    identity: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train from the checkpoint in the folder, or from the start; return the figures."""
    folder.mkdir(exist_ok=True)
    listener = on_epoch or (lambda _: None)
    run = Run(
        trainer.activation,
        trainer.seed,
        trainer.device,
        folder,
        partial(make_activation, trainer.activation),
        identity=identity,
        on_epoch=lambda metrics, _: listener(metrics),
    )
    return trainer.train(run)
