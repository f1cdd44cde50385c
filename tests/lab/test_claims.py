import dataclasses
import math
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from gem_activations.catalog import parse
from gem_activations.cli import main
from gem_activations.errors import SettingError, StoreError
from gem_activations.lab import claims
from gem_activations.lab.claims import BASELINES, CLAIMS, TWENTY, Status, find_comparisons, judge, judge_all, setting_of
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.report.document import analyse, write_report
from gem_activations.lab.statistics.reading import read_comparison
from gem_activations.lab.store.comparison import Depth, Look, load_comparison

MNIST = Path(__file__).parents[2] / "benchmarks/results/mnist"
EVERY = {claim.name: claim for claim in CLAIMS}


def compared(fabricate, recipe, values, *, seeds=4, scale="full", **fields):
    """Make a comparison of a recipe with the given accuracy of each arm and a small spread over the seeds."""
    comparison = fabricate(arms={str(parse(name)): 0.9 for name in values}, baseline="gelu", seeds=seeds)
    offsets = dict(zip(comparison.activations, values.values(), strict=True))
    runs = []
    for place, run in enumerate(comparison.results):
        value = offsets[run.activation] + 1e-4 * math.sin(5 * place)
        runs.append(dataclasses.replace(run, figures={**run.figures, "test_accuracy": value, "test_loss": value}))
    stored = dataclasses.replace(make_recipe(recipe, scale=scale).pipeline(), **fields)
    return dataclasses.replace(comparison, results=tuple(runs), recipe=stored)


def test_the_table_names_activations_once_and_recipes_by_scale():
    assert len(EVERY) == len(CLAIMS)
    for claim in CLAIMS:
        assert all(name == str(parse(name)) for name in claim.arms)
        assert all(part.rival not in part.leaders for part in claim.parts)
    assert len(TWENTY) == 20


def test_runs_of_the_gpu_script_are_read_at_their_own_scale():
    (comparison,) = find_comparisons([MNIST.parent / "cifar10-short"])
    found = judge(EVERY["n-cnn"], comparison)
    assert found.setting == "short"
    assert (found.status, found.seeds) == (Status.SUPPORTED, 4)
    (comparison,) = find_comparisons([MNIST.parent / "cifar100-short"])
    found = judge(EVERY["cifar100-gem2"], comparison)
    assert (found.status, found.seeds) == (Status.SUPPORTED, 4)


def test_the_sizes_are_those_of_the_papers():
    assert EVERY["cifar100-gem2"].size == pytest.approx(0.0610)
    assert EVERY["gpt2-gem2"].size == pytest.approx(0.01626, abs=1e-5)
    assert EVERY["cifar10-segem"].size == pytest.approx(0.9251 - 0.9244)
    assert EVERY["stl10-gelu"].parts[0] == (("gelu",), "leaky_relu")


@pytest.mark.parametrize(
    ("segem", "gelu", "status"), [(0.93, 0.92, Status.SUPPORTED), (0.92, 0.93, Status.CONTRADICTED)]
)
def test_an_arm_that_is_shown_ahead_supports_or_contradicts(fabricate, segem, gelu, status):
    comparison = compared(fabricate, "cifar10-resnet56", {"gelu": gelu, "segem(eps=1e-4)": segem})
    found = judge(EVERY["cifar10-segem"], comparison)
    assert (found.status, found.setting, found.seeds) == (status, "full", 4)
    assert "segem(eps=1e-4, leak=0.01) beside gelu" in found.detail


def test_a_claim_is_judged_by_the_look_at_which_its_first_arm_left(fabricate):
    values = {"gelu": 0.92, "segem(eps=1e-4)": 0.9208}
    comparison = compared(fabricate, "cifar10-resnet56", values, seeds=8)
    segem = comparison.activations[1]
    looks = (
        Look(3, 0.01, {segem: "not decided"}, ()),
        Look(5, 0.01, {segem: "shown better"}, (segem,)),
    )
    looked = dataclasses.replace(comparison, max_seeds=40, looks=looks)
    found = judge(EVERY["cifar10-segem"], looked)
    assert (found.status, found.seeds) == (Status.SUPPORTED, 5)
    strict = dataclasses.replace(looked, looks=(looks[0], dataclasses.replace(looks[1], level=1e-7)))
    assert judge(EVERY["cifar10-segem"], strict).status is Status.UNDECIDED
    assert judge(EVERY["cifar10-segem"], dataclasses.replace(looked, looks=())) is None


