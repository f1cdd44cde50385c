"""Text as documents in three splits, and as tokens that stay in memory.

A corpus is any text file, or any folder of text files. A line `<|endoftext|>` ends a document within a file.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError

END_OF_TEXT = "<|endoftext|>"
SPLITS = ("train", "validation", "test")
_SUFFIXES = (".txt", ".text", ".tokens")
_NAMES = {"train": "train", "valid": "validation", "validation": "validation", "val": "validation", "test": "test"}
_USUAL = ("text/books", "text")
_HELD_OUT = 0.05  # Share of the characters of each of validation and test, if the split is ours.
_LARGE = 2 * _HELD_OUT


@dataclass(frozen=True)
class Texts:
    """Documents in three splits.

    Attributes:
        train, validation, test: Documents; none of them is empty, and none stands in two splits unless there are
            fewer than three in all.
        origin: File or folder they were read from.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    origin: Path

    def shorten(self, characters: dict[str, int | None]) -> "Texts":
        """Return the beginnings of the documents, so that each split has so many characters at most; see `shorten`."""
        parts = {name: shorten(getattr(self, name), characters.get(name)) for name in SPLITS}
        return Texts(**parts, origin=self.origin)


def find_corpus(place: Path) -> Path:
    """Return the text at a place: the text file that it is, or else its folder text/books, text, or itself.

    Raises: DataError: there is no text.
    """
    if place.is_file():
        return place
    for folder in (*(place / name for name in _USUAL), place):
        if folder.is_dir() and _list_files(folder):
            return folder
    raise DataError(
        f"no text found: expected text files (*{', *'.join(_SUFFIXES)}) in {place / 'text'}, such as train.txt, "
        "valid.txt and test.txt in text/books; put any text there, or name a text file or a folder of text files "
        "by --data-dir"
    )


def read_texts(corpus: Path) -> Texts:
    """Read a corpus, UTF-8, and split it by document, the same way each time.

    A folder with files (or folders) called train, valid (or validation, or val) and test is split as they say.
    Otherwise the documents are put in the order of their SHA-256, and validation and test take documents from its
    beginning until each has 5 % of the characters; documents of more than 10 % stay in train. Fewer than three
    documents are each cut at line breaks: 90 % for train, 5 % for validation, 5 % for test.

    Raises: DataError: a file cannot be read, is no UTF-8 or empty, or a document stands in two of the given splits.
    """
    given = _given_splits(corpus)
    if given:
        texts = Texts(**{name: _read_documents(given[name]) for name in SPLITS}, origin=corpus)
        owner: dict[str, str] = {}
        for name in SPLITS:
            for document in getattr(texts, name):
                other = owner.setdefault(document, name)
                if other != name:
                    raise DataError(
                        f"{corpus}: the document that begins {' '.join(document[:60].split())!r} stands in {other} and "
                        f"in {name}; remove it from one of them"
                    )
        return texts
    documents = _read_documents(corpus)
    splits = _deal(documents) if len(documents) >= len(SPLITS) else _cut(documents)
    return Texts(*splits, origin=corpus)


def shorten(documents: Sequence[str], characters: int | None) -> tuple[str, ...]:
    """Return the beginnings of documents, equally long as far as the documents reach; None leaves them whole.

    Example:
        >>> shorten(["a", "bbbbb", "cccc"], 7)
        ('a', 'bbb', 'ccc')
    """
    if characters is None:
        return tuple(documents)
    kept: dict[int, str] = {}
    left = characters
    by_length = sorted(range(len(documents)), key=lambda index: len(documents[index]))
    for rank, index in enumerate(by_length):
        kept[index] = documents[index][: left // (len(documents) - rank)]
        left -= len(kept[index])
    return tuple(kept[index] for index in sorted(kept) if kept[index])


def checksum(documents: Sequence[str]) -> str:
    """Return the SHA-256 of documents, in hexadecimal digits; where one ends and the next begins counts."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(_digest(document))
    return digest.hexdigest()


def _given_splits(corpus: Path) -> dict[str, Path] | None:
    """Return the files or folders that are named as splits; None if not all three are there."""
    found: dict[str, Path] = {}
    for entry in sorted(corpus.glob("[!.]*")):  # Nothing, if it is a file.
        name = _NAMES.get((entry.name if entry.is_dir() else entry.stem).lower())
        if name and (entry.is_dir() or entry.suffix in _SUFFIXES):
            if name in found:
                raise DataError(f"{found[name]} and {entry} both stand for the {name} split; remove one of them")
            found[name] = entry
    return found if len(found) == len(SPLITS) else None


def _read_documents(place: Path) -> tuple[str, ...]:
    """Read the documents of a file or folder; of equal ones the first is kept."""
    documents: dict[str, None] = {}
    for path in _list_files(place) if place.is_dir() else [place]:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is no UTF-8 text (byte {error.start}); convert it, or name another corpus"
            ) from error
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        documents |= {part.strip("\n"): None for part in text.split(END_OF_TEXT) if part.strip()}
    if not documents:
        raise DataError(f"{place} holds no text; put a text file there, or name another one by --data-dir")
    return tuple(documents)


def _list_files(folder: Path) -> list[Path]:
    """List the text files of a folder at any depth, in an order that is the same on every machine."""
    files = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sorted(
        (path for path in files if path.suffix in _SUFFIXES and not path.name.startswith(".")),
        key=lambda path: path.relative_to(folder).as_posix(),
    )


def _deal(documents: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Deal three or more documents out to train, validation and test."""
    total = sum(map(len, documents))
    order = sorted(range(len(documents)), key=lambda index: _digest(documents[index]))
    # If all are large, the smallest ones have to do.
    small = [index for index in order if len(documents[index]) <= _LARGE * total]
    queue = small if len(small) >= len(SPLITS) else sorted(order, key=lambda index: len(documents[index]))
    held_out: list[set[int]] = []
    for wanting in (2, 1):  # Splits that still need a document of the queue.
        taken: set[int] = set()
        while not taken or (len(queue) > wanting and sum(len(documents[index]) for index in taken) < _HELD_OUT * total):
            taken.add(queue.pop(0))
        held_out.append(taken)
    train = set(order) - held_out[0] - held_out[1]
    return tuple(tuple(documents[index] for index in sorted(part)) for part in (train, *held_out))


def _cut(documents: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Cut each document into its first 90 %, the next 5 % and the last 5 %, at line breaks if there are any."""
    parts: list[tuple[str, str, str]] = []
    for document in documents:
        ends: list[int] = []
        for share in (1 - 2 * _HELD_OUT, 1 - _HELD_OUT):
            place = round(share * len(document))
            # After the next line break, unless that is further than 1 % of the document.
            found = document.find("\n", place, place + len(document) // 100)
            ends.append(found + 1 if found >= 0 else place)
        parts.append((document[: ends[0]], document[ends[0] : ends[1]], document[ends[1] :]))
    return tuple(tuple(part for part in split if part.strip()) for split in zip(*parts, strict=True))


def _digest(document: str) -> bytes:
    return hashlib.sha256(document.encode()).digest()
