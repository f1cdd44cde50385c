"""Where data sets come from, and what lies in a data folder: find files, check them, fetch and unpack what is missing.

Every archive and every file that is downloaded by itself has a checksum that its publisher, or a library that has
checked it for years, states. A file inside an archive without a published one has none here: it is checked as
part of its archive. Downloads are pooch's: checked, and under their name only when they are whole.
"""

import contextlib
import logging
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pooch
import requests
from filelock import FileLock
from rich.console import Console

from ...errors import DataError, SettingError
from ...grammar import suggest

DATA_DIR_VARIABLE = "GEM_ACTIVATIONS_DATA"
ATTEMPTS = 3
"""Connections to an address before the next one is tried."""
TIMEOUT = 30.0
"""Seconds without an answer, or without a byte, after which a connection is given up."""

pooch.get_logger().setLevel(logging.WARNING)  # It tells of every file on standard error.


@dataclass(frozen=True)
class Item:
    """One file: of a data set, or an archive.

    Attributes:
        name: Its name in the data set's folder.
        digest: Checksum as "md5:..." or "sha256:..."; None if none is published.
        address: Its name at the web addresses; the same name if empty.
    """

    name: str
    digest: str | None
    address: str = ""


@dataclass(frozen=True)
class Source:
    """One data set and where it is found.

    Attributes:
        title: Name for messages.
        folders: Where in the data folder the files may lie; a download goes to the first.
        urls: Web addresses of the folder that holds the files or the archive, tried in this order.
        items: The files that the readers need.
        archive: What is downloaded instead of the single files; it holds them in a folder called `folders[0]`.
        licence: What the publisher says of its use.
    """

    title: str
    folders: tuple[str, ...]
    urls: tuple[str, ...]
    items: tuple[Item, ...]
    archive: Item | None = None
    licence: str = "not stated by the publisher"


def find_source(name: str) -> Source:
    """Return the source of a data set by its name.

    Raises: SettingError: no data set has that name; the nearest are offered.
    Example:
        >>> find_source("cifar10").archive.name
        'cifar-10-binary.tar.gz'
    """
    if name not in SOURCES:
        hint = suggest(name, SOURCES, "the data sets are")
        raise SettingError(f"no data set to download is called {name!r}; {hint}")
    return SOURCES[name]


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx(*md5: str) -> tuple[Item, ...]:
    return tuple(Item(f"{name}.gz", f"md5:{digest}") for name, digest in zip(_IDX, md5, strict=True))


