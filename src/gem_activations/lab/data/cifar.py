"""Read CIFAR-10, CIFAR-100 and STL-10 in their binary formats, as bytes that stay bytes until a batch is made.

CIFAR: records of one or two label bytes (coarse, fine) and the three planes of 32x32 pixels, row by row. STL-10: one
file of labels from 1 to 10, one of images of three planes of 96x96 pixels, column by column, and a file with ten lines
of training indices, the folds.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from ...errors import DataError
from ..recipes.pipeline import Subset
from .holdings import find_data_dir, find_dataset, get_dataset
from .sources import SOURCES
from .splits import Arrays, Dataset, Split, checksum, choose, separate

VALIDATION = 5000
_PLANES = 3
_FOLD_FILE = "fold_indices.txt"


def load_cifar(name: str, data_dir: Path | None, subset: Subset, shrink: int) -> Dataset:
    """Load a data set of colour images.

    CIFAR's 50,000 training images are split into 45,000 and 5,000 for validation, every class in proportion. STL-10's
    5,000 are kept together with the folds: the fold of a seed is its training set, and the others its validation set.

    Args:
        name: "cifar10", "cifar100" or "stl10".
        data_dir: Folder with the files; None for the default one. CIFAR's archives are downloaded if they are not
            there; STL-10's, of 2.6 GB, only by `gem-act data get stl10`.
        subset: How many examples of each split are used.
        shrink: Side of the squares whose mean becomes one pixel; 1 leaves the images as they are.
    Raises: DataError: a file is missing, damaged or foreign.
    """
    folder = find_data_dir(data_dir)
    if name == "stl10":
        return read_stl10(find_dataset(name, folder), subset, shrink)
    return read_cifar(get_dataset(SOURCES[name], folder), subset, shrink, label_bytes=1 + (name == "cifar100"))


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
