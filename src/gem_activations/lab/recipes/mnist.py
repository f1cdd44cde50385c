"""Recipes on small grey images: scikit-learn's digits, MNIST and Fashion-MNIST."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ...errors import SettingError
from .pipeline import Cnn, Mlp, Recipe, Scale, Subset, Training

_MODELS = {"mlp": Mlp((256, 256)), "cnn": Cnn((16, 32))}


def digits(model: str | None = None, scale: Scale = "full") -> Recipe:
    """Handwritten digits of 8x8 pixels inside scikit-learn (1,797 images); no download."""
    models = {"mlp": Mlp((128, 128)), "cnn": Cnn((16, 32))}
    recipe = Recipe(
        name="digits",
        title="handwritten digits, 8x8 pixels (scikit-learn)",
        data="digits",
        model=choose_model(models, model or "mlp"),
        training=Training(epochs=20, batch_size=32, learning_rate=5e-3),
        margin=0.005,
        scale=scale,
        seeds=10,
        threads=1,  # The steps are too small to share; a second thread waits, and dearly on a busy machine.
    )
    return shorten(recipe, epochs=3, seeds=2) if scale == "smoke" else recipe


def mnist(model: str | None = None, scale: Scale = "full") -> Recipe:
    """Handwritten digits of 28x28 pixels (70,000 images); read from --data-dir or downloaded."""
    training = Training(epochs=5, batch_size=128, learning_rate=5e-3)
    return _idx_recipe("mnist", "MNIST, handwritten digits, 28x28 pixels", model or "cnn", scale, training)


def fashion_mnist(model: str | None = None, scale: Scale = "full") -> Recipe:
    """Clothing of 28x28 pixels (70,000 images); read from --data-dir or downloaded."""
    training = Training(epochs=8, batch_size=128, learning_rate=5e-3)
    title = "Fashion-MNIST, articles of clothing, 28x28 pixels"
    return _idx_recipe("fashion-mnist", title, model or "cnn", scale, training)


def choose_model(models: dict[str, Any], name: str) -> Any:
    """Return the model of a name. Raises: SettingError: the recipe has none of that name."""
    if name not in models:
        raise SettingError(f"no model of this recipe is called {name!r}; the models are {', '.join(models)}")
    return models[name]


def shorten(recipe: Recipe, *, epochs: int, seeds: int, subset: Subset | None = None) -> Recipe:
    """Return a recipe with fewer epochs and seeds, and fewer examples if a subset is given."""
    training = dataclasses.replace(recipe.training, epochs=epochs)
    return dataclasses.replace(recipe, training=training, seeds=seeds, subset=subset or recipe.subset)


def _idx_recipe(name: str, title: str, model: str, scale: Scale, training: Training) -> Recipe:
    chosen = choose_model(_MODELS, model)
    recipe = Recipe(
        name=name, title=title, data=name, model=chosen, training=training, margin=0.001, scale=scale, seeds=5
    )
    if scale == "smoke":
        return shorten(recipe, epochs=1, seeds=2, subset=Subset(1000, 500, 500))
    if scale == "small":
        return shorten(recipe, epochs=training.epochs, seeds=recipe.seeds, subset=Subset(10_000, None, None))
    return recipe


MNIST: dict[str, Callable[[str | None, Scale], Recipe]] = {
    maker.__name__.replace("_", "-"): maker for maker in (digits, mnist, fashion_mnist)
}
