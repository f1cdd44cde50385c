import dataclasses
import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gem_activations.errors import DataError
from gem_activations.lab.data.holdings import Item, Source
from gem_activations.lab.data.images import load_dataset, load_mnist, separate

SHAPES = {
    "train-images.gz": (40, 5, 4),
    "train-labels.gz": (40,),
    "test-images.gz": (10, 5, 4),
    "test-labels.gz": (10,),
}

load = partial(load_mnist, validation=10)


def encode(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


@pytest.fixture
def files() -> dict[str, bytes]:
    noise = np.random.default_rng(7)
    made = {name: noise.integers(0, 256, shape, np.uint8) for name, shape in SHAPES.items()}
    for name in ("train-labels.gz", "test-labels.gz"):
        made[name] = np.arange(SHAPES[name][0], dtype=np.uint8) % 5
    return {name: encode(array) for name, array in made.items()}


@pytest.fixture
def source(files: dict[str, bytes]) -> Source:
    items = tuple(Item(name, f"md5:{hashlib.md5(files[name]).hexdigest()}") for name in SHAPES)
    return Source("Samples", ("Samples/raw", "samples", "."), (), items)


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("place", ["Samples/raw", "samples", "."])
def test_idx_data_set_is_read_from_the_usual_places(
    tmp_path: Path, files: dict[str, bytes], source: Source, place: str
) -> None:
    put(tmp_path / place, files)
    dataset = load(source, tmp_path)
    assert dataset.shape == (1, 5, 4)
    assert [len(split.y) for split in (dataset.train, dataset.validation, dataset.test)] == [30, 10, 10]
    raw = np.frombuffer(gzip.decompress(files["test-images.gz"])[16:], np.uint8).reshape(10, 5, 4)
    slope, offset = np.polyfit(raw.ravel(), dataset.test.x.numpy().ravel(), 1)
    np.testing.assert_allclose(dataset.test.x[:, 0].numpy(), slope * raw + offset, atol=1e-5)
    assert dataset.test.y.tolist() == [0, 1, 2, 3, 4] * 2
    assert dataset.test.y.dtype == torch.int64


def test_pixels_are_standardised_over_the_training_split_alone(
    tmp_path: Path, files: dict[str, bytes], source: Source
) -> None:
    dataset = load(source, put(tmp_path, files))
    assert dataset.train.x.double().mean().item() == pytest.approx(0, abs=1e-6)
    assert dataset.train.x.double().std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert abs(dataset.test.x.mean().item()) > 1e-4


def test_environment_variable_names_the_data_folder(
    tmp_path: Path, files: dict[str, bytes], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEM_ACTIVATIONS_DATA", str(put(tmp_path, files)))
    assert load(source).checksums == load(source, tmp_path).checksums


def test_digits_are_split_in_proportion_and_always_alike() -> None:
    first, second = load_dataset("digits"), load_dataset("digits")
    splits = (first.train, first.validation, first.test)
    assert [len(split.y) for split in splits] == [1200, 237, 360]
    assert first.checksums == second.checksums
    assert torch.equal(first.test.x, second.test.x)
    for split in splits:
        shares = torch.bincount(split.y) / len(split.y)
        assert (shares - 0.1).abs().max() < 0.01


def test_splits_share_no_example() -> None:
    distinct = np.zeros((40, 5, 4), np.uint8)
    distinct[:, 0, 0] = np.arange(40)
    labels = np.arange(40, dtype=np.uint8) % 5
    train, validation = separate((distinct, labels), 10)
    seen = [*train[0][:, 0, 0].tolist(), *validation[0][:, 0, 0].tolist()]
    assert sorted(seen) == list(range(40))
    assert np.array_equal(train[0][:, 0, 0] % 5, train[1])


def recompress(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda content: gzip.compress(change(gzip.decompress(content)))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "no gzip": lambda _: b"<html>not found</html>",
    "empty": lambda _: b"",
    "too long": recompress(lambda inside: inside + b"\0"),
    "one pixel altered": recompress(lambda inside: inside[:-1] + bytes([inside[-1] ^ 1])),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_file_is_one_clear_error_and_stays(
    tmp_path: Path, files: dict[str, bytes], source: Source, name: str
) -> None:
    bad = DAMAGES[name](files["train-images.gz"])
    put(tmp_path, {**files, "train-images.gz": bad})
    with pytest.raises(DataError, match=r"is altered: expected md5:.*; move or delete it") as caught:
        load(source, tmp_path)
    assert str(tmp_path / "train-images.gz") in str(caught.value)
    assert (tmp_path / "train-images.gz").read_bytes() == bad


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, files: dict[str, bytes]) -> Iterator[tuple[str, Path]]:
    folder = put(tmp_path / "served", files)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/", folder
        running.shutdown()
        thread.join()


def with_urls(source: Source, *urls: str) -> Source:
    return dataclasses.replace(source, urls=urls)


def test_missing_files_are_downloaded_checked_and_kept(
    tmp_path: Path, server: tuple[str, Path], files: dict[str, bytes], source: Source
) -> None:
    url, served = server
    here = tmp_path / "data"
    here.mkdir()
    dataset = load(with_urls(source, url), here)
    assert {path.name: path.read_bytes() for path in (here / "Samples/raw").glob("[!.]*")} == files
    for path in served.iterdir():
        path.unlink()
    assert load(with_urls(source, url), here).checksums == dataset.checksums


def test_altered_download_leaves_no_file_and_the_next_address_is_tried(
    tmp_path: Path, server: tuple[str, Path], files: dict[str, bytes], source: Source
) -> None:
    url, served = server
    altered = DAMAGES["one pixel altered"](files["train-images.gz"])
    (served / "train-images.gz").write_bytes(altered)
    here = tmp_path / "data"
    here.mkdir()
    with pytest.raises(DataError, match="not the published one") as caught:
        load(with_urls(source, url), here)
    assert "--data-dir" in str(caught.value)
    assert not list((here / "Samples/raw").glob("[!.]*"))
    put(served / "mirror", {"train-images.gz": files["train-images.gz"]})
    assert load(with_urls(source, url, url + "mirror/"), here).shape == (1, 5, 4)


def test_unreachable_address_is_one_clear_error(tmp_path: Path, server: tuple[str, Path], source: Source) -> None:
    url, served = server
    (served / "test-labels.gz").unlink()
    with pytest.raises(DataError, match=r"test-labels.gz is missing: .*the server answers 404"):
        load(with_urls(source, url), tmp_path)
    closed, empty = "http://127.0.0.1:1/", tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=f"is missing: .*{closed}train-images.gz: no connection"):
        load(with_urls(source, closed), empty)


def test_resplit_draws_every_split_anew_and_loses_no_example():
    whole = load_dataset("digits")
    first, again, other = whole.resplit(1), whole.resplit(1), whole.resplit(2)
    sizes = [len(getattr(whole, name).y) for name in ("train", "validation", "test")]
    for one in (first, other):
        assert [len(getattr(one, name).y) for name in ("train", "validation", "test")] == sizes
        assert float(one.train.x.mean()) == pytest.approx(0, abs=1e-6)
        classes = torch.cat([one.train.y, one.validation.y, one.test.y]).bincount()
        assert classes.tolist() == torch.cat([whole.train.y, whole.validation.y, whole.test.y]).bincount().tolist()
    assert torch.equal(first.test.x, again.test.x)
    assert not torch.equal(first.test.y, other.test.y)
