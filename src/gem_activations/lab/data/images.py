"""Data sets of images as tensors that stay in memory, split into train, validation and test, and how they are read.

MNIST's files are IDX. CIFAR: records of one or two label bytes (coarse, fine) and the three planes of 32x32 pixels, row
by row. STL-10: one file of labels from 1 to 10, one of images of three planes of 96x96 pixels, column by column, and a
file with ten lines of training indices, the folds.
"""

import dataclasses
import gzip
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
from .holdings import SOURCES, Source, find_data_dir, find_dataset, get_dataset

_SPLIT_SEED = 0
WHOLE = Subset()
VALIDATION = 5000
_PLANES = 3
_FOLD_FILE = "fold_indices.txt"

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


def load_dataset(name: str, data_dir: Path | None = None, subset: Subset = WHOLE, shrink: int = 1) -> Dataset:
    """Load a data set by its name: digits, mnist, fashion-mnist, cifar10, cifar100 or stl10.

    CIFAR's 50,000 training images are split into 45,000 and 5,000 for validation, every class in proportion. STL-10's
    5,000 are kept together with the folds: the fold of a seed is its training set, and the others its validation set.
    Missing files are downloaded, but for STL-10's, of 2.6 GB, which only `gem-act data get stl10` fetches; digits come
    with scikit-learn.

    Args:
        shrink: Side of the squares of a colour image whose mean becomes one pixel; 1 leaves the images as they are.
    Raises: DataError: a file is altered, or is neither there nor can be downloaded.
    """
    if name == "digits":
        from sklearn import datasets

        bunch: Any = datasets.load_digits()
        rest, test = separate((bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)), 360)
        return _make_dataset(*separate(rest, 237), test, scale=16)
    if name in ("mnist", "fashion-mnist"):
        return load_mnist(SOURCES[name], data_dir, subset)
    folder = find_data_dir(data_dir)
    if name == "stl10":
        return read_stl10(find_dataset(name, folder), subset, shrink)
    return read_cifar(get_dataset(SOURCES[name], folder), subset, shrink, label_bytes=1 + (name == "cifar100"))


def load_mnist(
    source: Source, data_dir: Path | None = None, subset: Subset = WHOLE, *, validation: int = VALIDATION
) -> Dataset:
    """Load a data set in the IDX format, with so many training examples kept for validation; see `load_dataset`."""
    folder = get_dataset(source, find_data_dir(data_dir))
    x, y, test_x, test_y = (read_idx(folder / item.name) for item in source.items)
    splits = (*separate((x, y), validation), (test_x, test_y))
    sizes = dataclasses.astuple(subset)
    return _make_dataset(*(choose(*each) for each in zip(splits, sizes, strict=True)), scale=255)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a .gz IDX file of unsigned bytes: two zero bytes, the type of the elements, their rank, sizes, and they.

    The file is taken to be as published: its checksum is compared before.
    """
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


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


def read_cifar(folder: Path, subset: Subset, shrink: int = 1, *, label_bytes: int = 1) -> Dataset:
    """Read CIFAR-10 (one label byte) or CIFAR-100 (two; the second, the fine one, is the class)."""

    def read(*paths: Path) -> Arrays:
        content = np.concatenate([np.fromfile(path, np.uint8) for path in paths])
        table = content.reshape(-1, label_bytes + _PLANES * 32 * 32)
        return table[:, label_bytes:].reshape(-1, _PLANES, 32, 32), table[:, label_bytes - 1]

    names = ("data_batch_*.bin", "test_batch.bin") if label_bytes == 1 else ("train.bin", "test.bin")
    whole, test = read(*sorted(folder.glob(names[0]))), read(folder / names[1])
    train, validation = separate(whole, min(VALIDATION, len(whole[1]) // 10))
    parts = [choose(train, subset.train), choose(validation, subset.validation), choose(test, subset.test)]
    splits = (_to_split(arrays, shrink) for arrays in parts)
    checksums = {name: checksum(arrays) for name, arrays in zip(("train", "validation", "test"), parts, strict=True)}
    return Dataset(*splits, classes=int(whole[1].max()) + 1, checksums=checksums).standardised()


def read_stl10(folder: Path, subset: Subset, shrink: int = 1) -> Dataset:
    """Read the labelled images of STL-10 with the folds.

    Raises: DataError: a fold, of which no checksum is published, is not a list of training images.
    """

    def read(part: str) -> Arrays:
        pixels = np.fromfile(folder / f"{part}_X.bin", np.uint8).reshape(-1, _PLANES, 96, 96)
        return pixels.transpose(0, 1, 3, 2), np.fromfile(folder / f"{part}_y.bin", np.uint8) - np.uint8(1)

    train, test = read("train"), read("test")
    path, examples = folder / _FOLD_FILE, len(train[1])
    text = path.read_bytes()
    try:
        folds = tuple(tuple(int(word) for word in line.split()) for line in text.splitlines() if line.strip())
    except ValueError as error:
        raise DataError(f"{path} holds something else than numbers; fetch it again") from error
    if not folds or any(len({*fold}) != len(fold) or not 0 <= min(fold) <= max(fold) < examples for fold in folds):
        raise DataError(f"{path} does not list distinct indices below {examples}, one fold a line; fetch it again")
    test = choose(test, subset.test)
    checksums = {"train": checksum(train), "test": checksum(test), "folds": hashlib.sha256(text).hexdigest()}
    everything, nothing = _to_split(train, shrink), Split(torch.empty(0), torch.empty(0, dtype=torch.int64))
    classes = int(train[1].max()) + 1
    return Dataset(everything, nothing, _to_split(test, shrink), classes, checksums, folds=folds, subset=subset)


def _to_split(arrays: Arrays, shrink: int) -> Split:
    images, labels = arrays
    if shrink > 1:
        count, planes, height, width = images.shape
        squares = images.reshape(count, planes, height // shrink, shrink, width // shrink, shrink)
        images = squares.mean((3, 5), dtype=np.float32).round().astype(np.uint8)
    return Split(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64)))
