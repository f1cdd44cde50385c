import dataclasses
import json
import shlex
from pathlib import Path

import pytest
import torch

from gem_activations.cli import main
from gem_activations.errors import SettingError, StoreError
from gem_activations.lab.claims import CLAIMS, claims_lines, command_of, setting_of
from gem_activations.lab.recipes.pipeline import Pipeline, Recipe, read_recipe
from gem_activations.lab.recipes.registry import RECIPES, STUDIES, TWENTY, make_recipe, make_study
from gem_activations.lab.report.plots import find_ablations
from gem_activations.lab.runs.experiment import of_recipe
from gem_activations.lab.runs.planning import agree_on_plan, resolve, resolve_recipe
from gem_activations.lab.runs.request import Request
from gem_activations.lab.statistics.reading import read_comparison
from gem_activations.lab.store.comparison import load_comparison, read_plan, to_plain, write_plan

MNIST = Path(__file__).parents[2] / "benchmarks/results/mnist"
LEE = """elu hardshrink hardsigmoid hardtanh hardswish leaky_relu logsigmoid prelu relu relu6 rrelu selu celu gelu
sigmoid softplus softshrink softsign tanh tanhshrink"""


@pytest.mark.parametrize("scale", ["full", "small", "smoke"])
@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("name", RECIPES)
def test_a_study_changes_arms_and_baseline_of_any_recipe_alone(name: str, study: str, scale: str) -> None:
    recipe = make_recipe(name, scale=scale)
    changed = resolve_recipe(Request(name, study=study, scale=scale))
    assert changed.pipeline() == recipe.pipeline()
    assert changed.seeds == (1 if scale == "smoke" else recipe.seeds)
    baselines = {"n-ablation": "gem", "eps-ablation": "relu", "eps-automatic": "relu", "twenty": "gelu"}
    assert changed.baseline == baselines[study]
    assert changed.activations != recipe.activations
    assert {changed.baseline, "relu", "gelu"} <= set(changed.activations)


def test_the_ablations_are_curves_with_their_limits_beside_them() -> None:
    orders = make_study("n-ablation", make_recipe("digits")).activations
    assert find_ablations(orders, "n") == {"gem": {1: "gem", 2: "gem(n=2)", 3: "gem(n=3)", 4: "gem(n=4)"}}
    widths = make_study("eps-ablation", make_recipe("digits")).activations
    assert list(find_ablations(widths, "eps")["egem"]) == [1e-6, 1e-5, 1e-4, 0.01, 0.1, 1, 10]


def test_twenty_are_lees() -> None:
    assert set(TWENTY) == set(LEE.split())
    assert len(TWENTY) == 20


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith(("cifar", "stl"))])
def test_a_leak_stands_beside_se_gem_and_relu_beside_a_small_eps(name: str) -> None:
    arms = make_recipe(name).activations
    assert "segem(eps=1e-4)" in arms
    assert {"leaky_relu", "relu"} <= set(arms)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_command_of_a_claim_trains_all_of_its_arms(claim) -> None:
    words = shlex.split(command_of(claim).partition(" (or ")[0])
    assert words[:2] == ["gem-act", "compare"]
    recipe, option, *values = [*words[2:], None]
    assert recipe == claim.recipes[0]
    chosen = {"--study": {"study": values[0] if values else None}, "--activations": {"activations": values[:-1]}}
    arms = resolve_recipe(Request(recipe, **chosen.get(option or "", {}))).activations
    assert set(claim.arms) <= set(arms)


def test_claims_name_their_commands_and_controls() -> None:
    lines = list(claims_lines([MNIST]))
    assert sum(line.startswith("    to run: gem-act compare ") for line in lines) == len(CLAIMS)
    assert any("--study eps-ablation" in line for line in lines)
    assert "--initialisation gain" in lines[-3]
    assert "gem-act tune" in lines[-3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"study": "n-ablations"}, "did you mean n-ablation"),
        ({"study": "xyz"}, "the studies are n-ablation, eps-ablation, eps-automatic, twenty"),
        ({"study": "twenty", "activations": ("gelu",)}, "leave --activations out"),
        ({"study": "twenty", "baseline": "gem"}, "--baseline gem is not among"),
        ({"rates": Path("nowhere.json")}, "there is no such file"),
    ],
)
def test_wrong_choices_are_refused(changes, words) -> None:
    with pytest.raises(SettingError, match=words):
        resolve_recipe(dataclasses.replace(Request("digits"), **changes))


