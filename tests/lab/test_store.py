import dataclasses
import json
from pathlib import Path

import pytest

from gem_activations import catalog
from gem_activations.errors import StoreError
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.store import comparison as store
from gem_activations.lab.store.comparison import EpochRow, Plan, RunResult, load_comparison, run_folder

RECIPE = make_recipe("digits").pipeline()
PLAN = Plan(RECIPE, "gelu", "cpu", 1, {"train": "ab"}, ("gelu", "gem(n=2)"), (0, 1), {"torch": "2"})
METRICS: list[EpochRow] = [
    {"epoch": 1, "train_loss": 2.0, "seconds": 0.5},
    {"epoch": 2, "train_loss": 1 / 3, "seconds": 0.25},
]


def result(activation: str, seed: int) -> RunResult:
    return RunResult(activation, seed, "finished", "", 2, 3.5, {"accuracy": 0.1 + 0.2, "loss": 0.3, "lost": None})


def failed(activation: str, seed: int) -> RunResult:
    return RunResult(activation, seed, "failed", "loss", 0, 0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store.write_plan(tmp_path, PLAN)
    for row in METRICS:
        store.append_metrics(run_folder(tmp_path, "gelu", 0) / "metrics.jsonl", row)
    store.write_result(tmp_path, result("gelu", 0))
    store.write_json(run_folder(tmp_path, "gelu", 0) / "env.json", {"python": "3"})
    store.write_result(tmp_path, failed("gem(n=2)", 0))
    return tmp_path


def test_comparison_comes_back_as_it_was_written(folder: Path) -> None:
    comparison = load_comparison(folder)
    assert store.read_plan(folder) == PLAN
    assert comparison.results == (result("gelu", 0), failed("gem(n=2)", 0))
    assert comparison.curves == {("gelu", 0): tuple(METRICS), ("gem(n=2)", 0): ()}
    assert comparison.missing == (("gelu", 1), ("gem(n=2)", 1))
    assert comparison.activations == ("gelu", "gem(n=2)")
    assert (comparison.baseline, comparison.seeds, comparison.recipe) == ("gelu", 2, RECIPE)


def test_environment_is_that_of_the_run_that_ended_last(folder: Path) -> None:
    assert load_comparison(folder).environment == {}
    store.write_json(run_folder(folder, "gem(n=2)", 0) / "env.json", {"python": "4"})
    assert load_comparison(folder).environment == {"python": "4"}


def test_runs_of_different_activations_have_different_folders() -> None:
    texts = [
        *catalog.ENTRIES,
        "gem(n=2)",
        "egem(n=2)",
        "egem(eps=1/3)",
        "segem(eps=13)",
        "egem(eps=1.3)",
        "celu(alpha=2)",
    ]
    folders = {run_folder(Path("x"), str(catalog.parse(text)), 0) for text in texts}
    assert len(folders) == len(texts)
    for path in folders:
        assert path.parts[1] == "runs"
        assert len(path.parts) == 4
        assert not set(path.parts[2]) & set("()/ \\:*?\"<>|'")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("comparison.json", "{", "truncated"),
        ("comparison.json", "[]", "Expected `object`"),
        ("comparison.json", '{"format": 99}', "format 2"),
        ("comparison.json", '{"format": 2, "seeds": [3]}', "missing required field `recipe`"),
        ("runs/gelu/seed-000/result.json", "", "truncated"),
        ("runs/gelu/seed-000/result.json", '{"seed": 0}', "missing required field `activation`"),
        ("runs/gelu/seed-000/result.json", json.dumps(dataclasses.asdict(result("gelu", 1))), "another run"),
        (
            "runs/gelu/seed-000/result.json",
            json.dumps({**dataclasses.asdict(result("gelu", 0)), "seconds": "0.9"}),
            "seconds",
        ),
        ("runs/gelu/seed-000/metrics.jsonl", "{\n", "cannot be read"),
        ("runs/gelu/seed-000/metrics.jsonl", json.dumps(METRICS[0]) + "\n", "epochs 1 to 2"),
    ],
)
def test_damaged_file_is_named(folder: Path, name: str, content: str, words: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(StoreError, match=words) as caught:
        load_comparison(folder)
    assert str(folder / name) in str(caught.value)


def test_missing_metrics_and_missing_comparison_are_named(folder: Path, tmp_path: Path) -> None:
    (run_folder(folder, "gelu", 0) / "metrics.jsonl").unlink()
    with pytest.raises(StoreError, match=r"metrics\.jsonl is damaged"):
        load_comparison(folder)
    with pytest.raises(StoreError, match="holds no comparison"):
        load_comparison(tmp_path / "nowhere")


def test_interrupted_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "x.json"
    store.write_atomically(path, b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    store.write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.json"]


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"cannot write .*choose an --out folder"):
        store.write_json(tmp_path / "file" / "x.json", {})


def test_numbers_that_are_not_finite_are_stored_as_none(tmp_path: Path) -> None:
    store.write_json(tmp_path / "x.json", {"loss": float("nan"), "accuracy": float("inf")})
    assert store.read_json(tmp_path / "x.json", dict[str, float | None]) == {"loss": None, "accuracy": None}
