"""Small grey images: scikit-learn's digits, and the files of MNIST and Fashion-MNIST."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import DataError
from ..recipes.pipeline import Subset
from .holdings import GOOD, check_item, default_data_dir, describe, find_folder, get_file
from .idx import read_idx
from .sources import SOURCES, Item, Source
from .splits import WHOLE, Arrays, Dataset, Split, checksum, choose, separate


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


def load_idx_dataset(known: IdxSource, data_dir: Path | None = None, subset: Subset = WHOLE) -> Dataset:
    """Load a data set in the IDX format; see `load_dataset`."""
    folder = find_folder(known.source, data_dir or default_data_dir())
    files = zip(known.source.items, known.shapes, strict=True)
    arrays = [_read_file(known.source, item, shape, folder) for item, shape in files]
    train, validation = separate((arrays[0], arrays[1]), known.validation)
    splits = zip((train, validation, (arrays[2], arrays[3])), dataclasses.astuple(subset), strict=True)
    return _make_dataset(*(choose(arrays, size) for arrays, size in splits), scale=255)


def load_digits_dataset() -> Dataset:
    """Load scikit-learn's digits, which come with it."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
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