def test_a_study_from_the_command_line(tmp_path, capsys) -> None:
    words = ["compare", "digits", "--study", "n-ablation", "--scale", "smoke", "--epochs", "1", "--out", str(tmp_path)]
    assert main(words) == 0
    comparison = load_comparison(tmp_path)
    assert comparison.baseline == "gem"
    assert [run.activation for run in comparison.results if run.status == "finished"] == list(comparison.activations)
    assert (tmp_path / "plots/n-ablation.svg").exists()
    capsys.readouterr()
    assert main([*words, "--activations", "gelu"]) == 2
    error = capsys.readouterr().err
    assert error == "gem-act: --study n-ablation chooses the activations; leave --activations out\n"


def test_folders_tell_commands_apart() -> None:
    assert Request("digits").folder == Path("runs/digits")
    assert Request("digits", initialisation="model").folder == Path("runs/digits")
    whole = Request("digits", study="twenty", initialisation="gain", rates=Path("x"))
    assert whole.folder == Path("runs/digits-twenty-gain-tuned")
    assert dataclasses.replace(whole, out=Path("here")).folder == Path("here")


def test_what_earlier_versions_began_keeps_its_identity(tmp_path) -> None:
    assert read_comparison(MNIST).recipe == resolve_recipe(Request("mnist")).pipeline()
    assert setting_of(resolve_recipe(Request("mnist"))) == "full"
    request, data = Request("digits", out=tmp_path), {"train": "a"}
    before = agree_on_plan(request, resolve(request), torch.device("cpu"), data)
    assert agree_on_plan(request, resolve(request), torch.device("cpu"), data) == before


@pytest.mark.parametrize("path", sorted(MNIST.parent.rglob("comparison.json")), ids=lambda path: path.parent.name)
def test_a_kept_comparison_is_joined_by_the_request_that_began_it(tmp_path, path) -> None:
    stored = read_plan(path.parent)
    assert stored is not None
    recipe = stored.recipe
    assert isinstance(recipe, Pipeline)
    kept = json.loads(path.read_text())["recipe"]
    assert recipe.rule == kept.pop("rule", recipe.rule)  # Stored until it was derived from the settings.
    assert kept.items() <= to_plain(recipe).items() or recipe.name == "mnist"  # Older than some settings of training.
    write_plan(tmp_path, stored)
    shared = {each.name: getattr(recipe, each.name) for each in dataclasses.fields(recipe)}
    whole = Recipe(**shared, activations=stored.activations, baseline=stored.baseline)
    own = dataclasses.replace(of_recipe(whole, None, stored.seeds), versions=stored.versions)
    request = Request(recipe.name, out=tmp_path, until_decided=stored.max_seeds is not None, max_seeds=stored.max_seeds)
    assert agree_on_plan(request, own, torch.device(stored.device), stored.data) == stored


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rates": {"gelu": 0.1, "gem": 0.2}}, "rates.gelu"),
        ({"initialisation": "gain"}, "initialisation"),
        ({"scored": "validation"}, "scored"),
    ],
)
def test_controls_are_another_comparison_either_way(tmp_path, changes, named) -> None:
    request, device, data = Request("digits", out=tmp_path), torch.device("cpu"), {"train": "a"}
    plain = resolve_recipe(request)
    control = dataclasses.replace(plain, **changes)
    for pair in ((plain, control), (control, plain)):
        first, second = (of_recipe(recipe, None, (0,)) for recipe in pair)
        folder = tmp_path / str(pair[0] is plain)
        folder.mkdir()
        agree_on_plan(dataclasses.replace(request, out=folder), first, device, data)
        with pytest.raises(StoreError, match=named):
            agree_on_plan(dataclasses.replace(request, out=folder), second, device, data)


def test_controls_are_named_beside_a_claim() -> None:
    recipe = make_recipe("mnist")
    assert setting_of(recipe.pipeline()) == "full"
    gain = dataclasses.replace(recipe, initialisation="gain", rates={"gelu": 0.1})
    assert setting_of(read_recipe(to_plain(gain.pipeline()))) == "full, other initialisation, learning rates"


def test_an_arm_is_trained_at_its_own_rate() -> None:
    recipe: Recipe = dataclasses.replace(make_recipe("digits"), rates={"gem": 0.25})
    assert recipe.for_arm("gem").training == dataclasses.replace(recipe.training, learning_rate=0.25)
    assert recipe.for_arm("gelu") is recipe
