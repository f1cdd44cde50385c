import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gem_activations.cli import main
from gem_activations.errors import ExperimentError, SettingError, StoreError
from gem_activations.lab.claims import judge_comparison
from gem_activations.lab.data.images import Split
from gem_activations.lab.recipes.arms import Arm
from gem_activations.lab.recipes.pipeline import Pipeline
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.runs import tuning
from gem_activations.lab.runs.engine import ProgressCallback, run_comparison
from gem_activations.lab.runs.planning import resolve_recipe
from gem_activations.lab.runs.request import Request
from gem_activations.lab.runs.tuning import make_rates, tune, tuning_folder, tuning_lines
from gem_activations.lab.store.comparison import Comparison, RunResult, load_comparison, read_result
from gem_activations.lab.store.rates import Trial, Tuned, Tuning, read_rates, write_tuning
from gem_activations.lab.training import tasks
from gem_activations.lab.training.tasks import ImageTask

ARMS = ("gelu", "gem(n=2)")
OWN = 5e-3  # Of the recipe on digits.
RATES = [OWN / 4, OWN, OWN * 4]


def request(folder: Path, **changes: Any) -> Request:
    return Request(**{"recipe": "digits", "out": folder, "activations": ARMS, "scale": "smoke", "epochs": 1, **changes})


def run(activation: str, seed: int, value: float | None) -> RunResult:
    """Return a run without test scores whose validation accuracy and loss are both the value; None for a failed one."""
    failed = value is None
    status, reason = ("failed", "NaN") if failed else ("finished", "")
    return RunResult(activation, seed, status, reason, 1, 1.0, {"validation_accuracy": value, "validation_loss": value})


class Bench:
    """Stand in for `run_comparison`: values by activation and rate, one a seed; notes what was asked."""

    def __init__(self, values: dict[str, dict[float, list[float | None]]]) -> None:
        self.values = values
        self.asked: list[tuple[tuple[str, ...], float, int]] = []

    def __call__(self, request: Request, _: object) -> Comparison:
        recipe = resolve_recipe(request)
        rate = recipe.training.learning_rate
        assert recipe.scored == "validation"
        self.asked.append((recipe.activations, rate, recipe.seeds))
        runs = [
            run(arm, seed, value)
            for arm in recipe.activations
            for seed, value in enumerate(self.values[arm][rate][: recipe.seeds])
        ]
        return Comparison(
            request.folder, recipe.pipeline(), recipe.activations, recipe.baseline, 1, tuple(runs), {}, {}, ()
        )


def search(monkeypatch, folder: Path, values: dict[str, dict[float, list[float | None]]], **changes: Any) -> Tuning:
    monkeypatch.setattr(tuning, "run_comparison", Bench(values))
    trials = len(next(iter(values.values())))
    return tune(request(folder, activations=tuple(values), **changes), trials, 4.0, ProgressCallback())


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tuning]:
    folder = tmp_path_factory.mktemp("tuned")
    return folder, tune(request(folder), 3, 4.0, ProgressCallback())


def test_rates_go_outwards_from_the_recipes_own() -> None:
    assert make_rates(0.3, 3, 10.0) == [0.3, 0.03, 3.0]
    assert make_rates(0.3, 7, 2.0)[:5] == make_rates(0.3, 5, 2.0)


def test_every_arm_has_the_same_trials_and_its_best_rate(tuned: tuple[Path, Tuning]) -> None:
    folder, found = tuned
    assert tuple(found.arms) == ARMS
    stored = json.loads((folder / "rates.json").read_text())
    for name, arm in found.arms.items():
        assert [trial.rate for trial in arm.trials] == RATES
        results = {rate: read_result(folder / f"rate-{rate:g}", name, 0) for rate in RATES}
        accuracies = {rate: result.figures["validation_accuracy"] for rate, result in results.items() if result}
        assert {trial.rate: trial.value for trial in arm.trials} == accuracies
        assert accuracies[arm.rate] == max(accuracies.values())
        assert stored["arms"][name]["rate"] == arm.rate
    assert not list(folder.rglob("*.tmp"))


