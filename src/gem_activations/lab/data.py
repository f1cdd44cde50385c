"""The data sets of the recipes, as tensors that stay in memory, split into train, validation and test."""

import dataclasses
import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from .idx import md5, read_idx
from .pipeline import Subset

DATA_DIR_VARIABLE = "GEM_ACTIVATIONS_DATA"
_SPLIT_SEED = 0
_WHOLE = Subset()

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Split:
    """Examples with their classes: x (N, channels, height, width) float32 and y (N,) int64."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> "Split":
        """Give the same split on a device."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set in three splits that share no example.

    Attributes:
        train, validation, test: The splits; pixels have mean 0 and standard deviation 1 over the training split.
        classes: Number of classes.
        checksums: SHA-256 of each split's pixels and labels as they were read, before scaling.
    """

    train: Split
    validation: Split
    test: Split
    classes: int
    checksums: dict[str, str]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.train.x.shape[1:])

    def scaled(self, x: Tensor) -> Tensor:
        """Give pixels as the model takes them: float32, standardised."""
        return x

    def fold(self, _: int) -> "Dataset":
        """Give the data set of one seed: the same one, as these have no predefined folds."""
        return self

    def to(self, device: torch.device) -> "Dataset":
        """Give the same data set on a device."""
        train, validation, test = (split.to(device) for split in (self.train, self.validation, self.test))
        return Dataset(train, validation, test, self.classes, self.checksums)


@dataclass(frozen=True)
class IdxFile:
    """One file of a data set in the IDX format: name, MD5 sum of the .gz file, shape inside."""

    name: str
    md5: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class IdxSource:
    """A data set in the IDX format and where it is found.

    Attributes:
        title: Name for messages.
        folders: Where in the data folder the files may lie; a download goes to the first.
        urls: Folders on the web, tried in this order.
        files: Train images, train labels, test images, test labels.
        validation: Number of training examples that are kept for validation.
    """

    title: str
    folders: tuple[str, ...]
    urls: tuple[str, ...]
    files: tuple[IdxFile, IdxFile, IdxFile, IdxFile]
    validation: int


def load_dataset(name: str, data_dir: Path | None = None, subset: Subset = _WHOLE) -> Dataset:
    """Load a data set by its name.

    Args:
        name: "digits", "mnist" or "fashion-mnist".
        data_dir: Folder with the files; None for the environment variable GEM_ACTIVATIONS_DATA, else for the user's
            cache folder. Files that are not there are downloaded to it and checked.
        subset: How many examples of each split are used.
    Raises: DataError: a file is damaged or foreign, or is neither there nor can be downloaded.
    """
    if name == "digits":
        return _load_digits()
    return load_idx_dataset(SOURCES[name], data_dir, subset)


def load_idx_dataset(source: IdxSource, data_dir: Path | None = None, subset: Subset = _WHOLE) -> Dataset:
    """Load a data set in the IDX format; see `load_dataset`."""
    folder = _find_folder(source, data_dir or _default_data_dir())
    arrays = [_read_file(source, file, folder) for file in source.files]
    train, validation = _separate((arrays[0], arrays[1]), source.validation)
    splits = zip((train, validation, (arrays[2], arrays[3])), dataclasses.astuple(subset), strict=True)
    return _make_dataset(*(_reduce(arrays, size) for arrays, size in splits), scale=255)


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    whole = (bunch.images.astype(np.uint8), bunch.target.astype(np.uint8))
    rest, test = _separate(whole, 360)
    train, validation = _separate(rest, 237)
    return _make_dataset(train, validation, test, scale=16)


def _separate(arrays: Arrays, size: int) -> tuple[Arrays, Arrays]:
    """Split off `size` examples, every class in proportion; the same ones each time."""
    from sklearn.model_selection import train_test_split

    images, labels = arrays
    every = np.arange(len(labels))
    rest, split_off = train_test_split(every, test_size=size, stratify=labels, random_state=_SPLIT_SEED)
    return (images[rest], labels[rest]), (images[split_off], labels[split_off])


def _reduce(arrays: Arrays, size: int | None) -> Arrays:
    """Keep so many examples, every class in proportion; the same ones each time."""
    return arrays if size is None or size >= len(arrays[1]) else _separate(arrays, size)[1]


def _make_dataset(train: Arrays, validation: Arrays, test: Arrays, scale: int) -> Dataset:
    pixels = train[0].astype(np.float32) / scale
    mean, deviation = float(pixels.mean(dtype=np.float64)), float(pixels.std(dtype=np.float64))

    def scaled(arrays: Arrays) -> Split:
        images, labels = arrays
        x = (images[:, None].astype(np.float32) / scale - np.float32(mean)) / np.float32(deviation)
        return Split(torch.from_numpy(x), torch.from_numpy(labels.astype(np.int64)))

    splits = {"train": train, "validation": validation, "test": test}
    checksums = {name: _checksum(arrays) for name, arrays in splits.items()}
    return Dataset(scaled(train), scaled(validation), scaled(test), int(train[1].max()) + 1, checksums)


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _default_data_dir() -> Path:
    if os.environ.get(DATA_DIR_VARIABLE):
        return Path(os.environ[DATA_DIR_VARIABLE])
    import pooch

    return Path(pooch.os_cache("gem-activations"))


def _find_folder(source: IdxSource, data_dir: Path) -> Path:
    candidates = [data_dir / name for name in source.folders]
    found = (folder for folder in candidates if any((folder / file.name).exists() for file in source.files))
    return next(found, candidates[0])


def _read_file(source: IdxSource, file: IdxFile, folder: Path) -> NDArray[np.uint8]:
    path = folder / file.name
    if not path.exists():
        _download(source, file, folder)
    array = read_idx(path, file.shape)
    found = md5(path)
    if found == file.md5:
        return array
    owner = next((other.title for other in SOURCES.values() for known in other.files if known.md5 == found), None)
    if owner:
        raise DataError(f"{path} is the file of {owner}; name a folder with {source.title} by --data-dir")
    raise DataError(
        f"{path} is altered: its MD5 sum is {found}, expected {file.md5}; delete it to have it downloaded, "
        f"or put the file of {source.title} there"
    )


def _download(source: IdxSource, file: IdxFile, folder: Path) -> None:
    import pooch

    fetch: Any = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)
    pooch.get_logger().setLevel("WARNING")
    problems: list[str] = []
    for url in source.urls:
        try:
            pooch.retrieve(url + file.name, f"md5:{file.md5}", file.name, folder, downloader=fetch)
        except (OSError, ValueError) as error:  # requests raises OSErrors, pooch ValueError for another checksum.
            problems.append(f"{url}: {_reason(error)}")
        else:
            return
    raise DataError(
        f"{folder / file.name} is missing and cannot be downloaded ({'; '.join(problems)}); "
        f"put the .gz files of {source.title} there, or name their folder with --data-dir"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return "the file there is not the published one"
    return getattr(error, "strerror", None) or type(error).__name__


def _idx_files(train_images: str, train_labels: str, test_images: str, test_labels: str) -> Any:
    return (
        IdxFile("train-images-idx3-ubyte.gz", train_images, (60000, 28, 28)),
        IdxFile("train-labels-idx1-ubyte.gz", train_labels, (60000,)),
        IdxFile("t10k-images-idx3-ubyte.gz", test_images, (10000, 28, 28)),
        IdxFile("t10k-labels-idx1-ubyte.gz", test_labels, (10000,)),
    )


SOURCES: dict[str, IdxSource] = {
    "mnist": IdxSource(
        title="MNIST",
        folders=("MNIST/raw", "mnist", "."),
        urls=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        files=_idx_files(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        validation=5000,
    ),
    "fashion-mnist": IdxSource(
        title="Fashion-MNIST",
        folders=("FashionMNIST/raw", "fashion-mnist", "fashion", "."),
        urls=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        files=_idx_files(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        validation=5000,
    ),
}
