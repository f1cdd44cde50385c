"""The tokens of a corpus, made once and kept in a cache folder."""

import contextlib
import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import msgspec
import numpy as np
from filelock import FileLock

from ...files import write_atomically
from .corpus import SPLITS, Texts, checksum
from .tokenizer import Ids, Kind, find_published, import_tokenizers, load_published, train_tokenizer

_FORMAT = 2


@dataclass(frozen=True)
class Tokens:
    """A corpus as one stream of token ids a split: documents one after the other, an end token after each.

    Attributes:
        train, validation, test: (tokens,) uint32.
        size: Number of tokens that the tokenizer knows.
        special: Ids of its special tokens by name.
        tokenizer: SHA-256 of its vocabulary and rules.
    """

    train: Ids
    validation: Ids
    test: Ids
    size: int
    special: dict[str, int]
    tokenizer: str


def default_cache_dir() -> Path:
    """Return the folder in which tokens are kept: `tokens` in the user's cache folder."""
    import pooch

    return Path(pooch.os_cache("gem-activations")) / "tokens"


def load_tokens(texts: Texts, kind: Kind, size: int, folders: Sequence[Path], cache_dir: Path | None = None) -> Tokens:
    """Return the tokens of a corpus, from the cache if they are intact there.

    The published tokenizer is used if `size` is its own and its files are found; else one is trained on the training
    documents. A cache folder that cannot be written is done without, with a warning.

    Args:
        texts: The corpus.
        kind: "gpt2" or "bert".
        size: Tokens of the vocabulary, at most.
        folders: Where files of a published tokenizer may lie, see `find_published`.
        cache_dir: Cache folder; None for `default_cache_dir`.
    Raises: DataError: a file of the tokenizer is missing or damaged; MissingDependencyError: no `tokenizers` library.
    """
    files = find_published(kind, size, folders)
    identity = {
        "format": _FORMAT,
        "kind": kind,
        "size": size,
        "published": [hashlib.sha256(path.read_bytes()).hexdigest() for path in files or ()],
        "tokenizers": import_tokenizers().__version__,
        **{name: checksum(getattr(texts, name)) for name in SPLITS},
    }
    key = hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest()
    path = (cache_dir or default_cache_dir()) / f"{kind}-{key[:32]}.npz"
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