def test_a_rival_that_left_at_a_later_look_is_judged_there():
    """Of the paper's rivals GELU left after 5 seeds, SiLU after 18: each is beside E-GEM at its own look."""
    found = judge(EVERY["mnist-tie"], read_comparison(MNIST))
    assert (found.status, found.setting, found.seeds) == (Status.SUPPORTED, "full", 5)
    assert found.detail.startswith("egem(eps=1e-4) beside silu: -0.04 points")


def test_at_another_scale_results_speak_of_the_direction_and_full_stays_not_run(fabricate):
    values = {"gelu": 0.92, "segem(eps=1e-4)": 0.93}
    findings = judge_all([compared(fabricate, "cifar10-resnet56", values, scale="small")])
    rows = [(one.setting, one.verdict) for one in findings if one.claim.name == "cifar10-segem"]
    assert rows == [("full", "not run"), ("small", "direction supported (4 seeds)")]
    assert judge(EVERY["cifar10-segem"], compared(fabricate, "cifar10-resnet56", values, scale="smoke")) is None


def test_what_is_not_decided_names_the_seeds(fabricate):
    comparison = compared(fabricate, "cifar10-resnet56", {"gelu": 0.92, "segem(eps=1e-4)": 0.92003})
    found = judge(EVERY["cifar10-segem"], comparison)
    assert found.status is Status.UNDECIDED
    assert found.verdict == "not decided (4 seeds)"


def test_a_claimed_gap_beyond_the_margin_is_contradicted_by_equivalence(fabricate):
    comparison = compared(fabricate, "cifar100-resnet56", {"gelu": 0.70, "gem(n=2)": 0.70002})
    found = judge(EVERY["cifar100-gem2"], comparison)
    assert found.status is Status.CONTRADICTED
    assert "the paper's 6.10 points is outside the interval" in found.detail
    small = judge(
        EVERY["cifar100-gem2"],
        dataclasses.replace(comparison, recipe=make_recipe("cifar100-resnet56", scale="small").pipeline()),
    )
    assert small.status is Status.UNDECIDED


def test_best_of_many_needs_every_rival(fabricate):
    values = {"gelu": 0.92, "gem": 0.93, "gem(n=2)": 0.92, "gem(n=3)": 0.91}
    claim = EVERY["n-cnn"]
    assert judge(claim, compared(fabricate, "cifar10-resnet56", values)).status is Status.SUPPORTED
    del values["gem(n=3)"]
    found = judge(claim, compared(fabricate, "cifar10-resnet56", values))
    assert found.status is Status.UNDECIDED
    assert found.detail.endswith("without gem(n=3)")
    worse = judge(claim, compared(fabricate, "cifar10-resnet56", {**values, "gem(n=2)": 0.95}))
    assert worse.status is Status.CONTRADICTED


def test_another_spelling_of_the_same_function_is_the_arm_of_a_claim(fabricate):
    claim, values = EVERY["n-cnn"], {"egem(eps=1)": 0.93, "gem(n=2)": 0.92, "egem(n=3, eps=1)": 0.91}
    comparison = compared(fabricate, "cifar10-resnet56", {"gelu": 0.92, **values})
    assert judge(claim, comparison).status is Status.SUPPORTED
    both = compared(fabricate, "cifar10-resnet56", {"gelu": 0.92, **values, "gem": 0.5})  # The first of the two counts.
    assert judge(claim, both).status is Status.SUPPORTED
    looks = (Look(3, 0.01, {}, ("egem(eps=1)",)), Look(4, 0.01, {}, ()))
    assert judge(claim, dataclasses.replace(comparison, max_seeds=40, looks=looks)).seeds == 3


def test_one_of_several_leaders_is_enough(fabricate):
    names = ("egem(eps=1e-4)", "egem(eps=1e-5)", "egem(eps=1e-6)")
    values = {"gelu": 0.92, **dict(zip(names, (0.93, 0.90, 0.90), strict=True))}
    values |= {f"egem(eps={eps})": 0.91 for eps in ("0.01", "0.1", "1", "10")}
    assert judge(EVERY["eps-cnn"], compared(fabricate, "cifar10-resnet56", values)).status is Status.SUPPORTED
    values["egem(eps=10)"] = 0.95
    assert judge(EVERY["eps-cnn"], compared(fabricate, "cifar10-resnet56", values)).status is Status.CONTRADICTED


@pytest.mark.parametrize(
    ("egem", "status"), [(0.9930, Status.SUPPORTED), (0.98, Status.CONTRADICTED), (0.9990, Status.CONTRADICTED)]
)
def test_a_tie_is_equivalence_with_the_best(fabricate, egem, status):
    values = {**dict.fromkeys(BASELINES, 0.9930), "egem(eps=1e-4)": egem}
    assert judge(EVERY["mnist-tie"], compared(fabricate, "mnist", values)).status is status


