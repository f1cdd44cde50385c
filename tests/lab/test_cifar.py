import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from gem_activations.errors import DataError
from gem_activations.lab.data.holdings import SOURCES, Item, Source, find_dataset
from gem_activations.lab.data.images import Dataset, load_dataset, read_cifar, read_stl10
from gem_activations.lab.recipes.pipeline import Subset

WHOLE = Subset()


def cifar_records(count: int, label_bytes: int, seed: int) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Images (N, 3, 32, 32), classes, and the records as the format has them, all written out from its description."""
    noise = np.random.default_rng(seed)
    images = noise.integers(0, 256, (count, 3, 32, 32), np.uint8)
    classes = np.arange(count, dtype=np.uint8) % 10
    content = b""
    for image, fine in zip(images, classes, strict=True):
        labels = bytes([fine]) if label_bytes == 1 else bytes([fine // 2, fine])
        content += labels + b"".join(plane.tobytes() for plane in image)
    return images, classes, content


@pytest.fixture
def cifar10(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    batches = [cifar_records(40, 1, seed) for seed in range(5)]
    for number, (_, _, content) in enumerate(batches, 1):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(content)
    images, classes, test = cifar_records(20, 1, 9)
    (tmp_path / "test_batch.bin").write_bytes(test)
    return tmp_path, images, classes


def stl10(folder: Path, examples: int = 30, folds: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(3)
    images = noise.integers(0, 256, (examples, 3, 96, 96), np.uint8)
    classes = np.arange(examples) % 10
    for part in ("train", "test"):
        # Column by column, and labels from 1.
        content = b"".join(bytes(plane[:, column]) for image in images for plane in image for column in range(96))
        (folder / f"{part}_X.bin").write_bytes(content)
        (folder / f"{part}_y.bin").write_bytes(bytes(int(label) + 1 for label in classes))
    lines = folds if folds is not None else "".join(" ".join(map(str, range(i, i + 20))) + " \n" for i in (0, 10))
    (folder / "fold_indices.txt").write_text(lines)
    return images, classes


def test_cifar10_records_are_label_and_planes(cifar10: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, images, classes = cifar10
    dataset = read_cifar(folder, WHOLE)
    assert dataset.shape == (3, 32, 32)
    assert dataset.classes == 10
    assert [len(split.y) for split in (dataset.train, dataset.validation, dataset.test)] == [180, 20, 20]
    assert np.array_equal(dataset.test.x.numpy(), images)
    assert dataset.test.y.tolist() == classes.tolist()
    assert torch.bincount(dataset.validation.y).tolist() == [2] * 10


def test_cifar100_class_is_the_second_byte(tmp_path: Path) -> None:
    images, classes, content = cifar_records(60, 2, 1)
    (tmp_path / "train.bin").write_bytes(content * 10)
    (tmp_path / "test.bin").write_bytes(content)
    dataset = read_cifar(tmp_path, WHOLE, label_bytes=2)
    assert dataset.test.y.tolist() == classes.tolist()
    assert np.array_equal(dataset.test.x.numpy(), images)


def test_channels_are_standardised_over_the_training_split(cifar10: tuple[Path, np.ndarray, np.ndarray]) -> None:
    dataset = read_cifar(cifar10[0], WHOLE)
    assert dataset.train.x.dtype == torch.uint8
    scaled = dataset.scaled(dataset.train.x).double()
    assert scaled.dtype == torch.float64
    assert torch.allclose(scaled.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(scaled.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-5)
    assert abs(dataset.scaled(dataset.test.x).mean().item()) > 1e-4


def test_shrunk_pixel_is_the_mean_of_its_square(cifar10: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, images, _ = cifar10
    dataset = read_cifar(folder, WHOLE, shrink=2)
    assert dataset.shape == (3, 16, 16)
    corner = images[3, 1, 4:6, 10:12].astype(float).mean()
    assert abs(int(dataset.test.x[3, 1, 2, 5]) - corner) <= 0.5


def test_subset_keeps_the_classes_in_proportion(cifar10: tuple[Path, np.ndarray, np.ndarray]) -> None:
    first, second = (read_cifar(cifar10[0], Subset(50, 10, 10)) for _ in range(2))
    assert torch.bincount(first.train.y).tolist() == [5] * 10
    assert torch.bincount(first.validation.y).tolist() == torch.bincount(first.test.y).tolist() == [1] * 10
    assert torch.equal(first.train.x, second.train.x)
    assert first.checksums == second.checksums
    assert first.checksums != read_cifar(cifar10[0], WHOLE).checksums


def test_stl10_planes_are_column_by_column_and_labels_from_1(tmp_path: Path) -> None:
    images, classes = stl10(tmp_path)
    dataset = read_stl10(tmp_path, WHOLE)
    assert np.array_equal(dataset.test.x.numpy(), images)
    assert dataset.test.y.tolist() == classes.tolist()
    assert dataset.classes == 10


def test_fold_of_a_seed_trains_and_the_rest_validates(tmp_path: Path) -> None:
    images, _ = stl10(tmp_path)
    dataset = read_stl10(tmp_path, WHOLE)
    folds = [dataset.fold(seed) for seed in range(3)]
    assert np.array_equal(folds[0].train.x.numpy(), images[:20])
    assert np.array_equal(folds[0].validation.x.numpy(), images[20:])
    assert np.array_equal(folds[1].train.x.numpy(), images[10:])
    assert torch.equal(folds[2].train.x, folds[0].train.x)
    assert all(torch.equal(fold.test.x, dataset.test.x) for fold in folds)
    means = [fold.scaled(fold.train.x).mean().item() for fold in folds]
    assert means == pytest.approx([0, 0, 0], abs=1e-5)
    small = read_stl10(tmp_path, Subset(10, 10, 10)).fold(0)
    assert [len(split.y) for split in (small.train, small.validation, small.test)] == [10, 10, 10]


@pytest.mark.parametrize(
    "folds", ["", "0 1 x\n", "0 1 1\n", "0 30\n", "-1 2\n"], ids=["none", "word", "twice", "beyond", "negative"]
)
def test_folds_that_are_no_indices_are_refused(tmp_path: Path, folds: str) -> None:
    stl10(tmp_path, folds=folds)
    with pytest.raises(DataError, match=r"fold_indices\.txt"):
        read_stl10(tmp_path, WHOLE)


def test_published_files_are_checked_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    stl10(folder)
    known = SOURCES["stl10"]
    items = tuple(
        Item(item.name, f"md5:{hashlib.md5((folder / item.name).read_bytes()).hexdigest()}") for item in known.items
    )
    monkeypatch.setitem(SOURCES, "stl10", Source(known.title, known.folders, known.urls, items, known.archive))
    loaded: Dataset = load_dataset("stl10", tmp_path)
    assert len(loaded.folds) == 2
    (folder / "train_y.bin").write_bytes(bytes(30))
    with pytest.raises(DataError, match=r"train_y\.bin is altered.*gem-act data get stl10"):
        load_dataset("stl10", tmp_path)
    (folder / "train_y.bin").unlink()
    with pytest.raises(DataError, match=r"train_y\.bin is missing.*--data-dir"):
        find_dataset("stl10", tmp_path)
