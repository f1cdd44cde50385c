import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from gem_activations.errors import ActivationNameError, SettingError, SpecError, StoreError
from gem_activations.lab.report.document import FILES
from gem_activations.lab.runs.planning import agree_on_plan, check_folder, find_device, resolve, resolve_recipe
from gem_activations.lab.runs.request import Request
from gem_activations.lab.store.comparison import Plan, read_plan

CPU = torch.device("cpu")
DATA = {"train": "a" * 64, "test": "b" * 64}


def agree(request: Request, checksums: dict[str, str] | None = None) -> Plan:
    check_folder(request.folder)
    return agree_on_plan(request, resolve(request), CPU, checksums or DATA)


def test_request_fills_in_the_recipe() -> None:
    recipe = resolve_recipe(
        Request("digits", activations=("GELU".lower(), "egem( eps = 1/10000 )", "egem"), seeds=2, epochs=3)
    )
    assert recipe.activations == ("gelu", "egem(eps=1e-4)")
    assert (recipe.seeds, recipe.training.epochs, recipe.baseline) == (2, 3, "gelu")
    default = resolve_recipe(Request("digits"))
    assert (default.baseline, len(default.activations)) == ("gelu", 8)
    assert Request("digits").folder == Path("runs/digits")


def test_baseline_is_the_first_arm_where_the_recipes_is_no_arm() -> None:
    assert resolve_recipe(Request("digits", activations=("silu", "gem"))).baseline == "silu"
    assert resolve_recipe(Request("digits", activations=("silu", "gem"), baseline="gem")).baseline == "gem"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"seeds": 0}, SettingError, "--seeds 0"),
        ({"seeds": -3}, SettingError, "at least 1"),
        ({"epochs": 0}, SettingError, "--epochs 0"),
        ({"epochs": 10**12}, SettingError, "--epochs 1000000000000: give at most 1,000,000"),
        ({"seed_start": -1}, SettingError, "--seed-start -1"),
        ({"data_dir": Path("no-such-folder")}, SettingError, "--data-dir no-such-folder: there is no such folder"),
        ({"learning_rate": 0.0}, SettingError, "--learning-rate 0"),
        ({"recipe": "gpt2-124m", "width": 100}, SettingError, "--width 100: the model has 12 heads"),
        ({"activations": ()}, SettingError, "at least one activation"),
        ({"activations": ("gleu",)}, ActivationNameError, "did you mean"),
        ({"activations": ("gem(n=",)}, ActivationNameError, "not an activation"),
        ({"activations": ("gem(n=0)",)}, SpecError, "n=0"),
        ({"activations": ("egem(eps=0)",)}, SpecError, "eps=0"),
        ({"baseline": "tanh"}, SettingError, "--baseline tanh is not among"),
        ({"baseline": "nope"}, ActivationNameError, "nope"),
        ({"recipe": "digitz"}, SettingError, "did you mean digits"),
        ({"model": "vit"}, SettingError, "mlp, cnn"),
        ({"batch_size": 0}, SettingError, "--batch-size 0"),
        ({"steps": 10}, SettingError, "give --epochs"),
        ({"context": 64}, SettingError, "no recipe on text"),
        ({"recipe": "gpt2-124m", "steps": 10, "epochs": 1}, SettingError, "give one of them"),
        ({"micro_batch": 0}, SettingError, "--micro-batch 0"),
        ({"recipe": "gpt2-124m", "channels_last": True}, SettingError, "has no images"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        resolve(dataclasses.replace(Request("digits"), **changes))


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (250, 1), (251, 2), (5000, 20)])
def test_text_recipes_take_steps_batch_and_context(steps: int, epochs: int) -> None:
    recipe = resolve_recipe(Request("gpt2-124m", steps=steps, batch_size=3, context=64))
    assert (recipe.training.epochs, recipe.training.total_steps(10**6)) == (epochs, steps)
    assert (recipe.training.batch_size, recipe.model.context) == (3, 64)


def test_means_of_a_step_are_the_request_s_and_else_the_recipe_s() -> None:
    means = {"micro_batch": 8, "precision": "bfloat16", "channels_last": True, "compiled": True}
    training = resolve_recipe(Request("digits", **means)).training
    assert {name: getattr(training, name) for name in means} == means
    own = resolve_recipe(Request("gpt2-124m")).training
    assert (own.micro_batch, own.precision, own.compiled) == (8, "bfloat16", False)
    assert resolve_recipe(Request("cifar10-resnet56", scale="small")).training.channels_last


@pytest.mark.parametrize("text", ["gpu", "", "meta", "cpu:3", "cuda:99", "cuda:x"])
def test_device_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="--device"):
        find_device(text)
    assert find_device("cpu") == CPU


def test_same_request_joins_and_more_arms_or_seeds_extend(tmp_path: Path) -> None:
    first = Request("digits", out=tmp_path, activations=("gelu", "gem"), seeds=2)
    plan = agree(first)
    assert agree(first) == plan == read_plan(tmp_path)
    more = agree(dataclasses.replace(first, activations=("gem", "silu"), seeds=3))
    assert (more.activations, more.seeds) == (("gelu", "gem", "silu"), (0, 1, 2))
    assert agree(dataclasses.replace(first, activations=("silu",), seeds=1)) == more == read_plan(tmp_path)
    assert more.runs()[:4] == [("gelu", 0), ("gem", 0), ("silu", 0), ("gelu", 1)]


def test_threads_stay_those_of_the_first_run(tmp_path: Path) -> None:
    request = Request("mnist", out=tmp_path)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        plan = agree(request)
        torch.set_num_threads(1)
        assert agree(request).threads == plan.threads == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 7}, r"training\.epochs \(20 there, 7 now\)"),
        ({"recipe": "mnist"}, r"differs in recipe \(digits there, mnist now\);"),
        ({"model": "cnn"}, r"model\.kind \(mlp there, cnn now\)"),
        ({"baseline": "relu"}, r"baseline \(gelu there, relu now\)"),
    ],
)
def test_folder_of_another_comparison_is_refused_and_untouched(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    request = Request("digits", out=tmp_path)
    agree(request)
    before = (tmp_path / "comparison.json").read_bytes()
    with pytest.raises(StoreError, match=words) as caught:
        agree(dataclasses.replace(request, **changes))
    assert "choose another --out folder" in str(caught.value)
    assert (tmp_path / "comparison.json").read_bytes() == before


def test_changed_data_are_refused(tmp_path: Path) -> None:
    agree(Request("digits", out=tmp_path))
    with pytest.raises(StoreError, match=r"data\.test"):
        agree(Request("digits", out=tmp_path), {**DATA, "test": "c" * 64})


def test_folder_with_files_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    check_folder(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(StoreError, match="holds runs of no comparison"):
        check_folder(tmp_path)


@pytest.mark.parametrize("name", ["plots", *FILES])
def test_every_file_that_a_comparison_writes_is_known_as_its_own(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("of others")
    with pytest.raises(StoreError, match=f"holds {name} of no comparison"):
        check_folder(tmp_path)


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(StoreError, match="choose another --out folder"):
            check_folder(folder)
    assert (tmp_path / "file").read_text() == "x"
