"""What is compared: recipes are functions that return frozen dataclasses of plain values.

A recipe names its data, model and training in full; the command line only replaces single fields. Nothing here
imports a framework, so that the command line can list the recipes at once.
"""

import difflib
from collections.abc import Callable
from typing import get_args

from ...errors import SettingError
from .cifar import CIFAR
from .language import LANGUAGE
from .mnist import MNIST
from .pipeline import Recipe, Scale

RecipeMaker = Callable[[str | None, Scale], Recipe]

RECIPES: dict[str, RecipeMaker] = {**MNIST, **CIFAR, **LANGUAGE}
"""Name -> (model, scale) -> recipe. The first sentence of a maker's docstring is the recipe's help."""


def make_recipe(name: str, model: str | None = None, scale: str = "full") -> Recipe:
    """Make a recipe by its name.

    Args:
        name: A name in `RECIPES`.
        model: Another model of the recipe than its own, such as "mlp" or "cnn", if it offers several.
        scale: "full", "small" or "smoke".
    Raises: SettingError: no such recipe (the nearest are offered), model or scale.
    Example:
        >>> make_recipe("digits").model
        Mlp(hidden=(128, 128), kind='mlp')
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the recipes are {', '.join(RECIPES)}"
        raise SettingError(f"no recipe is called {name!r}; {hint}")
    known = {known: known for known in get_args(Scale)}
    if scale not in known:
        raise SettingError(f"--scale {scale}: expected one of {', '.join(known)}")
    return RECIPES[name](model, known[scale])
