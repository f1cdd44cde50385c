"""Comparisons by a training function of the user's own: from Python, from the command line, resumed, and gone wrong."""

import contextlib
import csv
import json
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gem_activations.cli import main
from gem_activations.errors import (
    ActivationNameError,
    ExperimentError,
    GemError,
    MissingDependencyError,
    SettingError,
    StoreError,
)
from gem_activations.lab import Run, compare
from gem_activations.lab.runs import tracking
from gem_activations.lab.runs.experiment import make_arms
from gem_activations.lab.store.comparison import load_comparison, read_plan, run_folder
from gem_activations.lab.store.merging import merge

pytestmark = pytest.mark.usefixtures("one_thread")

SOURCE = """
import torch
from torch import nn


class Snake(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x + torch.sin(self.a * x) ** 2 / self.a


def train(run, width: int = 4, names: tuple[str, ...] = ("a",)):
    model = nn.Sequential(nn.Linear(2, width), run.activation(), nn.Linear(width, 1))
    return {"loss": model(torch.ones(1, 2)).square().mean(), "parameters": sum(p.numel() for p in model.parameters())}


def broken(run):
    raise RuntimeError("mat1 and mat2 do not fit")


def no_run(model):
    return {"loss": 0.0}


def no_default(run, width):
    return {"loss": 0.0}


def clash(run, seeds: int = 3):
    return {"loss": 0.0}
"""


