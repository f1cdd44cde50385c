"""Export runs that ended to trackers: TensorBoard, Weights & Biases, MLflow. Each must be installed by the user."""

import importlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...extras import framework
from ..store.comparison import EpochRow, Plan, RunResult, flatten, run_folder, to_plain

_LOG = logging.getLogger(__name__)
_LIBRARIES = {
    "tensorboard": ("tensorboard", "2.20", "'gem-activations[monitor]'"),
    "wandb": ("wandb", "0.17", "wandb"),
    "mlflow": ("mlflow", "2.10", "mlflow"),
}


def check_trackers(names: Sequence[str]) -> None:
    """Import the trackers' libraries. Raises: MissingDependencyError: one is not installed, or too old."""
    for name in names:
        module, version, install = _LIBRARIES[name]
        with framework(module, at_least=version, install=install):
            importlib.import_module(module)


def export_run(names: Sequence[str], folder: Path, plan: Plan, result: RunResult, metrics: list[EpochRow]) -> None:
    """Write the epochs and figures of a run that ended to each of the trackers.

    TensorBoard's files go to `tensorboard/` in the output folder; the other two go where their own settings say.
    That a tracker refuses a run is a warning of this module's logger.
    """
    exporters = {"tensorboard": _to_tensorboard, "wandb": _to_wandb, "mlflow": _to_mlflow}
    for name in names:
        try:
            exporters[name](folder, plan, result, metrics)
        except Exception as error:  # Whatever a service may raise: a run that has been trained must not be lost for it.
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            _LOG.warning("%s, seed %s is kept, but not in %s: %s", result.activation, result.seed, name, said)


def _to_tensorboard(folder: Path, _plan: Plan, result: RunResult, metrics: list[EpochRow]) -> None:
    from torch.utils.tensorboard.writer import SummaryWriter

    run = run_folder(folder, result.activation, result.seed)
    place = folder / "tensorboard" / run.parent.name / run.name
    shutil.rmtree(place, ignore_errors=True)  # Of an earlier attempt at this run.
    with SummaryWriter(str(place)) as writer:
        for row in metrics:
            for name, value in _scalars(row).items():
                writer.add_scalar(name, value, int(row["epoch"] or 0))
        for name, value in _scalars(result.figures).items():
            writer.add_scalar(f"result/{name}", value, result.epochs)
        writer.add_text("status", f"{result.status} {result.reason}".strip())


def _to_wandb(folder: Path, plan: Plan, result: RunResult, metrics: list[EpochRow]) -> None:
    wandb: Any = importlib.import_module("wandb")
    # If it raises, the run is ended all the same: wandb would give the next run's figures to one that is open.
    with wandb.init(
        project=plan.recipe.name,
        group=result.activation,
        name=f"{result.activation}, seed {result.seed}",
        config={**to_plain(plan.recipe), "activation": result.activation, "seed": result.seed},
        dir=str(folder),
    ) as run:
        for row in metrics:
            run.log(_scalars(row), step=int(row["epoch"] or 0))
        run.summary.update({**_scalars(result.figures), "status": result.status, "reason": result.reason})


def _to_mlflow(_folder: Path, plan: Plan, result: RunResult, metrics: list[EpochRow]) -> None:
    mlflow: Any = importlib.import_module("mlflow")
    mlflow.set_experiment(plan.recipe.name)
    with mlflow.start_run(run_name=f"{result.activation}, seed {result.seed}"):
        mlflow.log_params({**flatten(plan.recipe), "activation": result.activation, "seed": result.seed})
        for row in metrics:
            mlflow.log_metrics(_scalars(row), step=int(row["epoch"] or 0))
        mlflow.log_metrics(_scalars(result.figures))
        mlflow.set_tags({"status": result.status, "reason": result.reason})


def _scalars(row: EpochRow) -> dict[str, float]:
    return {name: value for name, value in row.items() if value is not None and name != "epoch"}
