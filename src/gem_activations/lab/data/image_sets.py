"""The data sets of the recipes, as tensors that stay in memory, split into train, validation and test."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError
from ..recipes.pipeline import Subset
from .holdings import GOOD, check_item, default_data_dir, describe, find_folder, get_file
from .idx import read_idx
from .sources import SOURCES, Item, Source

_SPLIT_SEED = 0
_WHOLE = Subset()

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Split:
    """Examples with their classes: x (N, channels, height, width), float32 or uint8, and y (N,) int64."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> "Split":
        """Give the same split on a device."""
        return Split(self.x.to(device), self.y.to(device))

    def take(self, places: Tensor) -> "Split":
        """Give the examples of the indices, (N,) int64."""
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
        folds: Predefined training sets, as indices into `train`; empty where there are none.
        subset: How many examples of a fold, and of the rest for validation, are used.
    """

    train: Split
    validation: Split
    test: Split
    classes: int
    checksums: dict[str, str]
    scaling: tuple[Tensor, Tensor] | None = None
    folds: tuple[tuple[int, ...], ...] = ()
    subset: Subset = _WHOLE

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.train.x.shape[1:])

    def scaled(self, x: Tensor) -> Tensor:
        """Give pixels as the model takes them: float32, standardised."""
        if self.scaling is None:
            return x
        mean, deviation = self.scaling
        return (x - mean).div_(deviation)

    def standardised(self) -> "Dataset":
        """Give a data set of bytes with the scaling of its training split, each channel for itself."""
        pixels = self.train.x
        planes = [pixels[:, channel].double() for channel in range(pixels.shape[1])]  # One at a time: 8 bytes a pixel.
        moments = torch.tensor([[plane.mean(), plane.std(correction=0)] for plane in planes], dtype=torch.float32)
        mean, deviation = moments.to(pixels.device)[:, :, None, None].unbind(1)
        return dataclasses.replace(self, scaling=(mean, deviation.clamp(min=1.0)))

    def fold(self, seed: int) -> "Dataset":
        """Give the data set of one seed: itself, or where there are folds, the one of the seed's number.

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

    def to(self, device: torch.device) -> "Dataset":
        """Give the same data set on a device."""
        train, validation, test = (split.to(device) for split in (self.train, self.validation, self.test))
        scaling = None if self.scaling is None else (self.scaling[0].to(device), self.scaling[1].to(device))
        return dataclasses.replace(self, train=train, validation=validation, test=test, scaling=scaling)


@dataclass(frozen=True)
class IdxSource:
    """A data set in the IDX format.

    Attributes:
        source: Where it is found: train images, train labels, test images, test labels.
        shapes: What these files hold.
        validation: Number of training examples that are kept for validation.
    """

    source: Source
    shapes: tuple[tuple[int, ...], ...]
    validation: int


def load_dataset(name: str, data_dir: Path | None = None, subset: Subset = _WHOLE, shrink: int = 1) -> Dataset:
    """Load a data set by its name.

    Args:
        name: "digits", "mnist", "fashion-mnist", "cifar10", "cifar100" or "stl10".
        data_dir: Folder with the files; None for the environment variable GEM_ACTIVATIONS_DATA, else for the user's
            cache folder. Files that are not there are downloaded to it and checked.
        subset: How many examples of each split are used.
        shrink: Side of the squares of a colour image whose mean becomes one pixel.
    Raises: DataError: a file is damaged or foreign, or is neither there nor can be downloaded.
    """
    if name == "digits":
        return _load_digits()
    if name in IDX_SOURCES:
        return load_idx_dataset(IDX_SOURCES[name], data_dir, subset)
    from .colour import load_colour

    return load_colour(name, data_dir, subset, shrink)


def load_idx_dataset(known: IdxSource, data_dir: Path | None = None, subset: Subset = _WHOLE) -> Dataset:
    """Load a data set in the IDX format; see `load_dataset`."""
    folder = find_folder(known.source, data_dir or default_data_dir())
    files = zip(known.source.items, known.shapes, strict=True)
    arrays = [_read_file(known.source, item, shape, folder) for item, shape in files]
    train, validation = separate((arrays[0], arrays[1]), known.validation)
    splits = zip((train, validation, (arrays[2], arrays[3])), dataclasses.astuple(subset), strict=True)
    return _make_dataset(*(choose(arrays, size) for arrays, size in splits), scale=255)


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    whole = (bunch.images.astype(np.uint8), bunch.target.astype(np.uint8))
    rest, test = separate(whole, 360)
    train, validation = separate(rest, 237)
    return _make_dataset(train, validation, test, scale=16)


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


def _draw(labels: NDArray[np.integer], size: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    from sklearn.model_selection import train_test_split

    every = np.arange(len(labels))
    rest, drawn = train_test_split(every, test_size=size, stratify=labels, random_state=_SPLIT_SEED)
    return np.asarray(rest), np.asarray(drawn)


def _make_dataset(train: Arrays, validation: Arrays, test: Arrays, scale: int) -> Dataset:
    pixels = train[0].astype(np.float32) / scale
    mean, deviation = float(pixels.mean(dtype=np.float64)), float(pixels.std(dtype=np.float64))

    def scaled(arrays: Arrays) -> Split:
        images, labels = arrays
        x = (images[:, None].astype(np.float32) / scale - np.float32(mean)) / np.float32(deviation)
        return Split(torch.from_numpy(x), torch.from_numpy(labels.astype(np.int64)))

    splits = {"train": train, "validation": validation, "test": test}
    checksums = {name: checksum(arrays) for name, arrays in splits.items()}
    return Dataset(scaled(train), scaled(validation), scaled(test), int(train[1].max()) + 1, checksums)


def checksum(arrays: Arrays) -> str:
    """Give the SHA-256 of pixels and labels."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read_file(source: Source, item: Item, shape: tuple[int, ...], folder: Path) -> NDArray[np.uint8]:
    path = folder / item.name
    if not path.exists():
        get_file(source, item, folder)
    array = read_idx(path, shape)  # It says what is wrong with a file, where a checksum only says that something is.
    holding = check_item(source, item, folder)
    if holding.state not in GOOD:
        raise DataError(
            f"{describe(holding)}; delete it to have the file of {source.title} downloaded, "
            f"or name a folder with {source.title} by --data-dir"
        )
    return array


_SHAPES = ((60000, 28, 28), (60000,), (10000, 28, 28), (10000,))
IDX_SOURCES = {name: IdxSource(SOURCES[name], _SHAPES, validation=5000) for name in ("mnist", "fashion-mnist")}
