"""Text as documents in three splits, and as tokens that stay in memory.

A corpus is any text file, or any folder of text files. A line `<|endoftext|>` ends a document within a file. Text is
turned into tokens by GPT-2's byte-level BPE or BERT's WordPiece, once: a cache folder keeps them.

The work is done by the `tokenizers` library, put together here: its ready classes for the two find special tokens in a
text in which "[MASK]" is written, and train another WordPiece in every process. No special token is known to the
library here, so that a text cannot forge one; their ids are taken from the vocabulary.
"""

import contextlib
import hashlib
import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

import msgspec
import numpy as np
import pooch
from filelock import FileLock
from numpy.typing import NDArray

from ...errors import DataError, SettingError
from ...extras import framework
from ...files import write_atomically

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
SPLITS = ("train", "validation", "test")
_SUFFIXES = (".txt", ".text", ".tokens")
_NAMES = {"train": "train", "valid": "validation", "validation": "validation", "val": "validation", "test": "test"}
_USUAL = ("text/books", "text")
_HELD_OUT = 0.05  # Share of the characters of each of validation and test, if the split is ours.
_LARGE = 2 * _HELD_OUT
Kind = Literal["gpt2", "bert"]
Ids = NDArray[np.uint32]

_SPECIAL: dict[Kind, tuple[str, ...]] = {
    "gpt2": (END_OF_TEXT,),
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
}
_END: dict[Kind, str] = {"gpt2": END_OF_TEXT, "bert": "[SEP]"}
_PUBLISHED: dict[Kind, tuple[int, tuple[tuple[str, ...], ...]]] = {
    "gpt2": (50257, (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))),
    "bert": (30522, (("bert-base-uncased-vocab.txt",), ("vocab.txt",))),
}
_MIN_FREQUENCY = 2
_LETTERS = 1000  # Of WordPiece; rarer ones become [UNK].
_LINES = 1 << 14  # Encoded at once: the library works on many in parallel.
_FORMAT = 2  # Of the cache.


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
    splits = _deal(documents) if len(documents) >= len(SPLITS) else _split_each(documents)
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