def test_of_losses_the_lower_is_ahead_and_perplexities_are_compared_as_losses(fabricate):
    values = {"gelu": 3.60, "gem(n=2)": 3.58, "gem": 3.59}
    for metric in ("loss", "perplexity"):
        comparison = compared(fabricate, "gpt2-124m", values, metric=metric)
        found = judge(EVERY["gpt2-gem2"], comparison)
        assert found.status is Status.SUPPORTED
        assert "gem(n=2) beside gelu: -0.020 nats" in found.detail
        assert "the paper's 0.016 nats is outside the interval" in found.detail


def test_a_setting_names_what_differs_from_the_recipe():
    own = make_recipe("mnist").pipeline()
    assert setting_of(own) == "full"
    gain = dataclasses.replace(own, initialisation="gain")
    assert setting_of(gain) == "full, other initialisation"
    training = dataclasses.replace(own.training, epochs=1, batch_size=1, clip=1.0, learning_rate=1.0)
    assert setting_of(dataclasses.replace(own, training=training)).endswith(" and 1 more")
    assert setting_of(dataclasses.replace(own, name="of another version")) == "full"


def test_the_repository_has_one_result_and_says_what_was_not_run(capsys):
    assert main(["claims", str(MNIST)]) == 0
    printed = capsys.readouterr().out
    (found,) = re.findall(r"MNIST: E-GEM ties the best baseline; reported: 99.23 %\n    (.*)", printed)
    assert found.startswith("full: supported (5 seeds): egem(eps=1e-4) beside silu")
    assert printed.count("full: not run") == len(CLAIMS) - 1
    assert "Read with eps added to x^(2n). If eps is the scale itself" in " ".join(printed.split())
    assert f"{len(CLAIMS)} claims; at full scale: 1 supported, 0 contradicted, 0 not decided, 19 not run." in printed
    assert printed.endswith("Not run at full scale: 0 with results at other settings, 19 without any.\n")


def test_folders_are_found_and_an_installed_package_asks_for_them(tmp_path, monkeypatch):
    shutil.copytree(MNIST, tmp_path / "results" / "mnist")
    assert [one.folder for one in find_comparisons([tmp_path / "results"])] == [tmp_path / "results" / "mnist"]
    with pytest.raises(StoreError, match="holds no comparison"):
        find_comparisons([tmp_path])
    monkeypatch.setattr(claims, "RESULTS", tmp_path / "absent")
    with pytest.raises(SettingError, match="carries no results; name folders"):
        find_comparisons([])


@pytest.mark.usefixtures("without_plots")
def test_kept_results_without_their_runs_have_the_same_report(tmp_path):
    folder = tmp_path / "mnist"
    shutil.copytree(MNIST, folder)
    assert not load_comparison(folder).results
    before = (folder / "results.csv").read_text()
    comparison = read_comparison(folder)
    assert (len(comparison.results), comparison.missing) == (105, ())
    write_report(analyse(comparison))
    columns = before.splitlines()[0].split(",")
    assert (
        pl.read_csv(folder / "results.csv").select(columns).equals(pl.read_csv(MNIST / "results.csv").select(columns))
    )
    assert read_comparison(folder) == comparison


@pytest.mark.usefixtures("without_plots")
def test_curves_and_depths_are_kept(fabricate):
    comparison = fabricate(arms={"gelu": 0.9, "gem": 0.9}, failed=[("gem", 1)])
    depth = Depth(("a", "b"), (1.0, 2.0), (3.0, 4.0), ("act",), (0.1,), (0.2,))
    ran = [(run.activation, run.seed) for run in comparison.results if run.status == "finished"]
    comparison = dataclasses.replace(comparison, depths=dict.fromkeys(ran, depth))
    write_report(analyse(comparison))
    shutil.copy(MNIST / "comparison.json", comparison.folder)  # A plan with gelu and gem in it.
    kept = read_comparison(comparison.folder)
    assert {(run.activation, run.seed): run for run in kept.results} == {
        (run.activation, run.seed): run for run in comparison.results
    }
    assert {run: curve for run, curve in kept.curves.items() if curve} == comparison.curves
    assert kept.depths == comparison.depths
    assert kept.environment == comparison.environment


@pytest.mark.parametrize("name", ["results.parquet", "environment.json"])
def test_a_damaged_table_is_named(tmp_path, name):
    folder = tmp_path / "mnist"
    shutil.copytree(MNIST, folder)
    (folder / name).write_bytes(b"{")
    with pytest.raises(StoreError, match=f"{name} is damaged"):
        read_comparison(folder)
