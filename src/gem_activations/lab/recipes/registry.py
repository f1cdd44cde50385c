"""What is compared: recipes are functions that return frozen dataclasses of plain values.

A recipe names its data, model and training in full; the command line only replaces single fields. Nothing here
imports a framework, so that the command line can list the recipes at once.
"""

from collections.abc import Callable
from typing import Any, get_args

import msgspec

from ...errors import SettingError
from ...grammar import suggest
from .cifar import CIFAR, SHORT
from .language import LANGUAGE, BertPlan, Gpt2Plan
from .mnist import MNIST
from .pipeline import (
    Cnn,
    Mlp,
    OwnRecipe,
    Pipeline,
    PreActPlan,
    Recipe,
    ResNetPlan,
    Scale,
    StoredRecipe,
    VitPlan,
)

RecipeMaker = Callable[[str | None, Scale], Recipe]

RECIPES: dict[str, RecipeMaker] = {**MNIST, **CIFAR, **LANGUAGE}
"""Name -> (model, scale) -> recipe. The first sentence of a maker's docstring is the recipe's help."""
_MODELS = {plan.kind: plan for plan in (Mlp, Cnn, ResNetPlan, PreActPlan, VitPlan, Gpt2Plan, BertPlan)}


def read_recipe(values: Any) -> StoredRecipe:
    """Read a recipe from plain values, as JSON gives them; what an earlier version did not name has its default.

    Raises: TypeError, ValueError: the values are of no recipe; `msgspec` takes it for a fault in the file.
    """
    if not isinstance(values, dict):
        raise TypeError("the recipe is no object")
    if values.get("task") == "own":
        return msgspec.convert(values, OwnRecipe)
    model = values.get("model")
    if not isinstance(model, dict) or model.get("kind") not in _MODELS:
        raise ValueError(f"the recipe has no model of the kinds {', '.join(_MODELS)}")
    plan = msgspec.convert(model, _MODELS[model["kind"]])
    return msgspec.convert({**values, "model": plan}, Pipeline)


def make_recipe(name: str, model: str | None = None, scale: str = "full") -> Recipe:
    """Make a recipe by its name.

    Args:
        name: A name in `RECIPES`.
        model: Another model of the recipe than its own, such as "mlp" or "cnn", if it offers several.
        scale: "full", "small" or "smoke"; of the recipes of ResNet-56 also "short".
    Raises: SettingError: no such recipe (the nearest are offered), model or scale.
    Example:
        >>> make_recipe("digits").model
        Mlp(hidden=(128, 128), kind='mlp')
    """
    if name not in RECIPES:
        raise SettingError(f"no recipe is called {name!r}; {suggest(name, RECIPES, 'the recipes are')}")
    known = {known: known for known in get_args(Scale)}
    if scale not in known:
        raise SettingError(f"--scale {scale}: expected one of {', '.join(known)}")
    if scale == "short" and name not in SHORT:
        raise SettingError(f"--scale short: a scale of {' and '.join(SHORT)} alone; take full, small or smoke")
    return RECIPES[name](model, known[scale])
