"""The tokens of a corpus, made once and kept in a cache folder."""

import contextlib
import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock

from ...files import write_atomically
from .corpus import SPLITS, Texts, checksum
from .tokenizer import Ids, Kind, TextTokenizer, find_published, load_published, train_tokenizer

_FORMAT = 1


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
    """Return the tokens of a corpus, from the cache where they are intact there.

    The published tokenizer is used where `size` is its own and its files are found; else one is trained on the training
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
    identity = _identify(texts, kind, size, files)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = (cache_dir or default_cache_dir()) / f"{kind}-{key[:32]}.npz"
    with _locked(path):
        tokens = _read(path, identity)
        if tokens is None:
            tokens = _encode(texts, load_published(kind, files) if files else train_tokenizer(kind, size, texts.train))
            _write(path, identity, tokens)
    return tokens


def _identify(texts: Texts, kind: Kind, size: int, files: tuple[Path, ...] | None) -> dict[str, Any]:
    """Return everything that the tokens depend on."""
    published = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files or ()]
    return {
        "format": _FORMAT,
        "kind": kind,
        "size": size,
        "published": published,
        "tokenizers": _version(),
        **{name: checksum(getattr(texts, name)) for name in SPLITS},
    }


def _version() -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("tokenizers")
    return "unknown"


def _encode(texts: Texts, tokenizer: TextTokenizer) -> Tokens:
    streams = {name: tokenizer.encode(getattr(texts, name)) for name in SPLITS}
    return Tokens(**streams, size=tokenizer.size, special=tokenizer.special, tokenizer=tokenizer.digest)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time make a file; without a lock where the folder cannot be written."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
        yield


def _read(path: Path, identity: dict[str, Any]) -> Tokens | None:
    """Read tokens back; None where they are missing, damaged or others."""
    try:
        # From memory: of a damaged file that it opened itself, NumPy leaves the handle open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            header = json.loads(stored["header"].tobytes())
            streams = {name: stored[name].astype(np.uint32) for name in SPLITS}
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile):
        return None
    if header.get("identity") != identity or header.get("checksums") != _checksums(streams):
        return None
    return Tokens(**streams, **header["vocabulary"])


def _write(path: Path, identity: dict[str, Any], tokens: Tokens) -> None:
    streams = {name: getattr(tokens, name) for name in SPLITS}
    header = {
        "identity": identity,
        "checksums": _checksums(streams),
        "vocabulary": {"size": tokens.size, "special": tokens.special, "tokenizer": tokens.tokenizer},
    }
    narrow = np.uint16 if tokens.size <= 1 << 16 else np.uint32
    content = io.BytesIO()
    np.savez(
        content,
        header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
        **{name: ids.astype(narrow) for name, ids in streams.items()},
    )
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        reason = error.strerror or error
        warnings.warn(
            f"the tokens cannot be kept in {path.parent} ({reason}); they are made anew each time", stacklevel=2
        )


def _checksums(streams: dict[str, Ids]) -> dict[str, str]:
    return {name: hashlib.sha256(np.ascontiguousarray(ids).data).hexdigest() for name, ids in streams.items()}
