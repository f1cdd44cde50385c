"""Turn text into tokens: GPT-2's byte-level BPE and BERT's WordPiece, from published files or trained on the text.

The work is done by the `tokenizers` library. No special token is known to it here, so that a text in which "[MASK]"
or "<|endoftext|>" is written cannot forge one; their ids are taken from the vocabulary.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
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
        streams = [np.empty(0, np.uint32)]
        for document in documents:
            pieces = cut(document)
            while several := list(islice(pieces, _PIECES)):
                encodings = self._library.encode_batch_fast(several, add_special_tokens=False)
                streams += [np.array(encoding.ids, np.uint32) for encoding in encodings]
            streams.append(np.array([self.end], np.uint32))
        return np.concatenate(streams)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; WordPiece has lost case, accents and line breaks."""
        return self._library.decode(list(ids), skip_special_tokens=False)


def find_published(kind: Kind, size: int, folders: Iterable[Path]) -> tuple[Path, ...] | None:
    """Return the files of the published tokenizer; None if there are none or another vocabulary size is wanted.

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
    library, size = import_tokenizers(), _PUBLISHED[kind][0]
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
    library = import_tokenizers()
    tokenizer = _with_rules(kind, library.models.BPE() if kind == "gpt2" else library.models.WordPiece())
    if kind == "gpt2":
        letters = sorted(library.pre_tokenizers.ByteLevel.alphabet())
        named, kind_of_trainer = [*_SPECIAL[kind]], library.trainers.BpeTrainer
    else:
        # The trainer numbers the letters within words in the order of a hash map, which differs from process to process
        # and decides between pairs that are equally frequent (huggingface/tokenizers, issue 1794): they are numbered
        # here, beforehand.
        counts: Counter[str] = Counter()
        for document in documents:
            counts.update(tokenizer.normalizer.normalize_str(document))
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
    tokenizer.train_from_iterator(chain.from_iterable(map(cut, documents)), trainer)
    # Read back without the special tokens: the trained one would find them in a text, too.
    if kind == "gpt2":
        trained = msgspec.json.decode(tokenizer.to_str())["model"]
        model = library.models.BPE(trained["vocab"], [tuple(merge) for merge in trained["merges"]])
    else:
        model = library.models.WordPiece(tokenizer.get_vocab(), unk_token=_SPECIAL[kind][1])
    return _assemble(kind, model, "trained on the training text")


def cut(document: str) -> Iterator[str]:
    """Cut a document into pieces of some 65,000 characters, across whose borders no token can lie.

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
    library = import_tokenizers()
    tokenizer = library.Tokenizer(model)
    if kind == "gpt2":
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
    else:
        tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = library.decoders.WordPiece()
    return tokenizer


def import_tokenizers() -> Any:
    """Import the library. Raises: MissingDependencyError: it is not installed, or too old."""
    with framework("tokenizers", at_least="0.22", install="'gem-activations[lab,huggingface]'"):
        import tokenizers
    return tokenizers