def test_no_trial_scores_the_test_set(tmp_path, tuned: tuple[Path, Tuning], monkeypatch) -> None:
    real = ImageTask.evaluation_batches

    def guarded(task: ImageTask, split: Any) -> Any:
        assert split == "validation", "the test set was read"
        return real(task, split)

    monkeypatch.setattr(ImageTask, "evaluation_batches", guarded)
    assert tune(request(tmp_path / "guarded"), 3, 4.0, ProgressCallback()) == tuned[1]
    with pytest.raises(ExperimentError, match="the test set was read"):  # The guard does guard.
        run_comparison(request(tmp_path / "compared"), ProgressCallback())
    for path in (tmp_path / "guarded").rglob("result.json"):
        result = json.loads(path.read_text())
        figures = result["figures"]
        assert [figures.get(name) for name in ("test_accuracy", "test_loss", "calibration_error")] == [None] * 3


def test_a_trial_has_no_report_and_bears_on_no_claim(tuned: tuple[Path, Tuning], capsys) -> None:
    trial = tuned[0] / f"rate-{OWN:g}"
    before = sorted(trial.iterdir())
    assert main(["report", str(trial)]) == 2
    assert f"its outcome is in {tuned[0] / 'rates.json'}" in capsys.readouterr().err
    assert sorted(trial.iterdir()) == before
    comparison = dataclasses.replace(load_comparison(trial), recipe=make_recipe("mnist").pipeline())
    assert judge_comparison(comparison) == []


def test_other_test_data_give_the_same_rates(tmp_path, tuned: tuple[Path, Tuning], monkeypatch) -> None:
    real = tasks.load_dataset

    def altered(*choices: Any) -> Any:
        dataset = real(*choices)
        return dataclasses.replace(dataset, test=Split(torch.full_like(dataset.test.x, torch.nan), dataset.test.y))

    monkeypatch.setattr(tasks, "load_dataset", altered)
    tune(request(tmp_path), 3, 4.0, ProgressCallback())
    assert (tmp_path / "rates.json").read_bytes() == (tuned[0] / "rates.json").read_bytes()


class Counting(ProgressCallback):
    def __init__(self) -> None:
        self.ran: list[str] = []

    def ended(self, result: RunResult) -> None:
        self.ran.append(result.activation)


class Stopping(Counting):
    def ended(self, result: RunResult) -> None:
        super().ended(result)
        if len(self.ran) == 3:
            raise KeyboardInterrupt


def test_a_search_goes_on_and_extends_with_equal_trials_for_all(tmp_path, tuned: tuple[Path, Tuning]) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(request(tmp_path), 3, 4.0, Stopping())
    assert not (tmp_path / "rates.json").exists()
    rest = Counting()
    assert tune(request(tmp_path), 3, 4.0, rest) == tuned[1]
    assert len(rest.ran) == 3
    assert (tmp_path / "rates.json").read_bytes() == (tuned[0] / "rates.json").read_bytes()
    more = Counting()
    found = tune(request(tmp_path, activations=("relu",)), 5, 4.0, more)
    assert (more.ran.count("relu"), more.ran.count("gelu"), more.ran.count("gem(n=2)")) == (5, 2, 2)
    assert [len(arm.trials) for arm in found.arms.values()] == [5, 5, 5]
    assert found.arms["gelu"].trials[1:4] == tuned[1].arms["gelu"].trials


def test_an_activation_that_another_search_adds_meanwhile_is_not_lost(tmp_path, monkeypatch) -> None:
    began: list[str] = []

    def compare_beside_another(request: Request, observer: ProgressCallback) -> Comparison:
        found = run_comparison(request, observer)
        if not began:  # What a search that begins now does first.
            began.append("relu")
            run_comparison(dataclasses.replace(request, activations=("relu",)), observer)
        return found

    monkeypatch.setattr(tuning, "run_comparison", compare_beside_another)
    found = tune(request(tmp_path, activations=("gelu",)), 3, 4.0, ProgressCallback())
    assert set(found.arms) == {"gelu", "relu"}
    assert all(len(arm.trials) == 3 for arm in found.arms.values())
    recipe = resolve_recipe(request(tmp_path, activations=("gelu", "relu")))
    assert set(read_rates(tmp_path, recipe)) == {"gelu", "relu"}