class Snake(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.sin(self.a * x) ** 2 / self.a


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    return x, (x.prod(1, keepdim=True) > 0).float()


def train(run: Run, width: int = 8, epochs: int = 4) -> dict[str, Any]:
    """Train with dropout, so that the random state matters; the seed and epoch `STOP` is interrupted."""
    x, y = data()
    model = nn.Sequential(nn.Linear(2, width), run.activation(), nn.Dropout(0.3), nn.Linear(width, 1)).to(run.device)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for epoch in run.epochs(epochs, model=model, optimizer=optimizer, schedule=schedule):
        if (run.seed, epoch) == STOP:
            raise KeyboardInterrupt
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        run.log(train_loss=loss, noise=random.random() + np.random.random())
    return {"loss": run.metrics[-1]["train_loss"], "weight": model[0].weight.sum()}


STOP = (-1, -1)
WISH: dict[str, Any] = {"metric": "loss", "better": "lower", "seeds": 2}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def logged(folder: Path, activation: str, seed: int) -> list[dict[str, float]]:
    lines = (run_folder(folder, activation, seed) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


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
    monkeypatch.setattr(f"{__name__}.STOP", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(train, activations=["relu", "gem(n=2)", Snake], out=tmp_path, **WISH)
    monkeypatch.setattr(f"{__name__}.STOP", (-1, -1))
    compare(train, activations=["relu", "gem(n=2)", Snake], out=tmp_path, **WISH)
    assert rows(tmp_path) == rows(whole)
    for seed in range(2):
        assert logged(tmp_path, "Snake", seed) == logged(whole, "Snake", seed)


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
            if epoch == STOP[1]:
                raise KeyboardInterrupt
            run.log(inside=epoch)
        run.log(after=2)
        return {"loss": 1.0}

    monkeypatch.setattr(f"{__name__}.STOP", (0, stop))
    if stop >= 0:
        with pytest.raises(KeyboardInterrupt):
            compare(around, activations=["relu"], out=tmp_path, **{**WISH, "seeds": 1})
        monkeypatch.setattr(f"{__name__}.STOP", (-1, -1))
    compare(around, activations=["relu"], out=tmp_path, **{**WISH, "seeds": 1})
    assert logged(tmp_path, "relu", 0) == [
        {"epoch": 1, "before": 1, "inside": 0},
        {"epoch": 2, "inside": 1},
        {"epoch": 3, "inside": 2},
        {"epoch": 4, "after": 2},
    ]


# Names of activations


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


# Functions gone wrong


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


# Seeds that are added until the arms are decided

STOP_AT = [(-1, "")]


def noisy(run: Run) -> dict[str, float]:
    """Score by a fixed law: relu and CELU are far apart at once, gem is like relu."""
    if (run.seed, run.name) in STOP_AT:
        raise KeyboardInterrupt
    shift = {"relu": 0.0, "gem": 0.0, "CELU": 9.0}[run.name]
    return {"loss": shift + float(np.random.default_rng([run.seed, *run.name.encode()]).standard_normal())}


UNTIL: dict[str, Any] = {
    "activations": ["relu", "gem", torch.nn.CELU],
    "metric": "loss",
    "better": "lower",
    "until_decided": True,
    "max_seeds": 8,
}


def test_decided_arms_leave_and_every_look_is_recorded(tmp_path: Path, capsys: Any) -> None:
    found = compare(noisy, out=tmp_path, **UNTIL)
    assert {arm: str(verdict) for arm, verdict in found.verdicts.items()} == {
        "gem": "not decided", "CELU": "shown worse",
    }  # fmt: skip
    looks = json.loads((tmp_path / "looks.json").read_text())
    assert [look["seeds"] for look in looks] == [3, 5, 8]
    assert [look["left"] for look in looks] == [["CELU"], [], []]
    assert sum(look["level"] for look in looks) == pytest.approx(0.05)
    counts = {arm: sum(row["activation"] == arm for row in rows(tmp_path)) for arm in ("relu", "gem", "CELU")}
    assert counts == {"relu": 8, "gem": 8, "CELU": 3}
    assert not load_comparison(tmp_path).missing, "an arm that left lacks no run"
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "Look at 3 seeds" in shown
    assert "CELU shown worse" in shown
    assert "up to 8 seeds" in (tmp_path / "report.html").read_text()
    assert main(["report", str(tmp_path), "--baseline", "gem"]) == 0
    assert "beside gem false verdicts may be more frequent" in capsys.readouterr().out


def test_comparison_ends_at_the_look_that_decides_all(tmp_path: Path) -> None:
    found = compare(noisy, out=tmp_path, **{**UNTIL, "activations": ["relu", torch.nn.CELU], "max_seeds": None})
    assert [look.left for look in found.report.comparison.looks] == [(), ("CELU",)]
    assert (found.report.comparison.max_seeds, found.table.height) == (40, 10)


@pytest.mark.parametrize("stop", [(1, "gem"), (3, "gem"), (6, "relu")])
def test_looks_go_on_after_an_interruption_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: tuple[int, str]
) -> None:
    whole = compare(noisy, out=tmp_path / "whole", **UNTIL)
    monkeypatch.setitem(globals(), "STOP_AT", [stop])
    with pytest.raises(KeyboardInterrupt):
        compare(noisy, out=tmp_path / "out", **UNTIL)
    monkeypatch.setitem(globals(), "STOP_AT", [(-1, "")])
    again = compare(noisy, out=tmp_path / "out", **UNTIL)
    assert (tmp_path / "out/looks.json").read_bytes() == (tmp_path / "whole/looks.json").read_bytes()
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert again.report.sentences == whole.report.sentences


def test_results_that_change_after_a_look_are_refused(tmp_path: Path) -> None:
    compare(noisy, out=tmp_path, **UNTIL)
    path = run_folder(tmp_path, "CELU", 1) / "result.json"
    path.write_text(path.read_text().replace('"loss": ', '"loss": -5'))
    with pytest.raises(StoreError, match="were changed after they were looked at"):
        compare(noisy, out=tmp_path, **UNTIL)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 5}, "--seeds 5: --until-decided adds seeds"),
        ({"max_seeds": 3}, "--max-seeds 3: give more than the 3 seeds"),
        ({"until_decided": False}, "--max-seeds 8 belongs to --until-decided"),
        ({"retry_failed": True}, "--retry-failed would change"),
        ({"activations": ["relu"]}, "give an activation to decide on"),
    ],
)
def test_wrong_wishes_for_looks_are_refused_before_anything_is_made(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingError, match=words):
        compare(noisy, out=tmp_path / "out", **{**UNTIL, **changes})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"until_decided": False, "max_seeds": None, "seeds": 9}, "max_seeds \\(8 there, None now"),
        ({"max_seeds": 40}, "max_seeds \\(8 there, 40 now"),
        ({"activations": ["relu", "gem"]}, "until relu, gem, CELU are decided; give the same"),
        ({"seed_start": 3}, "adds seeds from 0 on"),
    ],
)
def test_a_schedule_of_looks_is_kept(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    compare(noisy, out=tmp_path, **UNTIL)
    with pytest.raises(StoreError, match=words):
        compare(noisy, out=tmp_path, **{**UNTIL, **changes})
    with pytest.raises(StoreError, match="cannot be merged"):
        merge(tmp_path, tmp_path, tmp_path / "merged")


def test_seeds_that_were_added_without_a_schedule_are_named(tmp_path: Path) -> None:
    wish = {**UNTIL, "until_decided": False, "max_seeds": None}
    first = compare(noisy, out=tmp_path, **wish, seeds=3)
    assert "schedule" not in str(first)
    assert "Seeds were added when 3 seeds had results, without a schedule" in str(
        compare(noisy, out=tmp_path, **wish, seeds=5)
    )
    with pytest.raises(StoreError, match="max_seeds \\(None there, 8 now"):
        compare(noisy, out=tmp_path, **UNTIL)


def test_recipes_add_seeds_until_they_are_decided(tmp_path: Path, capsys: Any) -> None:
    known = ["compare", "digits", "--scale", "smoke", "--activations", "relu", "gelu", "--epochs", "1"]
    assert main([*known, "--until-decided", "--max-seeds", "4", "--out", str(tmp_path)]) == 0
    assert "Look at 3 seeds" in capsys.readouterr().out
    assert {len(list(folder.iterdir())) for folder in (tmp_path / "runs").iterdir()} <= {3, 4}


# What identifies a comparison


def test_other_options_or_metric_are_another_comparison(tmp_path: Path) -> None:
    def constant(run: Run, width: int = 3) -> dict[str, float]:
        return {"loss": float(width + run.seed), "other": 1.0}

    def again(**changes: Any) -> Any:
        return compare(constant, activations=["relu"], out=tmp_path, **{**WISH, **changes})

    again()
    with pytest.raises(StoreError, match=r"options\.width \(3 there, 5 now\)"):
        again(options={"width": 5})
    with pytest.raises(StoreError, match=r"metric \(loss there, other now\)"):
        again(metric="other")


def test_changed_source_is_refused_until_it_is_allowed(tmp_path: Path) -> None:
    file, out = tmp_path / "changing.py", tmp_path / "out"
    place = f"{file}:train"
    file.write_text("def train(run):\n    return {'loss': 1.0 + run.seed}\n")
    compare(place, activations=["relu"], out=out, **WISH)
    plan = read_plan(out)
    assert plan is not None
    file.write_text("def train(run):\n    return {'loss': 2.0 + run.seed}\n")
    compare(place, activations=["relu"], out=out, **WISH)  # Nothing is left to run: the report alone is made.
    assert read_plan(out) == plan
    with pytest.raises(
        StoreError, match=r"have changed: changing\.py \(source .* then, source .* now\).*--allow-changed"
    ):
        compare(place, activations=["relu"], out=out, **{**WISH, "seeds": 3})
    with pytest.warns(UserWarning, match="its runs differ in them"):
        compare(place, activations=["relu"], out=out, allow_changed=True, **{**WISH, "seeds": 3})
    sources = [environment["sources"] for environment in load_comparison(out).environments.values()]
    assert sources[0] == sources[1] != sources[2]


def test_report_of_own_activations_is_made_without_importing_them(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "gone.py"
    file.write_text(SOURCE)
    out = tmp_path / "out"
    compare(f"{file}:train", activations=["relu", f"{file}:Snake"], out=out, **WISH)
    file.unlink()
    assert main(["report", str(out)]) == 0
    assert "Snake" in capsys.readouterr().out


# The command line


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"mine_{abs(hash(tmp_path)) % 10**8}.py"
    file.write_text(SOURCE)
    return Path(file.name)


def command(place: object, *more: str) -> list[str]:
    return ["compare", str(place), "--metric", "loss", "--better", "lower", "--seeds", "2", "--out", "out", *more]


def test_command_takes_the_function_s_own_options(mine: Path, capsys: Any) -> None:
    arms = ["--activations", "relu", "gem(n=2)", f"{mine}:Snake", f"other={mine}:Snake", "torch.nn.CELU"]
    assert main([*command(f"{mine}:train", "--width", "6", "--names", "b", "c"), *arms]) == 0
    shown = capsys.readouterr()
    assert "[10/10] CELU, seed 1: loss" in shown.err
    plan = read_plan(Path("out"))
    assert plan is not None
    assert plan.recipe["options"] == {"width": 6, "names": ["b", "c"]}
    assert plan.activations == ("relu", "gem(n=2)", "Snake", "other", "CELU")
    assert mine.name in plan.versions
    assert [row["parameters"] for row in rows(Path("out"))][:3] == ["25", "25", "26"]


def test_module_is_named_by_its_dotted_path(mine: Path, capsys: Any) -> None:
    assert main(command(f"{mine.stem}:train", "--activations", "relu")) == 0
    capsys.readouterr()


def test_help_of_a_function_shows_its_options(mine: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["compare", f"{mine}:train", "--help"])
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--width", "--names", "--metric", "--seed-start", "--retry-failed"))
    assert "--batch-size" not in shown


def test_failed_run_is_exit_status_3(mine: Path, capsys: Any) -> None:
    mine.write_text(SOURCE + "\n\ndef half(run):\n    assert run.name == 'relu', 'no'\n    return {'loss': 1.0}\n")
    assert main(command(f"{mine}:half", "--activations", "relu", "gelu")) == 3
    assert "AssertionError: no" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "has no nothing; expected a training function"),
        ("no_run", "its first parameter must be called run: def no_run(run)"),
        ("no_default", "the parameter width of no_default has no default"),
        ("clash", "has the name of an option of gem-act; rename it"),
        ("broken", "failed in the same way: RuntimeError: mat1 and mat2 do not fit (traceback in "),
    ],
)
def test_wrong_function_is_one_line(mine: Path, capsys: Any, name: str, words: str) -> None:
    assert main(command(f"{mine}:{name}", "--activations", "relu")) == 2
    error = capsys.readouterr().err
    assert words in error.splitlines()[-1]
    assert "Traceback" not in error