SOURCES: dict[str, Source] = {
    "mnist": Source(
        title="MNIST",
        folders=("MNIST/raw", "mnist", "."),
        urls=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        items=_idx(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion-mnist": Source(
        title="Fashion-MNIST",
        folders=("FashionMNIST/raw", "fashion-mnist", "fashion", "."),
        urls=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        items=_idx(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        licence="MIT",
    ),
    "cifar10": Source(
        title="CIFAR-10, binary version",
        folders=("cifar-10-batches-bin", "cifar10", "."),
        urls=("https://www.cs.toronto.edu/~kriz/",),
        archive=Item("cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"),
        items=(
            Item("data_batch_1.bin", "sha256:cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
            Item("data_batch_2.bin", "sha256:a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
            Item("data_batch_3.bin", "sha256:bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
            Item("data_batch_4.bin", "sha256:014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
            Item("data_batch_5.bin", "sha256:755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
            Item("test_batch.bin", "sha256:8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
        ),
    ),
    "cifar100": Source(
        title="CIFAR-100, binary version",
        folders=("cifar-100-binary", "cifar100", "."),
        urls=("https://www.cs.toronto.edu/~kriz/",),
        archive=Item("cifar-100-binary.tar.gz", "md5:03b5dce01913d631647c71ecec9e9cb8"),
        items=(
            Item("train.bin", "sha256:f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
            Item("test.bin", "sha256:d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
        ),
    ),
    "stl10": Source(
        title="STL-10, binary version (the labelled images)",
        folders=("stl10_binary", "stl10", "."),
        urls=("http://ai.stanford.edu/~acoates/stl10/", "https://cs.stanford.edu/~acoates/stl10/"),
        archive=Item("stl10_binary.tar.gz", "md5:91f7769df0f17e558f3565bffb0c7dfb"),
        items=(
            Item("train_X.bin", "md5:918c2871b30a85fa023e0c44e0bee87f"),
            Item("train_y.bin", "md5:5a34089d4802c674881badbb80307741"),
            Item("test_X.bin", "md5:7f263ba9f9e0b06b93213547f721ac82"),
            Item("test_y.bin", "md5:36f9794fa4beb8a2c72628de14fa638e"),
            Item("fold_indices.txt", None),
        ),
    ),
    "tinyshakespeare": Source(
        title="tiny Shakespeare",
        folders=("text", "tinyshakespeare", "."),
        urls=("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",),
        items=(
            Item(
                "tinyshakespeare.txt",
                "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                address="input.txt",
            ),
        ),
        licence="public domain",
    ),
    "wikitext-2": Source(
        title="WikiText-2, tokens",
        folders=("wikitext-2", "text", "."),
        # The first is the author's own; the second, the paper's, was seen dead.
        urls=("https://wikitext.smerity.com/", "https://s3.amazonaws.com/research.metamind.io/wikitext/"),
        archive=Item("wikitext-2-v1.zip", "md5:542ccefacc6c27f945fb54453812b3cd"),
        items=(
            Item("wiki.train.tokens", None),
            Item("wiki.valid.tokens", "sha256:f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"),
            Item("wiki.test.tokens", "sha256:d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"),
        ),
        licence="CC BY-SA 3.0",
    ),
}


State = Literal["intact", "unchecked", "missing", "altered"]
GOOD: tuple[State, ...] = ("intact", "unchecked")


@dataclass(frozen=True)
class Holding:
    """One file of a data set as it was found.

    Attributes:
        path: Where it is, or where a download would put it.
        state: "intact": of the published checksum. "unchecked": there, but no checksum of it is published.
            "missing". "altered": damaged, or the file of another data set.
        detail: What was found, for a message; empty if the state says it all.
    """

    path: Path
    state: State
    detail: str = ""

    def __str__(self) -> str:
        """Return in words what was found.

        Example:
            >>> print(Holding(Path("data/test.bin"), "altered", "expected md5:12"))
            data/test.bin is altered: expected md5:12
        """
        if self.state == "unchecked":
            return f"{self.path} is there, {self.detail}"
        return f"{self.path} is {self.state}{self.detail and f': {self.detail}'}"


def find_data_dir(given: Path | None = None) -> Path:
    """Return the data folder that is given, else that of GEM_ACTIVATIONS_DATA, else one in the user's cache.

    Raises: SettingError: there is no such folder as the one that is given; it may be a typing error, and is not made.
    """
    if given is not None:
        if not given.exists():
            raise SettingError(f"--data-dir {given}: there is no such folder; make it, or name another")
        return given
    return Path(os.environ.get(DATA_DIR_VARIABLE) or pooch.os_cache("gem-activations"))


def find_folder(source: Source, data_dir: Path) -> Path:
    """Return the first of the usual folders that holds a file of the data set, else the one to download to."""
    candidates = [data_dir / name for name in source.folders]
    found = (folder for folder in candidates if any((folder / item.name).exists() for item in source.items))
    return next(found, candidates[0])


def check_dataset(source: Source, data_dir: Path) -> list[Holding]:
    """Return what is there of every file of a data set.

    Raises: DataError: a file cannot be read.
    """
    folder = find_folder(source, data_dir)
    try:
        return [_check(item, folder / item.name) for item in source.items]
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error


def _check(item: Item, path: Path) -> Holding:
    if not path.exists():
        return Holding(path, "missing")
    if item.digest is None:
        return Holding(path, "unchecked", "no checksum of it is published")
    return (
        Holding(path, "intact") if matches(path, item.digest) else Holding(path, "altered", f"expected {item.digest}")
    )


def find_dataset(name: str, data_dir: Path) -> Path:
    """Return the folder with the files of a data set, all of them there and as published; nothing is downloaded.

    Raises: DataError: one is not; the message says what to do.
    """
    source = SOURCES[name]
    for holding in check_dataset(source, data_dir):
        if holding.state not in GOOD:
            raise DataError(
                f"{holding}; run `gem-act data get {name}`, or name a folder with {source.title} by --data-dir"
            )
    return find_folder(source, data_dir)


def get_dataset(source: Source, data_dir: Path, *, bar: bool = False) -> Path:
    """Bring every file of a data set into a data folder; what is there and good is not downloaded again.

    An archive that lies in the data folder under its own name is used and kept; one that is downloaded is removed once
    its files are unpacked and checked. Return the folder of the files.

    Raises: DataError: a file that is there is altered (it is left as it is), or one cannot be downloaded.
    """
    folder = find_folder(source, data_dir)
    if not _missing(source, data_dir):
        return folder
    with lock_folder(data_dir):
        missing = _missing(source, data_dir)  # Another process may have been faster.
        if source.archive is not None and missing:
            _get_archive(source, source.archive, missing, data_dir, bar)
        for item in [] if source.archive else missing:
            urls = [url + (item.address or item.name) for url in source.urls]
            folder.mkdir(parents=True, exist_ok=True)
            try:
                fetch(urls, folder / item.name, str(item.digest), bar=bar)
            except DataError as error:
                raise DataError(
                    f"{folder / item.name} is missing: {error}; put the files of {source.title} there, or name their "
                    "folder by --data-dir"
                ) from error
    return folder


def _missing(source: Source, data_dir: Path) -> list[Item]:
    holdings = check_dataset(source, data_dir)
    for holding in holdings:
        if holding.state not in (*GOOD, "missing"):
            raise DataError(
                f"{holding}; move or delete it to have the file of {source.title} downloaded, "
                f"or name a folder with {source.title} by --data-dir"
            )
    return [item for item, holding in zip(source.items, holdings, strict=True) if holding.state == "missing"]


def _get_archive(source: Source, archive: Item, missing: list[Item], data_dir: Path, bar: bool) -> None:
    """Unpack files of an archive from its folder `source.folders[0]`, each under its name when it is checked."""
    own, folder = data_dir / archive.name, find_folder(source, data_dir)
    kept = own.exists()
    if kept and not matches(own, str(archive.digest)):
        raise DataError(f"{own} is altered: expected {archive.digest}; delete it to have it downloaded")
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=data_dir) as place:
        members = [f"{source.folders[0]}/{item.name}" for item in missing]
        unpack = pooch.Unzip if archive.name.endswith(".zip") else pooch.Untar
        urls = [url + archive.name for url in source.urls]
        try:
            processor = unpack(members=members, extract_dir=place)
            fetch(urls, own, str(archive.digest), processor=processor, bar=bar)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, KeyError) as error:
            raise DataError(
                f"{own} is no intact archive with {', '.join(members)} ({error}); fetch it again"
            ) from error
        finally:
            if not kept:
                own.unlink(missing_ok=True)
        unpacked = {item: Path(place, source.folders[0], item.name) for item in missing}
        absent = [item.name for item, path in unpacked.items() if not path.is_file() or path.is_symlink()]
        if absent:
            raise DataError(f"{archive.name} does not hold {', '.join(absent)} of {source.title}; fetch it again")
        for item, path in unpacked.items():
            found = _check(item, path)
            if found.state not in GOOD:
                raise DataError(f"{item.name} in {archive.name} is not the published file: it is {found.state}")
        folder.mkdir(parents=True, exist_ok=True)
        for item, path in unpacked.items():
            path.chmod(0o644)
            path.replace(folder / item.name)


def fetch(urls: Sequence[str], target: Path, digest: str, *, processor: Any = None, bar: bool = False) -> None:
    """Download a file from the first address that gives it whole. The caller holds the folder's lock.

    A file that is there under the target's name with that checksum is taken.

    Args:
        digest: Checksum that it must have, as "md5:..." or "sha256:...".
        processor: One of pooch's, called once the file is there.
    Raises: DataError: no address gives the file with that checksum. OSError: it cannot be written.
    """
    problems: list[str] = []
    for url in urls:
        files: dict[str, Any] = {"registry": {target.name: digest}, "urls": {target.name: url}}
        store = pooch.create(target.parent, "", **files, retry_if_failed=ATTEMPTS - 1)
        # A server that compresses on the way would send other bytes than the published ones.
        headers = {"Accept-Encoding": "identity"}
        downloader: Any = pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT, headers=headers)
        try:
            store.fetch(target.name, processor=processor, downloader=downloader)
        except requests.RequestException as error:
            reason = "no connection" if isinstance(error, requests.ConnectionError) else "the connection broke"
            if error.response is not None:
                reason = f"the server answers {error.response.status_code} {error.response.reason}".rstrip()
            elif isinstance(error, requests.Timeout) or "timed out" in str(error):
                reason = "no answer in time"
            problems.append(f"{url}: {reason}")
        except ValueError:
            problems.append(f"{url}: the file there is not the published one")
        else:
            return
    raise DataError(f"cannot download {target.name} ({'; '.join(problems)})")


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make a folder if it is missing, and hold it against other processes that download to it.

    Raises: DataError: something in it cannot be written; the system's error within the block is told so too.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            yield
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write to {folder}: {reason}; name another folder by --data-dir") from error


def matches(path: Path, digest: str) -> bool:
    """Return whether a file has a checksum, "md5:..." or "sha256:...". MD5 tells files apart; it stops no attacker."""
    algorithm, _, wanted = digest.partition(":")
    return pooch.file_hash(str(path), alg=algorithm) == wanted


def get_all(names: tuple[str, ...], data_dir: Path | None, console: Console) -> list[Path]:
    """Fetch data sets that are not in a data folder yet, a line on the console for each; what is there is checked.

    If the console is a terminal, a bar on standard error shows a download. Return the folder of each data set.

    Raises: SettingError: no name or an unknown one, or no such folder; DataError: as `get_dataset`.
    """
    if not names:
        raise SettingError(f"name at least one data set: {', '.join(SOURCES)}")
    folders: list[Path] = []
    for name, source in {name: find_source(name) for name in names}.items():
        folders.append(get_dataset(source, find_data_dir(data_dir), bar=console.is_terminal))
        line = f"{name}: {len(source.items)} files in {folders[-1]} (licence: {source.licence})"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return folders


def check_all(names: tuple[str, ...], data_dir: Path | None, console: Console) -> None:
    """Print what is there of data sets, one line a file; without names, of those of which a file is there.

    Raises: SettingError: an unknown name, or no such folder; DataError: after the lines, if a file is altered, or is
        missing from a data set that is named, or there in part.
    """
    folder = find_data_dir(data_dir)
    bad: list[Holding] = []
    for name, source in {name: find_source(name) for name in names or SOURCES}.items():
        holdings = check_dataset(source, folder)
        absent = not names and all(holding.state == "missing" for holding in holdings)
        for line in ["not there"] if absent else map(str, holdings):
            console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)
        bad += [holding for holding in holdings if holding.state not in GOOD and not absent]
    if bad:
        raise DataError(
            f"{len(bad)} of the files in {folder} are not as published, the first being {bad[0].path} "
            f"({bad[0].state}); delete what is damaged, then fetch it with gem-act data get"
        )
