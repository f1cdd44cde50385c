"""What is learnt, apart from how: the interface between the training loop and images, text or anything else.

The loop (`training.Run`) knows indices of training examples, steps, optimisers, checkpoints and the run's random
streams. A task knows the rest.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from ..models.classifiers import Factory
from ..recipes.pipeline import Recipe

IGNORED = -100
"""Target that counts neither in the loss nor in the accuracy."""

SplitName = Literal["validation", "test"]


class Batch(NamedTuple):
    """Inputs and targets of one step, on the task's device.

    The first dimension of both is that of the examples: a batch is cut along it into micro-batches, and between
    processes. `targets` are int64 classes of the shape of the logits without their last dimension: (N,) for images,
    (N, T) for text; `IGNORED` at those that are not to be predicted.
    """

    inputs: Tensor
    targets: Tensor


class Task(Protocol):
    """A data set with its model: everything about a run that is not optimisation.

    Attributes:
        device: Where the data lie, and the batches and models are made.
        sizes: Examples of "train", "validation" and "test". An example is what one index names: an image, or a window
            of tokens.
        checksums: SHA-256 of the data by name, a part of the comparison's identity: whatever changes a number (also
            the tokenizer, or the way windows are cut) must change a checksum or the recipe.
    """

    @property
    def device(self) -> torch.device: ...  # noqa: D102 -- described above

    @property
    def sizes(self) -> Mapping[str, int]: ...  # noqa: D102

    @property
    def checksums(self) -> dict[str, str]: ...  # noqa: D102

    def to(self, device: torch.device) -> Self:
        """Return the same task on another device."""
        ...

    def replicate(self, seed: int) -> Self:
        """Return the task of one seed: itself, or one with that seed's own training set (a predefined fold)."""
        ...

    def make_model(self, activation: str | Factory, seed: int) -> nn.Module:
        """Build the model on the task's device.

        Args:
            activation: String of the catalog, or what makes a module.
            seed: The initial weights depend on it alone and not on the activation, whose own parameters come on top.
                The global random state is left as it was (`torch.random.fork_rng`).
        Returns: Maps `Batch.inputs` to logits with the classes in the last dimension.
        """
        ...

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Make the batch of one step; augmentation, windows and masks belong here, on the device.

        Args:
            indices: (N,) int64 on the device, from 0 to `sizes["train"] - 1`.
            generator: The only source of random numbers here, on the task's device. The loop seeds it from the run's
                seed and the epoch, so that a resumed run draws the same numbers and arms of one seed see the same
                batches. What is drawn must not depend on how many processes share the batch: every process makes the
                whole batch and takes its part.
        """
        ...

    def evaluation_batches(self, split: SplitName) -> Iterable[Batch]:
        """Return a split in batches, always the same ones: no random number of the run is drawn."""
        ...


def load_task(recipe: Recipe, data_dir: Path | None) -> Task:
    """Load the data of a recipe, on the CPU.

    Raises: DataError: the data are missing or damaged; MissingDependencyError: a library is missing.
    """
    if recipe.task == "images":
        from . import images as of_kind
    else:
        from . import language as of_kind
    return of_kind.load_task(recipe, data_dir)
