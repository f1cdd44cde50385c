"""Arms whose scale is calibrated, trained or scheduled in the run, and what a run says of its scales."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gem_activations.cli import main
from gem_activations.errors import ActivationNameError, SettingError
from gem_activations.lab.data.images import Dataset, Split
from gem_activations.lab.recipes.arms import parse_arm
from gem_activations.lab.recipes.pipeline import Cnn, Training
from gem_activations.lab.recipes.registry import SCALES, make_recipe
from gem_activations.lab.report.document import read_report, write_report
from gem_activations.lab.runs.planning import resolve, resolve_recipe
from gem_activations.lab.runs.request import FunctionRequest, Request
from gem_activations.lab.store.comparison import load_comparison
from gem_activations.lab.training.step import make_optimizer
from gem_activations.lab.training.tasks import ImageTask
from gem_activations.lab.training.trainer import Trainer
from gem_activations.torch.modules import named_members

from .running import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def dataset() -> Dataset:
    noise = torch.Generator().manual_seed(3)
    x, y = torch.randn(64, 1, 6, 6, generator=noise), torch.arange(64) % 4
    return Dataset(Split(x, y), Split(x[:20], y[:20]), Split(x[:20], y[:20]), 4, {})


def start(dataset: Dataset, arm: str, factor: float = 1.0, **changes: Any) -> Trainer:
    settings = Training(**{"epochs": 3, "batch_size": 16, "learning_rate": 0.02, **changes})
    recipe = dataclasses.replace(make_recipe("digits"), model=Cnn((3,)), training=settings, input_scale=factor)
    return Trainer(recipe, arm, 5, ImageTask(recipe, dataset))


def scales(trainer: Trainer) -> list[float]:
    return [module.spec.scale for _, module in named_members(trainer.model)]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        *((arm, arm) for arm in SCALES),
        ("EGEM( a = 1/10 sigma )", "egem(a=0.1sigma)"),
        ("segem(a=1sigma, n=2)", "segem(n=2, a=1sigma, leak=0.01)"),
        ("e_gem(trainable=TRUE, a=.5sigma)", "egem(a=0.5sigma, trainable=true)"),
        ("egem(trainable=true, scale=0.1)", "egem(eps=0.01, trainable=true)"),
        ("egem", "egem(eps=1e-4)"),
        ("gelu", "gelu"),
    ],
)
def test_an_arm_is_read_back_as_it_is_written(text: str, canonical: str) -> None:
    arm = parse_arm(text)
    assert str(arm) == canonical
    assert parse_arm(canonical) == arm


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gem(a=1sigma)", "belong to egem and segem"),
        ("relu(trainable=true)", "belong to egem and segem"),
        ("egem(a=1sigma, eps=1)", "give one of a, eps and scale"),
        ("egem(a=0sigma)", "a must be above 0"),
        ("egem(a=1sigma..-1sigma)", "a must be above 0"),
        ("egem(a=1sigma, a=2sigma)", "given twice"),
        ("egem(a=1)", "takes n, eps, not 'a'"),
        ("egem(a=xsigma)", "'x' is not a finite number"),
        ("egem(a=1sigma..2)", "not a finite number"),
        ("egem(trainable=maybe)", "not a finite number"),
        ("egem(a=1sigma..2sigma, trainable=true)", "scheduled or trained, not both"),
    ],
)
def test_what_is_no_arm_is_one_clear_error(text: str, words: str) -> None:
    with pytest.raises(ActivationNameError, match=words):
        parse_arm(text)


def test_an_arm_that_is_not_trained_is_the_plain_one() -> None:
    assert parse_arm("egem(trainable=false)") == parse_arm("egem")


def test_a_calibrated_run_begins_at_the_ratio_and_stores_what_was_checked(tmp_path: Path, dataset: Dataset) -> None:
    figures = train(start(dataset, "segem(n=2, a=0.1sigma)", 0.05), tmp_path / "run")
    assert figures["rho"] == pytest.approx(0.1, rel=1e-6)
    stored = json.loads((tmp_path / "run/scale.json").read_text())
    assert [row["rho"] for row in stored["rows"]] == pytest.approx([0.1, 0.1], rel=1e-6)
    assert all(row["eps"] == pytest.approx((0.1 * row["sigma"]) ** 4, rel=1e-6) for row in stored["rows"])
    assert stored["warnings"] == []
    fixed = train(start(dataset, "gem", 0.05, epochs=1), tmp_path / "fixed")
    assert fixed["chi"] == pytest.approx(
        torch.tensor([row["chi"] for row in json.loads((tmp_path / "fixed/scale.json").read_text())["rows"]]).prod()
    )
    train(start(dataset, "relu", epochs=1), tmp_path / "relu")
    assert not (tmp_path / "relu/scale.json").exists()


def test_checking_the_scale_changes_no_run(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = start(dataset, "gem(n=2)")
    train(trainer, tmp_path / "checked")
    monkeypatch.setattr(Trainer, "_check_scale", lambda *_: {})
    other = start(dataset, "gem(n=2)")
    train(other, tmp_path / "unchecked")
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.state_dict().values(), other.best.values(), strict=True))


def dict_of(run: Any) -> dict[str, float]:
    return {"a": run.seed}


class StopError(Exception):
    """Ends a run from outside."""


@pytest.mark.parametrize("arm", ["egem(a=0.1sigma)", "egem(a=1sigma, trainable=true)", "egem(a=1sigma..0.1sigma)"])
def test_a_run_that_is_resumed_has_the_scales_of_one_never_stopped(tmp_path: Path, dataset: Dataset, arm: str) -> None:
    whole = start(dataset, arm)
    expected = train(whole, tmp_path / "whole")

    def stop(metrics: list[Any]) -> None:
        if len(metrics) == 2:
            raise StopError

    with pytest.raises(StopError):
        train(start(dataset, arm), tmp_path / "stopped", stop)
    resumed = start(dataset, arm)
    found = train(resumed, tmp_path / "stopped")
    assert [found[name] for name in ("test_loss", "rho", "chi")] == [
        expected[name] for name in ("test_loss", "rho", "chi")
    ]
    assert scales(resumed) == scales(whole)


def test_a_schedule_ends_at_its_second_ratio_and_is_scored_where_the_weights_were_chosen(
    tmp_path: Path, dataset: Dataset
) -> None:
    trainer = start(dataset, "egem(a=1sigma..0.1sigma)")
    first = scales(trainer)
    figures = train(trainer, tmp_path / "run")
    assert trainer.schedule is not None
    chosen = trainer.schedule.state_dict()["step"]
    assert chosen == figures["best_epoch"] * 4
    trainer.schedule.step(to=len(trainer.rates))
    assert scales(trainer) == pytest.approx([0.1 * scale for scale in first], rel=1e-6)


@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_a_learnt_scale_is_trained_and_does_not_decay(tmp_path: Path, dataset: Dataset, decay: str) -> None:
    trainer = start(dataset, "egem(a=1sigma, trainable=true)", decay=decay)
    groups = make_optimizer(trainer.model, trainer.recipe.training).param_groups
    held = {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}
    assert {id(module.log_scale) for _, module in named_members(trainer.model)} <= held
    figures = train(trainer, tmp_path / "run")
    assert 0 < abs(figures["scale_change"]) < 1


def test_inputs_are_scaled_in_training_and_evaluation(dataset: Dataset) -> None:
    plain, scaled = (start(dataset, "relu", factor).task for factor in (1.0, 20.0))
    indices, noise = torch.arange(8), torch.Generator()
    assert torch.equal(20 * plain.train_batch(indices, noise).inputs, scaled.train_batch(indices, noise).inputs)
    for one, other in zip(plain.evaluation_batches("test"), scaled.evaluation_batches("test"), strict=True):
        assert torch.equal(20 * one.inputs, other.inputs)


def test_the_scale_of_inputs_is_a_part_of_the_identity() -> None:
    request = Request("digits", study="eps-automatic", input_scale=0.05)
    assert resolve_recipe(request).pipeline().input_scale == 0.05
    assert request.folder == Path("runs/digits-eps-automatic-x0.05")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("digits", input_scale=0.0), "--input-scale 0: give a positive number"),
        (Request("gpt2-124m", input_scale=2.0), "gpt2-124m has no images"),
        (Request("digits", initialisation="gain", activations=("egem(a=1sigma)",)), "whose gain is known"),
        (FunctionRequest(dict_of, activations=("egem(a=1sigma)",), metric="a", better="lower"),
         "is calibrated on a batch of a recipe"),
    ],
)  # fmt: skip
def test_wrong_choices_are_refused(request_: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        resolve(request_)


@pytest.mark.usefixtures("without_plots")
def test_a_report_shows_the_scales_and_warns_of_those_that_are_too_large(tmp_path: Path, capsys: Any) -> None:
    arms = ["egem(eps=1)", "egem(a=1sigma)", "mine=egem(a=0.1sigma)", "relu"]
    words = ["--scale", "smoke", "--epochs", "1", "--seeds", "1", "--input-scale", "0.05", "--out", str(tmp_path)]
    assert main(["compare", "digits", "--activations", *arms, "--baseline", "relu", *words]) == 0
    assert "egem(eps=1): at the start its scale a was up to" in capsys.readouterr().out
    found = {run.activation: run.figures for run in load_comparison(tmp_path).results}
    assert found["egem(eps=1)"]["rho"] > 10
    assert found["egem(a=1sigma)"]["rho"] == pytest.approx(1, rel=1e-5)
    assert found["mine"]["rho"] == pytest.approx(0.1, rel=1e-5)
    assert "rho" not in found["relu"]
    report = read_report(tmp_path)
    write_report(report)
    assert sum("at the start its scale" in sentence for sentence in report.sentences) == 1
    page = (tmp_path / "report.html").read_text()
    assert "largest a / sigma at the start" in page
    assert "chi over the depth at the start" in page