@pytest.mark.usefixtures("mine")
def test_file_that_is_missing_or_broken_is_one_line(capsys: Any) -> None:
    assert main(command("nowhere.py:train", "--activations", "relu")) == 2
    assert "there is no file" in capsys.readouterr().err
    Path("bad.py").write_text("import no_such_package_at_all\n")
    assert main(command("bad.py:train", "--activations", "relu")) == 2
    assert "bad.py cannot be imported: ModuleNotFoundError" in capsys.readouterr().err
    assert not Path("out").exists()


def test_recipes_take_own_activations(mine: Path, capsys: Any) -> None:
    words = ["compare", "digits", "--scale", "smoke", "--epochs", "1", "--seeds", "1", "--out", "out"]
    assert main([*words, "--activations", "gelu", f"{mine}:Snake", "torch.nn.CELU"]) == 0
    comparison = load_comparison(Path("out"))
    assert [(run.activation, run.status) for run in comparison.results] == [
        (arm, "finished") for arm in ("gelu", "Snake", "CELU")
    ]
    parameters = {run.activation: run.figures["parameters"] for run in comparison.results}
    assert parameters["Snake"] == parameters["gelu"] + 2, "one learnt scalar in each of two places"
    capsys.readouterr()
    assert main([*words[:-1], "gain", "--initialisation", "gain", "--activations", "relu", f"{mine}:Snake"]) == 2
    assert "--initialisation gain needs activations of the catalog" in capsys.readouterr().err