def test_a_comparison_at_tuned_rates_trains_as_the_chosen_trials_did(tmp_path, tuned: tuple[Path, Tuning]) -> None:
    folder, found = tuned
    chosen = {"gelu": RATES[0], "gem(n=2)": RATES[2]}  # Two that differ, whatever the search has found.
    arms = {name: dataclasses.replace(arm, rate=chosen[name]) for name, arm in found.arms.items()}
    write_tuning(tmp_path, dataclasses.replace(found, arms=arms))
    out = tmp_path / "out"
    words = ["compare", "digits", "--scale", "smoke", "--epochs", "1", "--seeds", "1", "--rates", str(tmp_path)]
    assert main([*words, "--activations", *ARMS, "--out", str(out)]) == 0
    comparison = load_comparison(out)
    assert isinstance(comparison.recipe, Pipeline)
    assert comparison.recipe.rates == chosen
    for result in comparison.results:
        trial = read_result(folder / f"rate-{chosen[result.activation]:g}", result.activation, 0)
        assert trial is not None
        assert (result.figures["validation_loss"], result.epochs) == (trial.figures["validation_loss"], trial.epochs)
        assert result.figures["test_accuracy"] is not None
    sentence = f"Learning rates, tuned on the validation split: gelu {RATES[0]:g}, gem(n=2) {RATES[2]:g}."
    assert sentence in (out / "report.md").read_text()
    assert "rates.gelu" in (out / "report.html").read_text()


def test_the_best_value_is_chosen_and_an_edge_is_said(tmp_path, monkeypatch) -> None:
    low, own, high = RATES
    values: dict[str, dict[float, list[float | None]]] = {
        "relu": {low: [0.5], own: [0.75], high: [0.6]},
        "gelu": {low: [0.5], own: [0.75], high: [0.8]},
        "gem": {low: [0.75], own: [0.75], high: [0.75]},
        "silu": {low: [0.25], own: [None], high: [None]},
        "mish": {low: [None], own: [None], high: [None]},
    }
    found = search(monkeypatch, tmp_path, values)
    assert {name: arm.rate for name, arm in found.arms.items()} == {
        "relu": own, "gelu": high, "gem": own, "silu": low, "mish": None,
    }  # fmt: skip
    assert [arm.at_edge for arm in found.arms.values()] == [False, True, False, True, False]
    assert [arm.failed for arm in found.arms.values()] == [0, 0, 0, 2, 3]
    lines = list(tuning_lines(found))
    assert lines[0] == "relu: learning rate 0.005, validation accuracy 75.00 % (3 trials)"
    assert lines[2] == "  the edge of 0.00125 to 0.02: a better rate may lie beyond; give --trials 5"
    assert lines[4] == "silu: learning rate 0.00125, validation accuracy 25.00 % (3 trials, 2 failed)"
    assert lines[-1] == "mish: no learning rate, all 3 trials from 0.00125 to 0.02 failed"


def test_losses_are_minimised_and_seeds_averaged(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tuning, "resolve_recipe", lambda one: dataclasses.replace(resolve_recipe(one), metric="loss"))
    low, own, high = RATES
    values: dict[str, dict[float, list[float | None]]] = {"gelu": {low: [1.0, 3.0], own: [0.5, 4.0], high: [1.5, None]}}
    found = search(monkeypatch, tmp_path, values, seeds=2)
    assert found.arms["gelu"] == Tuned((Trial(low, 2.0, 0), Trial(own, 2.25, 0), Trial(high, None, 1)), low)
    assert found.seeds == 2
    assert next(tuning_lines(found)).startswith("gelu: learning rate 0.00125, validation loss 2.000 nats (3 trials, 1")


