"""A data set as tensors that stay in memory, split into train, validation and test; and how examples are chosen."""

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..recipes.pipeline import Subset

_SPLIT_SEED = 0
WHOLE = Subset()

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Split:
    """Examples with their classes: x (N, channels, height, width), float32 or uint8, and y (N,) int64."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> "Split":
        """Return the same split on a device."""
        return Split(self.x.to(device), self.y.to(device))

    def take(self, places: Tensor) -> "Split":
        """Return the examples of the indices, (N,) int64."""
        places = places.to(self.y.device)
        return Split(self.x[places], self.y[places])


@dataclass(frozen=True)
class Dataset:
    """A data set in three splits that share no example.

    Attributes:
        train, validation, test: The splits. Pixels as float32 have mean 0 and standard deviation 1 over the training
            split; pixels as bytes take a quarter of the memory, and are scaled when a batch is made.
        classes: Number of classes.
        checksums: SHA-256 of each split's pixels and labels as they were read, before scaling.
        scaling: Mean and standard deviation of bytes over the training split, each (channels, 1, 1); None for float32.
        folds: Predefined training sets, as indices into `train`; empty if there are none.
        subset: How many examples of a fold, and of the rest for validation, are used.
    """

    train: Split
    validation: Split
    test: Split
    classes: int
    checksums: dict[str, str]
    scaling: tuple[Tensor, Tensor] | None = None
    folds: tuple[tuple[int, ...], ...] = ()
    subset: Subset = WHOLE

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.train.x.shape[1:])

    def scaled(self, x: Tensor) -> Tensor:
        """Return pixels as the model takes them: float32, standardised."""
        if self.scaling is None:
            return x
        mean, deviation = self.scaling
        return (x - mean).div_(deviation)

    def standardised(self) -> "Dataset":
        """Return a data set of bytes with the scaling of its training split, each channel for itself."""
        pixels = self.train.x
        planes = [pixels[:, channel].double() for channel in range(pixels.shape[1])]  # One at a time: 8 bytes a pixel.
        moments = torch.tensor([[plane.mean(), plane.std(correction=0)] for plane in planes], dtype=torch.float32)
        mean, deviation = moments.to(pixels.device)[:, :, None, None].unbind(1)
        return dataclasses.replace(self, scaling=(mean, deviation.clamp(min=1.0)))

    def fold(self, seed: int) -> "Dataset":
        """Return the data set of one seed: itself, or if there are folds, the one of the seed's number.

        The fold is the training split and all other training examples are the validation split; the subset reduces
        both. The seeds beyond the number of folds begin again with the first.
        """
        if not self.folds:
            return self
        labels = self.train.y.cpu().numpy()
        inside = np.array(self.folds[seed % len(self.folds)])
        outside = np.setdiff1d(np.arange(len(labels)), inside)
        chosen = [
            pick(labels, places, size)
            for places, size in ((inside, self.subset.train), (outside, self.subset.validation))
        ]
        train, validation = (self.train.take(torch.from_numpy(places)) for places in chosen)
        return dataclasses.replace(self, train=train, validation=validation, folds=()).standardised()

    def resplit(self, seed: int) -> "Dataset":
        """Return the same examples in splits of the same sizes that are drawn anew, every class in proportion."""
        splits = self.train, self.validation, self.test
        whole = Split(torch.cat([split.x for split in splits]), torch.cat([split.y for split in splits]))
        labels = whole.y.cpu().numpy()
        rest, test = _draw(labels, len(self.test.y), seed)
        train, validation = (rest[places] for places in _draw(labels[rest], len(self.validation.y), seed))
        drawn = [whole.take(torch.from_numpy(places)) for places in (train, validation, test)]
        if self.scaling is None:  # Pixels as numbers are standardised by the training split that they now have.
            pixels = drawn[0].x.double()
            mean, deviation = float(pixels.mean()), float(pixels.std(correction=0))
            drawn = [Split((split.x - mean) / deviation, split.y) for split in drawn]
        found = dataclasses.replace(self, train=drawn[0], validation=drawn[1], test=drawn[2])
        return found if self.scaling is None else found.standardised()

    def to(self, device: torch.device) -> "Dataset":
        """Return the same data set on a device."""
        train, validation, test = (split.to(device) for split in (self.train, self.validation, self.test))
        scaling = None if self.scaling is None else (self.scaling[0].to(device), self.scaling[1].to(device))
        return dataclasses.replace(self, train=train, validation=validation, test=test, scaling=scaling)


def separate(arrays: Arrays, size: int) -> tuple[Arrays, Arrays]:
    """Split off `size` examples, every class in proportion; the same ones each time."""
    images, labels = arrays
    rest, split_off = _draw(labels, size)
    return (images[rest], labels[rest]), (images[split_off], labels[split_off])


def choose(arrays: Arrays, size: int | None) -> Arrays:
    """Keep so many examples, every class in proportion; the same ones each time. None keeps all of them."""
    images, labels = arrays
    places = pick(labels, np.arange(len(labels)), size)
    return (images, labels) if len(places) == len(labels) else (images[places], labels[places])


def pick(labels: NDArray[np.integer], places: NDArray[np.integer], size: int | None) -> NDArray[np.integer]:
    """Choose so many of some places, every class in proportion; see `choose`."""
    return places if size is None or size >= len(places) else places[_draw(labels[places], size)[1]]


def _draw(
    labels: NDArray[np.integer], size: int, seed: int = _SPLIT_SEED
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    from sklearn.model_selection import train_test_split

    every = np.arange(len(labels))
    rest, drawn = train_test_split(every, test_size=size, stratify=labels, random_state=seed)
    return np.asarray(rest), np.asarray(drawn)


def checksum(arrays: Arrays) -> str:
    """Return the SHA-256 of pixels and labels."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
