"""What is compared: recipes by name, and studies over any recipe, with other arms and the baseline that they ask for.

A recipe names its data, model and training in full; the command line only replaces single fields. All but arms,
baseline and, at scale smoke, the number of seeds of a study stays as the recipe has it, so that runs of both can stand
in one comparison. Nothing here imports a framework, so that the command line can list the recipes at once.
"""

import dataclasses
from typing import Any, NamedTuple

import msgspec

from ...catalog import ENTRIES, parse
from ...errors import SettingError
from ...grammar import suggest
from .images import IMAGES, SHORT
from .language import LANGUAGE, BertPlan, Gpt2Plan
from .pipeline import (
    Cnn,
    Maker,
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

RECIPES: dict[str, Maker] = {**IMAGES, **LANGUAGE}
"""Name -> what makes the recipe."""
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


def make_recipe(name: str, model: str | None = None, scale: Scale = "full") -> Recipe:
    """Make a recipe by its name.

    Args:
        model: Another model of the recipe than its own, such as "mlp" or "cnn", if it offers several.
        scale: "full", "small" or "smoke"; of the recipes of ResNet-56 also "short".
    Raises: SettingError: no such recipe (the nearest are offered) or model, or it has no scale short.
    Example:
        >>> make_recipe("digits").model
        Mlp(hidden=(128, 128), kind='mlp')
    """
    if name not in RECIPES:
        raise SettingError(f"no recipe is called {name!r}; {suggest(name, RECIPES, 'the recipes are')}")
    if scale == "short" and name not in SHORT:
        raise SettingError(f"--scale short: a scale of {' and '.join(SHORT)} alone; take full, small or smoke")
    return RECIPES[name].make(model, scale)


class Study(NamedTuple):
    """The arms of a study, the baseline among them, and its help in a sentence."""

    activations: tuple[str, ...]
    baseline: str
    help: str


TWENTY = tuple(
    str(parse(name))
    for name, entry in ENTRIES.items()
    if entry.group == "lee" or name in ("relu", "leaky_relu", "gelu", "elu")
)
"""Lee's twenty activations, as canonical strings."""
SMALL_EPS = tuple(str(parse(f"egem(eps={eps})")) for eps in ("1e-6", "1e-5", "1e-4"))
LARGE_EPS = tuple(str(parse(f"egem(eps={eps})")) for eps in ("0.01", "0.1", "1", "10"))
_SCALES = ("eps=1e-4", "eps=1", "a=0.1sigma", "a=1sigma", "a=1sigma, trainable=true", "a=1sigma..0.1sigma")
SCALES = tuple(f"egem({scale})" for scale in _SCALES)
ORDERS = ("gem", "gem(n=2)", "gem(n=3)", "gem(n=4)")
STUDIES = {
    "n-ablation": Study((*ORDERS, "relu", "gelu"), "gem", "GEM with n from 1 to 4 against n=1, beside ReLU and GELU."),
    "eps-ablation": Study(
        ("relu", *SMALL_EPS, *LARGE_EPS, "gelu"),
        "relu",
        "E-GEM with eps from 1e-6 to 10 against ReLU, its limit as eps tends to 0, beside GELU.",
    ),
    "eps-automatic": Study(
        ("relu", *SCALES, "gelu"),
        "relu",
        "E-GEM with eps fixed, calibrated to the pre-activations, trained and scheduled, against ReLU, beside GELU.",
    ),
    "twenty": Study(TWENTY, "gelu", "The twenty activations of Lee's comparison beside GELU."),
}
"""Name -> study."""


def make_study(name: str, recipe: Recipe) -> Recipe:
    """Return a recipe with the arms and the baseline of a study. Raises: SettingError: no study of that name.

    Example:
        >>> study = make_study("n-ablation", make_recipe("digits"))
        >>> study.activations, study.baseline
        (('gem', 'gem(n=2)', 'gem(n=3)', 'gem(n=4)', 'relu', 'gelu'), 'gem')
    """
    if name not in STUDIES:
        raise SettingError(f"--study {name}: no study has that name; {suggest(name, STUDIES, 'the studies are')}")
    activations, baseline, _ = STUDIES[name]
    seeds = 1 if recipe.scale == "smoke" else recipe.seeds  # Smoke tries the code path; so many arms take their time.
    return dataclasses.replace(recipe, activations=activations, baseline=baseline, seeds=seeds)
