import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gem_activations.errors import DataError, MissingDependencyError, SettingError
from gem_activations.lab.data import text as text_data
from gem_activations.lab.data.text import (
    SPLITS,
    Texts,
    cut,
    find_corpus,
    find_published,
    load_published,
    load_tokens,
    read_texts,
    shorten,
    train_tokenizer,
)

WORDS = ["the", "sea", "was", "calm", "and", "grey", "under", "low", "clouds", "two", "gulls", "cried", "boat"]


def prose(seed: int, words: int = 400) -> str:
    """Draw text that no other seed gives, a line break after every tenth word."""
    draw = random.Random(seed)
    picked = [draw.choice(WORDS) for _ in range(words)]
    return f"Book {seed}.\n" + "\n".join(" ".join(picked[at : at + 10]) for at in range(0, words, 10))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def all_of(texts: Texts) -> list[str]:
    return [document for name in SPLITS for document in getattr(texts, name)]


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    return Texts(tuple(prose(seed) for seed in range(6)), (prose(6),), (prose(7),), tmp_path)


def test_named_splits_are_kept_and_documents_end_at_the_marker(tmp_path: Path) -> None:
    books = tmp_path / "text" / "books"
    write(books / "train.txt", f"{prose(1)}\n<|endoftext|>\n{prose(2)}\n<|endoftext|>\n")
    write(books / "valid.txt", prose(3))
    write(books / "test.txt", prose(4))
    write(books / "SOURCE.md", "not a text of the corpus")
    write(tmp_path / "text" / "other.txt", "not in the folder of books")
    found = find_corpus(tmp_path)
    assert found == books
    assert read_texts(found) == Texts((prose(1), prose(2)), (prose(3),), (prose(4),), books)


def test_splits_may_be_folders(tmp_path: Path) -> None:
    for index, name in enumerate(("train/a.txt", "train/deep/b.txt", "validation/c.txt", "test/d.txt")):
        write(tmp_path / name, prose(index))
    texts = read_texts(find_corpus(tmp_path))
    assert (texts.train, texts.validation, texts.test) == ((prose(0), prose(1)), (prose(2),), (prose(3),))


def test_a_document_in_two_given_splits_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", f"{prose(1)}\n<|endoftext|>\n{prose(2)}")
    write(tmp_path / "valid.txt", prose(3))
    write(tmp_path / "test.txt", f"{prose(2)}\n")
    with pytest.raises(DataError, match=r"'Book 2\. .*stands in train and in test"):
        read_texts(tmp_path)


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train.txt", "val.txt", "valid.txt", "test.txt"):
        write(tmp_path / name, prose(len(name)))
    with pytest.raises(DataError, match=r"both stand for the validation split"):
        read_texts(tmp_path)


@pytest.mark.parametrize(
    "sizes", [[400] * 40, [400, 400, 400], [9000, 30, 60], [9000, 8000, 30, 30], [5000] + [90] * 30]
)
def test_documents_are_dealt_out_whole(tmp_path: Path, sizes: list[int]) -> None:
    documents = [prose(seed, words) for seed, words in enumerate(sizes)]
    for seed, document in enumerate(documents):
        write(tmp_path / f"{seed:03d}.txt", document)
    texts = read_texts(tmp_path)
    assert sorted(all_of(texts)) == sorted(documents)
    assert texts.train
    assert texts.validation
    assert texts.test
    total = sum(map(len, documents))
    if len(sizes) == 40:
        for held_out in (texts.validation, texts.test):
            assert 0.05 <= sum(map(len, held_out)) / total < 0.1
    if max(sizes) >= 5000:
        assert max(documents, key=len) in texts.train


def test_dealing_depends_on_the_documents_alone(tmp_path: Path) -> None:
    for seed in range(20):
        write(tmp_path / "one" / f"{seed:02d}.txt", prose(seed))
        write(tmp_path / "two" / f"{99 - seed}.txt", prose(seed) + "\n")
    one, two = read_texts(tmp_path / "one"), read_texts(tmp_path / "two")
    assert set(one.validation) == set(two.validation)
    assert set(one.test) == set(two.test)