def test_a_failing_activation_is_counted_and_cannot_be_compared(tmp_path, monkeypatch, capsys) -> None:
    class Poison(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.nan

    real = Arm.__call__
    monkeypatch.setattr(Arm, "__call__", lambda arm: Poison() if str(arm) == "tanh" else real(arm))
    words = ["--activations", "gelu", "tanh", "--scale", "smoke", "--epochs", "1"]
    out = tmp_path / "tuning"
    assert main(["tune", "digits", *words, "--trials", "3", "--factor", "4", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "tanh: no learning rate, all 3 trials from 0.00125 to 0.02 failed" in printed
    assert f"gem-act compare digits --rates {out}" in printed
    assert main(["compare", "digits", *words, "--rates", str(out), "--out", str(tmp_path / "no")]) == 2
    assert "has no learning rate for tanh; tune these too" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("trials", "factor", "words"),
    [(4, 2.0, "--trials 4"), (1, 2.0, "at least 3"), (-5, 2.0, "--trials -5"), (5, 1.0, "--factor 1"),
     (5, float("nan"), "--factor nan"), (5, float("inf"), "--factor inf")],
)  # fmt: skip
def test_wrong_budgets_are_refused(tmp_path, trials, factor, words) -> None:
    with pytest.raises(SettingError, match=words):
        tune(request(tmp_path / "out"), trials, factor, ProgressCallback())
    assert not (tmp_path / "out").exists()


def test_torchrun_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tuning, "is_launched", lambda: True)
    with pytest.raises(SettingError, match="without torchrun"):
        tune(request(tmp_path / "out"), 3, 2.0, ProgressCallback())
    assert not (tmp_path / "out").exists()


def test_folders_of_searches() -> None:
    assert tuning_folder(Request("digits")) == Path("runs/digits-tuning")
    assert tuning_folder(Request("digits", initialisation="gain")) == Path("runs/digits-gain-tuning")
    assert tuning_folder(Request("digits", out=Path("here"))) == Path("here")


def test_rates_are_read_for_the_recipe_they_were_tuned_for(tuned: tuple[Path, Tuning]) -> None:
    folder, found = tuned
    wanted = {name: arm.rate for name, arm in found.arms.items()}
    assert resolve_recipe(request(Path("out"), rates=folder)).rates == wanted
    longer = request(Path("out"), rates=folder / "rates.json", epochs=7, seeds=3, activations=("gelu",))
    assert resolve_recipe(longer).rates == wanted
    for changes, named in (
        ({"scale": "full"}, "scale"),
        ({"model": "cnn"}, "model"),
        ({"batch_size": 8}, "training.batch_size"),
        ({"initialisation": "gain"}, "initialisation"),
        ({"recipe": "mnist"}, "name"),
    ):
        with pytest.raises(SettingError, match=rf"differs in .*{named}"):
            resolve_recipe(request(Path("out"), rates=folder, **changes))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 1, "recipe": {}, "arms": []}', '{"format": 1, "recipe": 3, "arms": {}}',
     '{"format": 1, "recipe": {}, "arms": {"gelu": {"rate": "0.1"}}}',
     '{"format": 1, "recipe": {}, "arms": {"gelu": {"rate": -0.1}}}',
     '{"format": 1, "recipe": {}, "arms": {"gelu": {"rate": NaN}}}'],
)  # fmt: skip
def test_a_damaged_file_of_rates_is_refused(tmp_path, content) -> None:
    path = tmp_path / "rates.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=r"rates\.json is damaged"):
        read_rates(path, make_recipe("digits"))
    path.write_text('{"format": 2}')
    with pytest.raises(StoreError, match="not in format 1"):
        read_rates(path, make_recipe("digits"))


def test_a_training_function_is_refused_with_what_to_do_instead(tmp_path, capsys) -> None:
    assert main(["tune", "examples/graph.py:train", "--activations", "relu", "--out", str(tmp_path)]) == 2
    assert "make the rate a parameter of it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    assert "mine.py:train" not in capsys.readouterr().out
