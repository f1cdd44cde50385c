"""Turn text into tokens: GPT-2's byte-level BPE and BERT's WordPiece, from published files or trained on the text.

The work is done by the `tokenizers` library. No special token is known to it here, so that a text in which "[MASK]"
or "<|endoftext|>" is written cannot forge one; their ids are taken from the vocabulary.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, SettingError
from ...extras import framework

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Kind = Literal["gpt2", "bert"]
Ids = NDArray[np.uint32]

END_OF_TEXT = "<|endoftext|>"
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
_PIECE = 1 << 16  # Characters that are encoded at once; the library works on many pieces in parallel.
_PIECES = 128
_CUT = re.compile(r"(?<=\S)\n(?=\S)")  # Neither tokenizer joins anything across a single line break.


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer with what the lab asks of it.

    Attributes:
        kind: "gpt2" or "bert".
        size: Number of tokens that it knows; ids run from 0 to size - 1.
        special: Ids of the special tokens by name.
        origin: Where it comes from, in words.
        digest: SHA-256 of its vocabulary and rules.
    """

    kind: Kind
    size: int
    special: dict[str, int]
    origin: str
    digest: str
    _library: "Tokenizer"

    @property
    def end(self) -> int:
        """Id of the token that stands after each document."""
        return self.special[_END[self.kind]]

    def encode(self, documents: Iterable[str]) -> Ids:
        """Return the ids of documents, one after the other, each followed by the end token: (tokens,), uint32."""
        streams = [part for document in documents for part in (*self._encode_one(document), self._end_ids())]
        return np.concatenate(streams) if streams else np.empty(0, np.uint32)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; WordPiece has lost case, accents and line breaks."""
        return self._library.decode(list(ids), skip_special_tokens=False)

    def _encode_one(self, document: str) -> Iterator[Ids]:
        pieces = cut(document)
        while several := list(islice(pieces, _PIECES)):
            encodings = self._library.encode_batch_fast(several, add_special_tokens=False)
            yield from (np.array(encoding.ids, dtype=np.uint32) for encoding in encodings)

    def _end_ids(self) -> Ids:
        return np.array([self.end], dtype=np.uint32)


def find_published(kind: Kind, size: int, folders: Iterable[Path]) -> tuple[Path, ...] | None:
    """Find the files of the published tokenizer; None where there are none or another vocabulary size is wanted.

    Args:
        kind: "gpt2": encoder.json and vocab.bpe (or vocab.json and merges.txt); "bert": bert-base-uncased-vocab.txt
            (or vocab.txt).
        size: Tokens that are wanted; the published files have 50,257 and 30,522.
        folders: Where they may lie, the first that has any of them counts.
    Raises: DataError: one of two files is missing.
    """
    published, variants = _PUBLISHED[kind]
    if size != published:
        return None
    for folder in folders:
        for names in variants:
            paths = tuple(folder / name for name in names)
            missing = [path.name for path in paths if not path.is_file()]
            if not missing:
                return paths
            if len(missing) < len(paths):
                raise DataError(
                    f"{folder} holds {names[0] if missing != [names[0]] else names[1]} but not {missing[0]}: put both "
                    f"files of the published tokenizer there, or neither to have one trained on the text"
                )
    return None


def load_published(kind: Kind, files: tuple[Path, ...]) -> TextTokenizer:
    """Load a published tokenizer from the files that `find_published` found.

    Raises: DataError: a file cannot be read, or is not the published vocabulary.
    """
    library, size = _library(), _PUBLISHED[kind][0]
    names = " and ".join(str(path) for path in files)
    try:
        model = (
            library.models.BPE.from_file(str(files[0]), str(files[1]))
            if kind == "gpt2"
            else library.models.WordPiece.from_file(str(files[0]), unk_token="[UNK]")
        )
    except Exception as error:  # The library raises Exception itself, for a missing file as for a damaged one.
        raise DataError(f"{names} cannot be read as a tokenizer ({error}); fetch the published files again") from error
    tokenizer = _assemble(kind, model, f"published, {names}")
    if tokenizer.size != size:
        raise DataError(f"{names}: {tokenizer.size} tokens, expected the {size} published ones; fetch the files again")
    return tokenizer


def train_tokenizer(kind: Kind, size: int, documents: Sequence[str]) -> TextTokenizer:
    """Train a tokenizer on documents: the same documents give the same tokenizer, in any process.

    Args:
        kind: "gpt2" for byte-level BPE, "bert" for WordPiece in lower case without accents.
        size: Tokens at most; a short text gives fewer.
        documents: The training split alone, so that nothing of the others is known to the tokenizer.
    Raises: SettingError: the size is below 257 tokens for BPE, 64 for WordPiece.
    """
    least = 257 if kind == "gpt2" else 64
    if size < least:
        raise SettingError(f"a vocabulary of {size} tokens is too small: a {kind} tokenizer needs at least {least}")
    model = _train_bpe(size, documents) if kind == "gpt2" else _train_wordpiece(size, documents)
    return _assemble(kind, model, "trained on the training text")


def cut(document: str) -> Iterator[str]:
    """Cut a document into pieces of some 65,000 characters, where no token can lie across.

    Example:
        >>> "".join(cut("one line\\n" * 20_000)) == "one line\\n" * 20_000
        True
    """
    start = 0
    while start < len(document):
        found = _CUT.search(document, start + _PIECE)
        stop = found.end() if found else len(document)
        yield document[start:stop]
        start = stop


def _train_bpe(size: int, documents: Sequence[str]) -> Any:
    library = _library()
    tokenizer = _with_rules("gpt2", library.models.BPE())
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    _train(tokenizer, library.trainers.BpeTrainer, size, documents, [*_SPECIAL["gpt2"]], alphabet)
    # Read back without the special token: the trained one would find it in a text, too.
    model = json.loads(tokenizer.to_str())["model"]
    return library.models.BPE(model["vocab"], [tuple(merge) for merge in model["merges"]])


def _train_wordpiece(size: int, documents: Sequence[str]) -> Any:
    """Train WordPiece with its letters numbered beforehand.

    The trainer numbers the letters within words in the order of a hash map, which differs from process to process and
    decides between pairs that are equally frequent (huggingface/tokenizers, issue 1794).
    """
    library = _library()
    tokenizer = _with_rules("bert", library.models.WordPiece())
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(tokenizer.normalizer.normalize_str(document))
    usual = sorted((letter for letter in counts if not letter.isspace()), key=lambda letter: (-counts[letter], letter))
    letters = sorted(usual[: min(_LETTERS, size // 8)])
    named = [*_SPECIAL["bert"], *letters, *(f"##{letter}" for letter in letters)]
    _train(tokenizer, library.trainers.WordPieceTrainer, size, documents, named, letters)
    return library.models.WordPiece(tokenizer.get_vocab(), unk_token=_SPECIAL["bert"][1])


def _train(
    tokenizer: Any, trainer: Any, size: int, documents: Sequence[str], named: list[str], alphabet: list[str]
) -> None:
    pieces = chain.from_iterable(map(cut, documents))
    settings: dict[str, Any] = {"vocab_size": size, "min_frequency": _MIN_FREQUENCY, "show_progress": False}
    settings["limit_alphabet"] = len(alphabet)
    tokenizer.train_from_iterator(pieces, trainer(special_tokens=named, initial_alphabet=alphabet, **settings))


def _assemble(kind: Kind, model: Any, origin: str) -> TextTokenizer:
    tokenizer = _with_rules(kind, model)
    vocabulary = tokenizer.get_vocab()
    absent = [name for name in _SPECIAL[kind] if name not in vocabulary]
    if absent:
        raise DataError(f"the tokenizer ({origin}) lacks {', '.join(absent)}; fetch the published files again")
    return TextTokenizer(
        kind=kind,
        size=len(vocabulary),
        special={name: vocabulary[name] for name in _SPECIAL[kind]},
        origin=origin,
        digest=hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        _library=tokenizer,
    )


def _with_rules(kind: Kind, model: Any) -> Any:
    library = _library()
    tokenizer = library.Tokenizer(model)
    if kind == "gpt2":
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
    else:
        tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = library.decoders.WordPiece()
    return tokenizer


def _library() -> Any:
    with framework("tokenizers", at_least="0.22", install="'gem-activations[lab,huggingface]'"):
        import tokenizers
    return tokenizers