def test_equal_documents_are_one(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 1), ("d", 3), ("e", 2)):
        write(tmp_path / f"{name}.txt", prose(seed))
    assert sorted(all_of(read_texts(tmp_path))) == sorted(prose(seed) for seed in (1, 2, 3))


def test_a_single_text_is_cut_at_line_breaks_and_nothing_is_lost(tmp_path: Path) -> None:
    whole = prose(1, 5000)
    texts = read_texts(write(tmp_path / "a.tale", whole))
    assert "".join(all_of(texts)) == whole
    assert all(part[0].endswith("\n") for part in (texts.train, texts.validation))
    shares = [len(part[0]) / len(whole) for part in (texts.train, texts.validation, texts.test)]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.01)


def test_no_text_names_what_was_expected_and_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected text files \(\*\.txt.*\) in .*text.*--data-dir"):
        find_corpus(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"caf\xe9", r"no UTF-8 text \(byte 3\)"), (b" \n\n", "holds no text")]
)
def test_an_unreadable_or_empty_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_texts(path)


def test_shortening_takes_equal_beginnings() -> None:
    documents = ["a" * 10, "b" * 1000, "c" * 1000]
    assert [len(document) for document in shorten(documents, 510)] == [10, 250, 250]
    assert shorten(documents, None) == tuple(documents)
    assert shorten(documents, 10**6) == tuple(documents)


def test_pieces_join_to_the_document_and_are_cut_where_no_token_lies_across() -> None:
    document = "".join(f"{prose(seed, 3000)}\n\n  \n" for seed in range(10))
    pieces = list(cut(document))
    assert len(pieces) > 1
    assert "".join(pieces) == document
    tokenizer = train_tokenizer("gpt2", 300, [document])
    whole = tokenizer._library.encode(document, add_special_tokens=False).ids
    assert tokenizer.encode([document]).tolist() == [*whole, tokenizer.end]


def test_bpe_gives_the_text_back_and_ends_each_document() -> None:
    documents = [prose(1), "naïve — 漢字 \t tabs\n\n<|endoftext|> is text here"]
    tokenizer = train_tokenizer("gpt2", 400, documents[:1])
    ids = tokenizer.encode(documents).tolist()
    assert ids.count(tokenizer.end) == 2
    ends = [at for at, token in enumerate(ids) if token == tokenizer.end]
    texts = [ids[: ends[0]], ids[ends[0] + 1 : ends[1]]]
    assert [tokenizer._library.decode(text, skip_special_tokens=False) for text in texts] == documents
    assert max(ids) < tokenizer.size <= 400


def test_wordpiece_cannot_be_forged_a_special_token() -> None:
    tokenizer = train_tokenizer("bert", 200, [prose(1)])
    ids = tokenizer.encode(["the [MASK] and [SEP] sea"]).tolist()
    assert tokenizer.special["[MASK]"] not in ids
    assert ids.count(tokenizer.special["[SEP]"]) == 1
    assert ids[-1] == tokenizer.end == tokenizer.special["[SEP]"]
    assert max(ids) < tokenizer.size <= 200


def test_training_gives_the_same_tokenizer_in_every_process() -> None:
    # WordPiece's trainer goes through a hash map, whose order changes from process to process.
    script = (
        "from gem_activations.lab.data.text import train_tokenizer\n"
        "text = ' '.join(a + b for a in 'abcdefgh' for b in ('ing', 'ed', 'er', 'est', 'ly', 'ness'))\n"
        "print(train_tokenizer('bert', 120, [text]).digest, train_tokenizer('gpt2', 300, [text]).digest)"
    )
    found = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(4)
    }
    assert len(found) == 1


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    with pytest.raises(SettingError, match="at least 257"):
        train_tokenizer("gpt2", 256, ["text"])