def _split_each(documents: Sequence[str]) -> tuple[tuple[str, ...], ...]:
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


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer with what the lab asks of it: ids run from 0 to size - 1, `digest` is of vocabulary and rules."""

    kind: Kind
    size: int
    special: dict[str, int]
    digest: str
    _library: "Tokenizer"

    @property
    def end(self) -> int:
        """Id of the token that stands after each document."""
        return self.special[_END[self.kind]]

    def encode(self, documents: Iterable[str]) -> Ids:
        """Return the ids of documents, one after the other, each followed by the end token: (tokens,), uint32."""
        streams = [np.empty(0, np.uint32)]
        for lines in map(cut, documents):
            for start in range(0, len(lines), _LINES):
                found = self._library.encode_batch_fast(lines[start : start + _LINES], add_special_tokens=False)
                streams.append(np.fromiter(chain.from_iterable(encoding.ids for encoding in found), np.uint32))
            streams.append(np.array([self.end], np.uint32))
        return np.concatenate(streams)


@dataclass(frozen=True)
class Tokens:
    """A corpus as one stream of token ids a split, (tokens,) uint32: documents with an end token after each.

    `size`, `special` (ids by name) and `tokenizer` (a digest) are those of the tokenizer.
    """

    train: Ids
    validation: Ids
    test: Ids
    size: int
    special: dict[str, int]
    tokenizer: str


def load_tokens(texts: Texts, kind: Kind, size: int, folders: Sequence[Path], cache_dir: Path | None = None) -> Tokens:
    """Return the tokens of a corpus, from the cache if they are intact there.

    The published tokenizer is used if `size` is its own and its files are found; else one of so many tokens at most is
    trained on the training documents. The cache folder is `tokens` in the user's if none is given; one that cannot be
    written is done without, with a warning.

    Raises: DataError: a file of the tokenizer is missing or damaged; MissingDependencyError: no `tokenizers` library.
    """
    files = find_published(kind, size, folders)
    identity = {
        "format": _FORMAT,
        "kind": kind,
        "size": size,
        "published": [hashlib.sha256(path.read_bytes()).hexdigest() for path in files or ()],
        "tokenizers": _import_tokenizers().__version__,
        **{name: checksum(getattr(texts, name)) for name in SPLITS},
    }
    key = hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest()
    path = (cache_dir or Path(pooch.os_cache("gem-activations")) / "tokens") / f"{kind}-{key[:32]}.npz"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # A folder that cannot be written has no lock.
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
        tokens = _read(path)
        if tokens is None:
            tokenizer = load_published(kind, files) if files else train_tokenizer(kind, size, texts.train)
            streams = {name: tokenizer.encode(getattr(texts, name)) for name in SPLITS}
            tokens = Tokens(**streams, size=tokenizer.size, special=tokenizer.special, tokenizer=tokenizer.digest)
            _write(path, tokens)
    return tokens


def _read(path: Path) -> Tokens | None:
    """Read tokens back; None if they are missing or damaged, which the checksums of a zip archive tell."""
    try:
        # From memory: of a damaged file that it opened itself, NumPy leaves the handle open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            streams = {name: stored[name].astype(np.uint32) for name in SPLITS}
            return Tokens(**streams, **msgspec.json.decode(stored["vocabulary"].tobytes()))
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile):
        return None


def _write(path: Path, tokens: Tokens) -> None:
    vocabulary = {"size": tokens.size, "special": tokens.special, "tokenizer": tokens.tokenizer}
    narrow = np.uint16 if tokens.size <= 1 << 16 else np.uint32
    streams = {name: getattr(tokens, name).astype(narrow) for name in SPLITS}
    content = io.BytesIO()
    np.savez(content, vocabulary=np.frombuffer(msgspec.json.encode(vocabulary), np.uint8), **streams)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        warnings.warn(
            f"the tokens cannot be kept in {path.parent} ({error.strerror or error}); they are made anew each time",
            stacklevel=2,
        )


def find_published(kind: Kind, size: int, folders: Iterable[Path]) -> tuple[Path, ...] | None:
    """Return the files of the published tokenizer, of the first folder that has any of them.

    None: there are none, or another vocabulary size is wanted.

    Raises: DataError: one of two files is missing.
    """
    published, variants = _PUBLISHED[kind]
    for folder in folders if size == published else ():
        for names in variants:
            missing = [name for name in names if not (folder / name).is_file()]
            if not missing:
                return tuple(folder / name for name in names)
            if len(missing) < len(names):
                raise DataError(
                    f"{folder} holds {', '.join({*names} - {*missing})} but not {missing[0]}: put both files of the "
                    "published tokenizer there, or neither to have one trained on the text"
                )
    return None


def load_published(kind: Kind, files: tuple[Path, ...]) -> TextTokenizer:
    """Load a published tokenizer from the files that `find_published` found.

    Raises: DataError: a file cannot be read, or is not the published vocabulary.
    """
    models, size = _import_tokenizers().models, _PUBLISHED[kind][0]
    names = " and ".join(map(str, files))
    try:
        rules = {} if kind == "gpt2" else {"unk_token": "[UNK]"}
        model = (models.BPE if kind == "gpt2" else models.WordPiece).from_file(*map(str, files), **rules)
    except Exception as error:  # The library raises Exception itself, for a missing file as for a damaged one.
        raise DataError(f"{names} cannot be read as a tokenizer ({error}); fetch the published files again") from error
    library = _with_rules(kind, model)
    absent = [name for name in _SPECIAL[kind] if library.token_to_id(name) is None]
    if absent or library.get_vocab_size() != size:
        what = f"lacks {', '.join(absent)}" if absent else f"{library.get_vocab_size()} tokens"
        raise DataError(f"{names}: {what}, expected the {size} published tokens; fetch the files again")
    return _wrap(kind, library)


def train_tokenizer(kind: Kind, size: int, documents: Sequence[str]) -> TextTokenizer:
    """Train byte-level BPE, or WordPiece in lower case without accents, of so many tokens at most on documents.

    The documents, those of the training split alone, give the same tokenizer in any process.

    Raises: SettingError: the size is below 257 tokens for BPE, 64 for WordPiece.
    """
    least = 257 if kind == "gpt2" else 64
    if size < least:
        raise SettingError(f"a vocabulary of {size} tokens is too small: a {kind} tokenizer needs at least {least}")
    library = _import_tokenizers()
    trained = _with_rules(kind, library.models.BPE() if kind == "gpt2" else library.models.WordPiece())
    if kind == "gpt2":
        letters = sorted(library.pre_tokenizers.ByteLevel.alphabet())
        named, kind_of_trainer = [*_SPECIAL[kind]], library.trainers.BpeTrainer
    else:
        # The trainer numbers the letters within words in the order of a hash map, which differs from process to process
        # and decides between pairs that are equally frequent (huggingface/tokenizers, issue 1794): they are numbered
        # here, beforehand.
        counts: Counter[str] = Counter()
        for document in documents:
            counts.update(trained.normalizer.normalize_str(document))
        usual = sorted((letter for letter in counts if not letter.isspace()), key=lambda each: (-counts[each], each))
        letters = sorted(usual[: min(_LETTERS, size // 8)])
        named = [*_SPECIAL[kind], *letters, *(f"##{letter}" for letter in letters)]
        kind_of_trainer = library.trainers.WordPieceTrainer
    trainer = kind_of_trainer(
        vocab_size=size,
        min_frequency=_MIN_FREQUENCY,
        show_progress=False,
        special_tokens=named,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
    )
    trained.train_from_iterator(chain.from_iterable(map(cut, documents)), trainer)
    # Read back without the special tokens: the trained one would find them in a text, too.
    if kind == "gpt2":
        found = msgspec.json.decode(trained.to_str())["model"]
        return _wrap(kind, _with_rules(kind, library.models.BPE(found["vocab"], list(map(tuple, found["merges"])))))
    return _wrap(kind, _with_rules(kind, library.models.WordPiece(trained.get_vocab(), unk_token="[UNK]")))


def cut(document: str) -> list[str]:
    r"""Cut a document behind the line breaks that neither tokenizer joins anything across: single ones.

    Example:
        >>> cut("one\ntwo\n\nthree\n")
        ['one\n', 'two\n\nthree\n']
    """
    return re.split(r"(?<=\S\n)(?=\S)", document)


def _with_rules(kind: Kind, model: Any) -> Any:
    library = _import_tokenizers()
    tokenizer = library.Tokenizer(model)
    if kind == "gpt2":
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
    else:
        tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = library.decoders.WordPiece()
    return tokenizer


def _wrap(kind: Kind, library: "Tokenizer") -> TextTokenizer:
    special: Any = {name: library.token_to_id(name) for name in _SPECIAL[kind]}
    digest = hashlib.sha256(library.to_str().encode()).hexdigest()
    return TextTokenizer(kind, library.get_vocab_size(), special, digest, library)


def _import_tokenizers() -> Any:
    with framework("tokenizers", at_least="0.22", install="'gem-activations[lab,huggingface]'"):
        import tokenizers
    return tokenizers
