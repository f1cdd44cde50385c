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
    if name in SOURCES:
        return load_idx_dataset(SOURCES[name], data_dir, subset)
    from .colour import load_colour

    return load_colour(name, data_dir, subset, shrink)


def load_idx_dataset(source: IdxSource, data_dir: Path | None = None, subset: Subset = _WHOLE) -> Dataset:
    """Load a data set in the IDX format; see `load_dataset`."""
    folder = _find_folder(source, data_dir or _default_data_dir())
    arrays = [_read_file(source, file, folder) for file in source.files]
    train, validation = separate((arrays[0], arrays[1]), source.validation)
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

    rest, drawn = train_test_split(np.arange(len(labels)), test_size=size, stratify=labels, random_state=_SPLIT_SEED)
    return rest, drawn


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
