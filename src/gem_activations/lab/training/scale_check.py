"""The scales of a recipe's model, before it is trained."""

from pathlib import Path

import torch

from ...spec import GemSpec
from ...torch import ScaleReport, calibrate_, check_scale
from ..recipes.pipeline import Recipe
from .tasks import load_task


def measure(recipe: Recipe, spec: GemSpec, seed: int, data_dir: Path | None, ratio: float | None = None) -> ScaleReport:
    """Check the scale of a member of the family in a recipe's model on its first batch, in training mode.

    Args:
        recipe: Names the data, the model and the batch size.
        spec: The activation.
        seed: Of the initial weights and of the batch's augmentation.
        data_dir: Folder with data files; None for the default one.
        ratio: Calibrate to this ratio instead; None checks the scale as it is.
    Raises: DataError: the data are missing or damaged; SettingError: a ratio that is not above 0; ModelError: a model
        without a module of the family.
    """
    task = load_task(recipe, data_dir)
    model = task.make_model(str(spec), seed).train()
    indices = torch.arange(min(recipe.training.batch_size, task.sizes["train"]), device=task.device)
    batch = task.train_batch(indices, torch.Generator(task.device).manual_seed(seed)).inputs
    return check_scale(model, batch) if ratio is None else calibrate_(model, batch, ratio)
