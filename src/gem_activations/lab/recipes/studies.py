"""Studies over any recipe: other arms, and the baseline that answers the study's question.

All but arms, baseline and, at scale smoke, the number of seeds stays as the recipe has it, so that runs of a study and
of the recipe itself can stand in one comparison.
"""

import dataclasses
from typing import NamedTuple

from ...catalog import ENTRIES, parse
from ...errors import SettingError
from ...grammar import suggest
from .pipeline import Recipe


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
    """Return a recipe with the arms and the baseline of a study.

    Args:
        name: A name in `STUDIES`.
        recipe: Any recipe.
    Raises: SettingError: no study of that name.
    Example:
        >>> from gem_activations.lab.recipes.registry import make_recipe
        >>> study = make_study("n-ablation", make_recipe("digits"))
        >>> study.activations, study.baseline
        (('gem', 'gem(n=2)', 'gem(n=3)', 'gem(n=4)', 'relu', 'gelu'), 'gem')
    """
    if name not in STUDIES:
        raise SettingError(f"--study {name}: no study has that name; {suggest(name, STUDIES, 'the studies are')}")
    activations, baseline, _ = STUDIES[name]
    seeds = 1 if recipe.scale == "smoke" else recipe.seeds  # Smoke tries the code path; so many arms take their time.
    return dataclasses.replace(recipe, activations=activations, baseline=baseline, seeds=seeds)
