"""Activations and training functions that go wrong: one clear error each, and nothing lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gem_activations.errors import (
    ActivationNameError,
    ExperimentError,
    GemError,
    SettingError,
)
from gem_activations.lab import Run, compare
from gem_activations.lab.runs.experiment import make_arms
from gem_activations.lab.store.comparison import load_comparison, run_folder

from .own import WISH, Snake, train

pytestmark = pytest.mark.usefixtures("one_thread", "without_plots")


def test_activations_are_strings_classes_factories_and_places() -> None:
    def factory() -> nn.Module:
        return nn.Hardtanh()

    arms = make_arms(["gelu", "gem( n = 2 )", Snake, factory, "torch.nn.CELU", "mine=torch.nn.ReLU", nn.SiLU])
    assert list(arms) == ["gelu", "gem(n=2)", "Snake", "factory", "CELU", "mine", "SiLU"]
    assert [type(make()).__name__ for make in arms.values()] == [
        "GELU",
        "GEM",
        "Snake",
        "Hardtanh",
        "CELU",
        "ReLU",
        "SiLU",
    ]
    assert list(make_arms({"s": Snake, "t": lambda: nn.Tanh()})) == ["s", "t"]


@pytest.mark.parametrize(
    ("choices", "error", "words"),
    [
        ([], SettingError, "at least one activation"),
        ([Snake, Snake], SettingError, "two activations are called Snake"),
        ([lambda: nn.ReLU()], SettingError, "has no name of its own"),
        ([nn.ReLU()], SettingError, r"ReLU\(\.\.\.\) is a module; give its class"),
        (["gleu"], ActivationNameError, "did you mean .* an activation of your own is given as mine.py:NAME"),
        (["nowhere.py:Snake"], SettingError, "there is no file .*nowhere.py"),
        (["torch.nn.Celu"], SettingError, "torch.nn has no Celu"),
        (["no_such_package.Snake"], SettingError, "there is no module no_such_package"),
        (["torch.nn:functional"], SettingError, "is a module, expected a class of modules"),
        (["gelu=torch.nn.ReLU"], SettingError, "gelu is an activation of the catalog"),
    ],
)
def test_wrong_activations_are_one_clear_error(choices: list[Any], error: type[GemError], words: str) -> None:
    with pytest.raises(error, match=words):
        make_arms(choices)


def raises(run: Run) -> dict[str, float]:
    if run.name == "gelu":
        raise RuntimeError("mat1 and mat2 do not fit")
    return {"loss": 1.0}


def test_error_of_one_activation_fails_its_runs_and_the_others_go_on(tmp_path: Path) -> None:
    result = compare(raises, activations=["relu", "gelu"], out=tmp_path, **WISH)
    assert result.table["status"].to_list() == ["finished", "failed"] * 2
    assert result.table["reason"][1] == "RuntimeError: mat1 and mat2 do not fit"
    assert "in raises" in (run_folder(tmp_path, "gelu", 0) / "traceback.txt").read_text()


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "returned a NoneType, expected a dict of figures with 'accuracy'"),
        ([1.0], "returned a list"),
        ({"loss": 1.0}, "returned loss, and no 'accuracy'"),
        ({"accuracy": "high"}, "accuracy is 'high', expected a number"),
        ({"accuracy": torch.ones(2)}, "accuracy is a Tensor, expected a number"),
        ({"accuracy": 97.5}, "accuracy = 97.5; an accuracy without a unit is a fraction"),
        ({"accuracy": 0.5, "seed": 1}, "a figure called 'seed', which is recorded anyway"),
    ],
)
def test_wrong_returns_stop_at_once_and_nothing_is_lost(tmp_path: Path, returned: Any, words: str) -> None:
    calls: list[int] = []

    def wrong(run: Run) -> Any:
        calls.append(run.seed)
        return returned

    with pytest.raises(ExperimentError, match=words):
        compare(wrong, activations=["relu", "gelu"], metric="accuracy", better="higher", seeds=5, out=tmp_path)
    assert calls == [0, 0]
    assert len(load_comparison(tmp_path).missing) == 10


def test_metric_that_is_not_finite_is_a_failed_run(tmp_path: Path) -> None:
    def diverges(run: Run) -> dict[str, float]:
        return {"loss": float("nan") if run.name == "gelu" else 1.0, "other": float("inf")}

    table = compare(diverges, activations=["relu", "gelu"], out=tmp_path, **WISH).table
    assert table["reason"].to_list() == ["", "the loss is nan"] * 2
    assert table["other"].to_list() == [None] * 4


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda run: list(run.epochs(0)), r"run.epochs\(0\): give a whole number"),
        (lambda run: list(run.epochs(10**12)), "from 1 to 1,000,000"),
        (lambda run: list(run.epochs(2, model=3)), "is a int, expected an object with state_dict"),
        (lambda run: [list(run.epochs(2)) for _ in range(2)], "used twice"),
        (lambda run: run.log(epoch=3), "the epoch is recorded anyway"),
        (lambda run: run.log(loss="low"), "loss is 'low', expected a number"),
    ],
)
def test_wrong_use_of_a_run_is_one_clear_error(tmp_path: Path, use: Callable[[Run], Any], words: str) -> None:
    def wrong(run: Run) -> dict[str, float]:
        use(run)
        return {"loss": 1.0}

    with pytest.raises(ExperimentError, match=words):
        compare(wrong, activations=["relu"], out=tmp_path, **WISH)


def test_factory_that_makes_no_module_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"the activation f made a int, expected a torch\.nn\.Module"):
        compare(train, activations={"f": lambda: 3}, out=tmp_path, **WISH)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 0}, "--seeds 0"),
        ({"margin": -1.0}, "--margin -1"),
        ({"options": {"depth": 3}}, "takes no option depth; its options are width"),
        ({"baseline": "gelu"}, "--baseline gelu is not among"),
        ({"device": "gpu"}, "--device gpu"),
        ({"metric": " "}, "--metric"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingError, match=words):
        compare(train, activations=["relu"], out=tmp_path / "out", **{**WISH, **changes})
    assert not (tmp_path / "out").exists()