def write_published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Write a small tokenizer in the published layout, and let its size pass for the published one."""
    trained = train_tokenizer("gpt2", 300, [prose(1)])
    model = json.loads(trained._library.to_str())["model"]
    vocabulary = write(folder / "encoder.json", json.dumps(model["vocab"]))
    merges = write(folder / "vocab.bpe", "#version: 0.2\n" + "\n".join(" ".join(merge) for merge in model["merges"]))
    names = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
    monkeypatch.setattr("gem_activations.lab.data.text._PUBLISHED", {"gpt2": (300, names)})
    return vocabulary, merges


def test_published_files_are_used_where_they_are_and_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_published(tmp_path / "tokenizers", monkeypatch)
    folders = [tmp_path / "nowhere", tmp_path / "tokenizers"]
    assert find_published("gpt2", 300, folders) == files
    assert find_published("gpt2", 299, folders) is None
    assert find_published("gpt2", 300, folders[:1]) is None
    loaded, trained = load_published("gpt2", files), train_tokenizer("gpt2", 300, [prose(1)])
    assert loaded.encode([prose(2)]).tolist() == trained.encode([prose(2)]).tolist()


def test_half_of_a_published_tokenizer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, merges = write_published(tmp_path, monkeypatch)
    merges.unlink()
    with pytest.raises(DataError, match=r"holds encoder\.json but not vocab\.bpe"):
        find_published("gpt2", 300, [tmp_path])


@pytest.mark.parametrize("content", ["{", '{"a": 0, "<|endoftext|>": 1}', '{"a": 0}'])
def test_a_damaged_published_tokenizer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    vocabulary, merges = write_published(tmp_path, monkeypatch)
    vocabulary.write_text(content)
    merges.write_text("#version: 0.2\n")
    with pytest.raises(DataError, match="fetch the"):
        load_published("gpt2", (vocabulary, merges))


def test_tokens_come_from_the_cache_the_second_time(
    tmp_path: Path, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_tokens(texts, "gpt2", 300, [], tmp_path)
    monkeypatch.setattr(text_data, "train_tokenizer", lambda *_: pytest.fail("trained again"))
    second = load_tokens(texts, "gpt2", 300, [], tmp_path)
    for name in SPLITS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (first.size, first.special, first.tokenizer) == (second.size, second.special, second.tokenizer)
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".lock"] == [".npz"]


@pytest.mark.parametrize("change", ["text", "size", "kind"])
def test_the_cache_knows_what_it_was_made_of(tmp_path: Path, texts: Texts, change: str) -> None:
    first = load_tokens(texts, "gpt2", 300, [], tmp_path)
    if change == "text":
        texts = Texts(texts.train, texts.validation, (prose(99),), texts.origin)
    other = load_tokens(texts, "bert" if change == "kind" else "gpt2", 310 if change == "size" else 300, [], tmp_path)
    assert other.test.tolist() != first.test.tolist()
    assert len(list(tmp_path.glob("*.npz"))) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "foreign"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, texts: Texts, damage: str) -> None:
    first = load_tokens(texts, "gpt2", 300, [], tmp_path)
    (path,) = tmp_path.glob("*.npz")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[-len(content) // 3] ^= 1
    else:
        content = bytearray(b"no archive")
    path.write_bytes(content)
    second = load_tokens(texts, "gpt2", 300, [], tmp_path)
    np.testing.assert_array_equal(first.train, second.train)
    assert hashlib.sha256(path.read_bytes()).digest() != hashlib.sha256(content).digest()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, texts: Texts) -> None:
    blocked = write(tmp_path / "file", "in the way")
    with pytest.warns(UserWarning, match="cannot be kept"):
        tokens = load_tokens(texts, "gpt2", 300, [], blocked / "cache")
    np.testing.assert_array_equal(tokens.test, load_tokens(texts, "gpt2", 300, [], tmp_path / "cache").test)


def test_the_tokenizer_knows_nothing_of_the_held_out_text(tmp_path: Path, texts: Texts) -> None:
    other = Texts(texts.train, (prose(50),), (prose(51),), texts.origin)
    assert (
        load_tokens(texts, "bert", 200, [], tmp_path).tokenizer
        == load_tokens(other, "bert", 200, [], tmp_path).tokenizer
    )


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match=r"gem-activations\[lab,huggingface\]"):
        train_tokenizer("gpt2", 300, ["text"])
