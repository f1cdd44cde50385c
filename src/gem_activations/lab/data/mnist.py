"""Small grey images: scikit-learn's digits, and the files of MNIST and Fashion-MNIST."""

import dataclasses
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..recipes.pipeline import Subset
from .holdings import find_data_dir, get_dataset
from .sources import Source
from .splits import WHOLE, Arrays, Dataset, Split, checksum, choose, separate


def load_mnist(
    source: Source, data_dir: Path | None = None, subset: Subset = WHOLE, *, validation: int = 5000
) -> Dataset:
    """Load a data set in the IDX format; see `images.load_dataset`.

    Args:
        source: Where it is found; its files are train images, train labels, test images and test labels.
        data_dir: Folder with the files; None for the default one.
        subset: How many examples of each split are used.
        validation: Number of training examples that are kept for validation.
    Raises: DataError: a file is damaged or foreign, or is neither there nor can be downloaded.
    """
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


def load_digits() -> Dataset:
    """Load scikit-learn's digits, which come with it."""
    from sklearn import datasets

    bunch: Any = datasets.load_digits()
    whole = (bunch.images.astype(np.uint8), bunch.target.astype(np.uint8))
    rest, test = separate(whole, 360)
    train, validation = separate(rest, 237)
    return _make_dataset(train, validation, test, scale=16)


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