# Two machines


def test_runs_of_two_machines_are_merged(tmp_path: Path, capsys: Any) -> None:
    def constant(run: Run) -> dict[str, float]:
        return {"loss": 1.0 + run.seed + len(run.name)}

    for name, start in (("a", 0), ("b", 2)):
        compare(constant, activations=["relu", "gelu"], out=tmp_path / name, seed_start=start, **WISH)
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    assert "8 runs in" in capsys.readouterr().out
    merged = load_comparison(tmp_path / "c")
    assert [(run.activation, run.seed) for run in merged.results] == [
        (arm, seed) for seed in range(4) for arm in ("relu", "gelu")
    ]
    assert not merged.missing
    assert main(["report", str(tmp_path / "c")]) == 0
    with pytest.raises(StoreError, match="is not empty"):
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    compare(constant, activations=["relu"], out=tmp_path / "d", metric="loss", better="higher", seeds=1)
    with pytest.raises(StoreError, match=r"different experiments: better \(lower and higher\)"):
        merge(tmp_path / "a", tmp_path / "d", tmp_path / "e")


def test_no_warning_escapes(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compare(train, activations=["relu"], out=tmp_path, **{**WISH, "seeds": 1})
    assert not caught


# Trackers


def test_runs_are_exported_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    compare(train, activations=["relu"], out=tmp_path, track=["tensorboard"], **WISH)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "relu" / "seed-001"))
    events.Reload()
    losses = [event.value for event in events.Scalars("train_loss")]
    assert losses == pytest.approx([row["train_loss"] for row in logged(tmp_path, "relu", 1)])
    assert events.Scalars("result/loss")[0].value == pytest.approx(losses[-1])


class FakeTracker:
    """Notes what a run hands to it, in the place of wandb and mlflow."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.summary = self

    def __getattr__(self, name: str) -> Any:
        def note(*values: Any, **named: Any) -> Any:
            self.calls.append((name, values or named))
            return contextlib.nullcontext() if name == "start_run" else self

        return note


@pytest.mark.parametrize(("name", "log"), [("wandb", "log"), ("mlflow", "log_metrics")])
def test_runs_are_exported_to_other_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, log: str
) -> None:
    tracker = FakeTracker()
    monkeypatch.setitem(sys.modules, name, tracker)
    monkeypatch.setattr(tracking, "check_trackers", lambda _: None)
    monkeypatch.setattr("gem_activations.lab.runs.planning.check_trackers", lambda _: None)
    compare(train, activations=["relu"], out=tmp_path, track=[name], **WISH)
    rows = [values[0] for called, values in tracker.calls if called == log and "train_loss" in values[0]]
    assert [row["train_loss"] for row in rows[:4]] == [row["train_loss"] for row in logged(tmp_path, "relu", 0)]


def test_tracker_that_is_not_installed_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match="wandb is not installed; run: pip install --upgrade wandb"):
        compare(train, activations=["relu"], out=tmp_path / "out", track=["wandb"], **WISH)
    assert not (tmp_path / "out").exists()
