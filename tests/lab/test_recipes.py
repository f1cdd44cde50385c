import dataclasses
import json

import pytest

from gem_activations import catalog
from gem_activations.errors import SettingError
from gem_activations.lab.pipeline import ARMS, Cnn, Mlp
from gem_activations.lab.recipes import RECIPES, make_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_known_by_its_own_name_and_plain(name: str) -> None:
    recipe = make_recipe(name)
    assert recipe.name == name
    assert recipe.baseline in recipe.activations
    assert json.loads(json.dumps(recipe.pipeline()))["model"]["kind"] == recipe.model.kind
    assert {"activations", "baseline", "seeds"}.isdisjoint(recipe.pipeline())
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seeds = 1  # pyright: ignore[reportAttributeAccessIssue] -- that it is frozen is the point


def test_default_arms_are_distinct_members_of_the_catalog() -> None:
    assert len({catalog.parse(arm) for arm in ARMS}) == len(ARMS) == 8


def test_model_is_chosen_by_name() -> None:
    assert isinstance(make_recipe("digits").model, Mlp)
    assert isinstance(make_recipe("digits", "cnn").model, Cnn)
    assert isinstance(make_recipe("mnist").model, Cnn)
    assert isinstance(make_recipe("mnist", "mlp").model, Mlp)


@pytest.mark.parametrize(
    ("name", "model", "words"),
    [("digit", None, "did you mean digits"), ("xyz", None, "the recipes are digits"), ("mnist", "vit", "mlp, cnn")],
)
def test_unknown_names_are_refused_with_what_there_is(name: str, model: str | None, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make_recipe(name, model)
