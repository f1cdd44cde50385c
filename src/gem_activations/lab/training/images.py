"""Images as a task: batches by indices, augmentation on the device, classifiers."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.images import Dataset, load_dataset
from ..models.classifiers import Factory, build_model
from ..models.initialisation import scale_to_gain
from ..recipes.pipeline import Recipe
from .tasks import Batch, SplitName

_EVALUATION_PIXELS = 1000 * 32 * 32  # Of one plane: the inner layers of a batch must fit beside the data.
_MARGIN = 8  # Of an image's height, the part that is padded: 4 pixels of 32, as is usual for CIFAR.


class ImageTask:
    """Classify images, which lie on the device of the task; see `tasks.Task`."""

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.recipe, self.dataset = recipe, dataset
        self.device = dataset.train.x.device
        self.checksums = dataset.checksums

    @property
    def sizes(self) -> Mapping[str, int]:
        """The number of images of each split."""
        return {name: len(getattr(self.dataset, name).y) for name in ("train", "validation", "test")}

    def to(self, device: torch.device) -> "ImageTask":
        """Return the same task on another device."""
        return ImageTask(self.recipe, self.dataset.to(device))

    def replicate(self, seed: int) -> "ImageTask":
        """Return the task of one seed: with the seed's fold, or with splits of its own if the recipe says so."""
        return ImageTask(self.recipe, self.dataset.resplit(seed) if self.recipe.resplit else self.dataset.fold(seed))

    def scaled(self, x: Tensor) -> Tensor:
        """Return pixels as the model takes them: float32, standardised, times the recipe's factor."""
        factor = self.recipe.input_scale
        return self.dataset.scaled(x) if factor == 1 else self.dataset.scaled(x) * factor

    def make_model(self, activation: str | Factory, seed: int) -> nn.Module:
        """Build the recipe's model on the device, with its initialisation."""
        shape, classes = self.dataset.shape, self.dataset.classes
        model = build_model(self.recipe.model, activation, shape, classes, seed).to(self.device)
        if self.recipe.initialisation == "gain":
            assert isinstance(activation, str)  # Others have been refused.
            scale_to_gain(model, activation, torch.zeros(1, *shape, device=self.device))
        return model

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Return the images of the indices, augmented if the recipe says so."""
        split = self.dataset.train
        x = self.scaled(split.x[indices])
        if self.recipe.augmentation == "crop-flip":
            x = crop_and_flip(x, generator)
        return Batch(x, split.y[indices])

    def evaluation_batches(self, split: SplitName) -> Iterator[Batch]:
        """Return a split in its order, a thousand images of 32x32 pixels at a time, or as many larger ones as fit."""
        examples = self.dataset.validation if split == "validation" else self.dataset.test
        _, height, width = self.dataset.shape
        size = max(1, min(1000, _EVALUATION_PIXELS // (height * width)))
        for x, y in zip(examples.x.split(size), examples.y.split(size), strict=True):
            yield Batch(self.scaled(x), y)


def load_task(recipe: Recipe, data_dir: Path | None) -> ImageTask:
    """Load the images of a recipe, on the CPU; see `tasks.load_task`."""
    return ImageTask(recipe, load_dataset(recipe.data, data_dir, recipe.subset, recipe.shrink))


def crop_and_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pad images with zeros by 1/8 of their height, crop each back at random, and mirror each with probability 1/2.

    The images (N, C, H, W) have any dtype; the generator is on their device.
    """
    count, _, height, width = x.shape
    margin = height // _MARGIN
    draw = torch.randint(0, 2 * margin + 1, (2, count, 1), generator=generator, device=x.device)
    flipped = torch.randint(0, 2, (count, 1), generator=generator, device=x.device).bool()
    down, across = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    rows = draw[0] + down
    columns = draw[1] + torch.where(flipped, width - 1 - across, across)
    padded = functional.pad(x, (margin, margin, margin, margin)).permute(0, 2, 3, 1)
    each = torch.arange(count, device=x.device)[:, None, None]
    cut = padded[each, rows[:, :, None], columns[:, None]]  # (N, H, W, C): indexing leaves the channels last.
    return cut.permute(0, 3, 1, 2).contiguous()
