"""Comparisons by a training function of the user's own: what is stored, and how an interrupted one goes on."""

import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gem_activations.lab import Run, compare
from gem_activations.lab.store.comparison import load_comparison, read_plan, run_folder

from . import own
from .own import WISH, Snake, logged, rows, train

pytestmark = pytest.mark.usefixtures("one_thread", "without_plots")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "out"
    result = compare(train, activations=["relu", "gem(n=2)", Snake], out=folder, **WISH)
    assert list(result.verdicts) == ["gem(n=2)", "Snake"]
    assert {str(verdict) for verdict in result.verdicts.values()} <= {
        "shown better", "shown worse", "equivalent within the margin", "not decided",
    }  # fmt: skip
    assert result.report_path.is_file()
    assert result.table.columns[:3] == ["activation", "seed", "status"]
    assert result.table.height == 6
    assert "<html" in result._repr_html_()
    return folder


def test_results_have_one_row_a_run_with_every_figure_under_its_name(whole: Path) -> None:
    found = rows(whole)
    assert [(row["activation"], row["seed"], row["status"]) for row in found] == [
        (arm, str(seed), "finished") for seed in range(2) for arm in ("relu", "gem(n=2)", "Snake")
    ]
    assert list(found[0]) == ["activation", "seed", "status", "reason", "loss", "weight", "epochs"]
    assert [row["epoch"] for row in logged(whole, "Snake", 1)] == [1, 2, 3, 4]
    assert set(logged(whole, "relu", 0)[0]) == {"epoch", "train_loss", "noise"}
    assert not list(whole.rglob("checkpoint*"))


def test_runs_of_one_seed_begin_alike_and_other_seeds_do_not(whole: Path) -> None:
    noise = {(arm, seed): logged(whole, arm, seed)[0]["noise"] for arm in ("relu", "Snake") for seed in range(2)}
    assert noise["relu", 0] == noise["Snake", 0] != noise["relu", 1]


@pytest.mark.parametrize("stop", [(0, 0), (0, 2), (1, 3)])
def test_interrupted_comparison_goes_on_with_the_same_bits(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: tuple[int, int]
) -> None:
    monkeypatch.setattr(own, "STOP", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(train, activations=["relu", "gem(n=2)", Snake], out=tmp_path, **WISH)
    monkeypatch.setattr(own, "STOP", (-1, -1))
    compare(train, activations=["relu", "gem(n=2)", Snake], out=tmp_path, **WISH)
    assert rows(tmp_path) == rows(whole)
    for seed in range(2):
        assert logged(tmp_path, "Snake", seed) == logged(whole, "Snake", seed)


def test_a_comparison_goes_on_on_the_device_that_it_was_begun_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(train, activations=["relu"], out=tmp_path, device="cpu", **WISH)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # The next machine has a GPU.
    compare(train, activations=["relu", "gelu"], out=tmp_path, **WISH)
    assert [row["status"] for row in rows(tmp_path)] == ["finished"] * 4
    plan = read_plan(tmp_path)
    assert plan is not None
    assert plan.device == "cpu"


def test_global_generators_are_left_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(3)
    random.seed(3)
    before = random.getstate(), torch.get_rng_state().tolist()
    compare(train, activations=["relu"], out=tmp_path, **WISH)
    assert (random.getstate(), torch.get_rng_state().tolist()) == before


def test_more_seeds_and_activations_extend_and_ended_runs_are_kept(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []

    def count(run: Run) -> dict[str, float]:
        calls.append((run.name, run.seed))
        return {"loss": 1.0 + run.seed}

    compare(count, activations=["relu"], out=tmp_path, metric="loss", better="lower", seeds=1)
    compare(count, activations=["gelu"], out=tmp_path, metric="loss", better="lower", seeds=2, seed_start=5)
    assert calls == [("relu", 0), ("gelu", 5), ("gelu", 6)]
    assert load_comparison(tmp_path).missing == (("gelu", 0), ("relu", 5), ("relu", 6))


def test_own_files_and_predictions_lie_in_the_folder_of_the_run(tmp_path: Path) -> None:
    def own(run: Run) -> dict[str, float]:
        (run.folder / "notes.txt").write_text(run.name)
        run.log_predictions(torch.tensor([0, 2, 1]), targets=[0, 1, 1])
        run.log(a=1)
        run.log(b=float("nan"))
        return {"accuracy": 2 / 3}

    compare(own, activations=["relu"], out=tmp_path, metric="accuracy", better="higher", seeds=1)
    folder = run_folder(tmp_path, "relu", 0)
    assert (folder / "notes.txt").read_text() == "relu"
    stored = np.load(folder / "predictions.npz")
    assert (stored["predictions"].tolist(), stored["targets"].tolist()) == ([0, 2, 1], [0, 1, 1])
    assert logged(tmp_path, "relu", 0) == [{"epoch": 1, "a": 1}, {"epoch": 2, "b": None}]


def test_loop_that_is_left_early_keeps_its_last_epoch(tmp_path: Path) -> None:
    def early(run: Run) -> dict[str, float]:
        for epoch in run.epochs(10):
            run.log(loss=epoch)
            if epoch == 2:
                break
        return {"loss": 1.0}

    compare(early, activations=["relu"], out=tmp_path, metric="loss", better="lower", seeds=1)
    assert [row["loss"] for row in logged(tmp_path, "relu", 0)] == [0, 1, 2]


@pytest.mark.parametrize("stop", [-1, 2])
def test_what_is_logged_before_and_after_the_loop_is_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    def around(run: Run) -> dict[str, float]:
        model = nn.Linear(1, 1)
        run.log(before=1)
        for epoch in run.epochs(3, model=model):
            if epoch == own.STOP[1]:
                raise KeyboardInterrupt
            run.log(inside=epoch)
        run.log(after=2)
        return {"loss": 1.0}

    monkeypatch.setattr(own, "STOP", (0, stop))
    if stop >= 0:
        with pytest.raises(KeyboardInterrupt):
            compare(around, activations=["relu"], out=tmp_path, **{**WISH, "seeds": 1})
        monkeypatch.setattr(own, "STOP", (-1, -1))
    compare(around, activations=["relu"], out=tmp_path, **{**WISH, "seeds": 1})
    assert logged(tmp_path, "relu", 0) == [
        {"epoch": 1, "before": 1, "inside": 0},
        {"epoch": 2, "inside": 1},
        {"epoch": 3, "inside": 2},
        {"epoch": 4, "after": 2},
    ]


def test_no_warning_escapes(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compare(train, activations=["relu"], out=tmp_path, **{**WISH, "seeds": 1})
    assert not caught
