import dataclasses
from typing import Any, get_args

import pytest
import torch

from gem_activations import catalog
from gem_activations.errors import SettingError
from gem_activations.lab.models import build_model, count_parameters
from gem_activations.lab.recipes.pipeline import ARMS, Cnn, Mlp, Scale, read_recipe
from gem_activations.lab.recipes.registry import RECIPES, SHORT, make_recipe
from gem_activations.lab.store.comparison import to_plain

CIFAR = tuple(name for name in RECIPES if name.startswith(("cifar", "stl10")))


SCALED = [(name, scale) for name in RECIPES for scale in get_args(Scale) if scale != "short" or name in SHORT]


@pytest.mark.parametrize(("name", "scale"), SCALED)
def test_recipe_is_known_by_its_own_name_and_plain(name: str, scale: str) -> None:
    recipe = make_recipe(name, scale=scale)
    assert (recipe.name, recipe.scale) == (name, scale)
    assert recipe.baseline in recipe.activations
    assert len({catalog.parse(arm) for arm in recipe.activations}) == len(recipe.activations)
    plain = to_plain(recipe.pipeline())
    assert read_recipe(plain) == recipe.pipeline()
    assert {"activations", "baseline", "seeds"}.isdisjoint(plain)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seeds = 1  # pyright: ignore[reportAttributeAccessIssue] -- that it is frozen is the point


def test_default_arms_are_distinct_members_of_the_catalog() -> None:
    assert len({catalog.parse(arm) for arm in ARMS}) == len(ARMS) == 8


def test_model_is_chosen_by_name() -> None:
    assert isinstance(make_recipe("digits").model, Mlp)
    assert isinstance(make_recipe("digits", "cnn").model, Cnn)
    assert isinstance(make_recipe("mnist").model, Cnn)
    assert make_recipe("mnist", "cnn") == make_recipe("mnist") != make_recipe("mnist", "mlp")


@pytest.mark.parametrize(
    ("name", "choices", "words"),
    [
        ("digit", {}, "did you mean digits"),
        ("xyz", {}, "the recipes are digits"),
        ("mnist", {"model": "vit"}, "mlp, cnn"),
        ("mnist", {"model": "vit"}, "the models are mlp, cnn"),
        ("cifar10-vit", {"model": "cnn"}, "the models are vit"),
        ("digits", {"scale": "short"}, "a scale of cifar10-resnet56 and cifar100-resnet56 alone; take full, small or"),
    ],
)
def test_unknown_names_are_refused_with_what_there_is(name: str, choices: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make_recipe(name, **choices)


@pytest.mark.parametrize("name", ["cifar10-resnet56", "cifar100-resnet56"])
def test_resnet56_is_trained_as_by_he(name: str) -> None:
    recipe = make_recipe(name)
    training = recipe.training
    steps = training.total_steps(45_000)
    assert steps == 64_000
    assert [round(part * steps) for part in training.milestones] == [32_000, 48_000]
    assert (training.optimizer, training.learning_rate, training.momentum) == ("sgd", 0.1, 0.9)
    assert (training.weight_decay, training.batch_size, training.warm_up) == (1e-4, 128, 0.0)
    assert (recipe.augmentation, recipe.shrink, recipe.selection) == ("crop-flip", 1, "last")


@pytest.mark.parametrize("name", SHORT)
def test_short_trains_the_whole_network_on_all_images_for_fifteen_epochs(name: str) -> None:
    full, short = make_recipe(name), make_recipe(name, scale="short")
    assert (short.model, short.subset, short.shrink) == (full.model, full.subset, 1)
    assert (short.training.total_steps(45_000), short.training.precision) == (15 * 351, "bfloat16")
    assert make_recipe(name, "resnet20", "short").model.depth == 20


@pytest.mark.parametrize(
    ("name", "shape", "classes", "expected"),
    [
        ("cifar10-resnet56", (3, 32, 32), 10, 853_018),
        ("cifar100-resnet56", (3, 32, 32), 100, 853_018 + 90 * 65),
        # Stem; three stages of two blocks, with norms and the 1x1 shortcuts of the last two; tail; head.
        ("cifar10-lee14", (3, 32, 32), 10, 1_728 + 147_968 + 525_184 + 2_098_944 + 512 + 2_570),
        ("stl10-lee14", (3, 96, 96), 10, 1_728 + 147_968 + 525_184 + 2_098_944 + 512 + 2_570),
        # Patches; token and 64 positions; blocks: two norms, query, key and value, three square layers; norm; head.
        ("cifar10-vit", (3, 32, 32), 10, 18_816 + 65 * 384 + 384 + 7 * (1_536 + 443_520 + 3 * 147_840) + 768 + 3_850),
    ],
)
def test_models_have_their_parameters(name: str, shape: tuple[int, ...], classes: int, expected: int) -> None:
    assert count_parameters(build_model(make_recipe(name).model, "relu", shape, classes, 0)) == expected


@pytest.mark.parametrize("name", CIFAR)
def test_smaller_scales_keep_depth_and_pipeline(name: str) -> None:
    full, small, smoke = (make_recipe(name, scale=scale) for scale in ("full", "small", "smoke"))
    for recipe in (small, smoke):
        assert (recipe.augmentation, recipe.selection) == (full.augmentation, full.selection)
        assert (recipe.data, recipe.training.optimizer) == (full.data, full.training.optimizer)
        assert getattr(recipe.model, "depth", None) == getattr(full.model, "depth", None)
        model = build_model(recipe.model, "gem", (3, 16, 16), 10, 0)
        assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    assert len(small.activations) >= 5
    assert small.seeds == 5
