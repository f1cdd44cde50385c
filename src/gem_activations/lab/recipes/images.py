"""Recipes on images: scikit-learn's digits, MNIST and Fashion-MNIST; ResNet-56, Lee's 14-layer network, and a ViT."""

from dataclasses import replace
from functools import partial
from typing import Any

from ...errors import SettingError
from .pipeline import Cnn, Maker, Mlp, PreActPlan, Recipe, ResNetPlan, Scale, Subset, Training, VitPlan

_TITLES = {
    "mnist": "MNIST, handwritten digits, 28x28 pixels",
    "fashion-mnist": "Fashion-MNIST, articles of clothing, 28x28 pixels",
    "cifar10": "CIFAR-10, photographs of 32x32 pixels",
    "cifar100": "CIFAR-100, photographs of 32x32 pixels",
    "stl10": "STL-10, photographs of 96x96 pixels, ten predefined folds of 1,000",
}
_MODELS = {"mlp": Mlp((256, 256)), "cnn": Cnn((16, 32))}
# The papers' baseline, their claims' arms, and the leak without the smoothness.
_DEEP_ARMS = ("relu", "gelu", "gem", "egem(eps=1e-4)", "segem(eps=1e-4)", "leaky_relu")
_LEE_ARMS = ("relu", "gelu", "silu", "gem", "egem(eps=1e-4)", "segem(eps=1e-4)", "leaky_relu")
_VIT_ARMS = ("relu", "gelu", "silu", "gem", "gem(n=2)", "egem(eps=1e-4)", "segem(eps=1e-4)", "leaky_relu")


def _digits(model: str | None, scale: Scale) -> Recipe:
    recipe = Recipe(
        name="digits",
        title="handwritten digits, 8x8 pixels (scikit-learn)",
        data="digits",
        model=_choose({"mlp": Mlp((128, 128)), "cnn": Cnn((16, 32))}, model or "mlp"),
        training=Training(epochs=20, batch_size=32, learning_rate=5e-3),
        margin=0.005,
        scale=scale,
        seeds=10,
        threads=1,  # The steps are too small to share; a second thread waits, and dearly on a busy machine.
    )
    return _shorten(recipe, epochs=3, seeds=2) if scale == "smoke" else recipe


def _idx(data: str, epochs: int, model: str | None, scale: Scale) -> Recipe:
    chosen, training = _choose(_MODELS, model or "cnn"), Training(epochs, batch_size=128, learning_rate=5e-3)
    recipe = Recipe(data, _TITLES[data], data, chosen, training, margin=0.001, scale=scale, seeds=5)
    if scale == "smoke":
        return _shorten(recipe, epochs=1, seeds=2, subset=Subset(1000, 500, 500))
    return replace(recipe, subset=Subset(10_000, None, None)) if scale == "small" else recipe


def _resnet56(data: str, model: str | None, scale: Scale) -> Recipe:
    depth = _choose({"resnet56": 56, "resnet20": 20}, model or "resnet56")
    plans = ResNetPlan(depth), ResNetPlan(depth, width=8), ResNetPlan(depth, width=4)
    training = Training(
        epochs=160,
        epoch_steps=400,
        batch_size=128,
        learning_rate=0.1,
        weight_decay=1e-4,
        optimizer="sgd",
        schedule="multistep",
        warm_up=0.0,
        milestones=(0.5, 0.75),
    )
    if scale != "full":
        # In a thousand steps one cycle learns what a rate held high and cut twice does not.
        training = replace(training, schedule="one-cycle", learning_rate=0.2, warm_up=0.3, milestones=())
    if scale == "short":  # The network and data in full, in bfloat16 and 15 of 160 epochs.
        training = replace(training, epochs=15, epoch_steps=351, learning_rate=0.1)
        training = replace(training, precision="bfloat16", channels_last=True)
        recipe = _colour(data, "resnet56", plans, training, None, "full", _DEEP_ARMS, margin=0.002, epochs=15)
        return replace(recipe, scale=scale, threads=1)
    return _colour(data, "resnet56", plans, training, None, scale, _DEEP_ARMS, margin=0.002, epochs=10)


def _lee14(data: str, model: str | None, scale: Scale) -> Recipe:
    plans = PreActPlan(), PreActPlan(width=8), PreActPlan(width=4)
    training = Training(20, 128, 1e-3, weight_decay=0.0, optimizer="adam", schedule="constant", warm_up=0.0)
    recipe = _colour(data, "lee14", plans, training, model, scale, _LEE_ARMS, margin=0.005, epochs=10)
    if data != "stl10":
        return recipe
    return replace(recipe, seeds=10) if scale == "full" else replace(recipe, shrink=3)


def _vit(data: str, model: str | None, scale: Scale) -> Recipe:
    plans = VitPlan(), VitPlan(layers=4, width=96, heads=4, feed_forward=2), VitPlan(2, 24, 2)
    training = Training(
        epochs=200,
        batch_size=128,
        learning_rate=1e-3,
        weight_decay=5e-2,
        schedule="cosine",
        warm_up=0.025,
        final_rate=0.01,
        decay="matrices",
    )
    return _colour(data, "vit", plans, training, model, scale, _VIT_ARMS, margin=0.005, epochs=12)


def _colour(
    data: str,
    kind: str,
    plans: tuple[Any, Any, Any],
    training: Training,
    model: str | None,
    scale: Scale,
    arms: tuple[str, ...],
    *,
    margin: float,
    epochs: int,
) -> Recipe:
    """Make a recipe at its scale: full, or with fewer and smaller images, smaller batches and shorter training.

    Args:
        plans: The model at scale full, small and smoke.
        model: The model that is asked for; `kind` is the only one.
        epochs: Epochs at scale small.
    """
    at_scale: dict[Scale, Any] = dict(zip(("full", "small", "smoke"), plans, strict=True))
    recipe = Recipe(
        name=f"{data}-{kind}",
        title=_TITLES[data],
        data=data,
        model=_choose({kind: at_scale[scale]}, model or kind),
        training=training,
        scale=scale,
        augmentation="crop-flip",
        selection="last",
        margin=margin,
        activations=arms,
    )
    if scale == "full":
        return recipe
    training = replace(training, batch_size=64, epoch_steps=None, channels_last=True)
    recipe = replace(recipe, training=training, shrink=2, threads=1)
    if scale == "smoke":
        return _shorten(recipe, epochs=1, seeds=2, subset=Subset(256, 128, 256))
    return _shorten(recipe, epochs=epochs, seeds=5, subset=Subset(10_000, 2_000, 4_000))


def _choose(models: dict[str, Any], name: str) -> Any:
    """Return the model of a name. Raises: SettingError: the recipe has none of that name."""
    if name not in models:
        raise SettingError(f"no model of this recipe is called {name!r}; the models are {', '.join(models)}")
    return models[name]


def _shorten(recipe: Recipe, *, epochs: int, seeds: int, subset: Subset | None = None) -> Recipe:
    """Return a recipe with fewer epochs and seeds, and fewer examples if a subset is given."""
    training = replace(recipe.training, epochs=epochs)
    return replace(recipe, training=training, seeds=seeds, subset=subset or recipe.subset)


_PIXELS = "of 28x28 pixels (70,000 images); read from --data-dir or downloaded."
_HE = "with the ResNet-56 of He et al. and their recipe (64,000 steps of SGD); also `--model resnet20`."
_LEE = "with a pre-activation network of 14 layers, Adam, 20 epochs, as in Lee's comparison of twenty."
IMAGES = {
    "digits": Maker(_digits, "Handwritten digits of 8x8 pixels inside scikit-learn (1,797 images); no download."),
    "mnist": Maker(partial(_idx, "mnist", 5), f"Handwritten digits {_PIXELS}"),
    "fashion-mnist": Maker(partial(_idx, "fashion-mnist", 8), f"Clothing {_PIXELS}"),
    "cifar10-resnet56": Maker(partial(_resnet56, "cifar10"), f"CIFAR-10 {_HE}"),
    "cifar100-resnet56": Maker(partial(_resnet56, "cifar100"), f"CIFAR-100 {_HE}"),
    "cifar10-lee14": Maker(partial(_lee14, "cifar10"), f"CIFAR-10 {_LEE}"),
    "cifar100-lee14": Maker(partial(_lee14, "cifar100"), f"CIFAR-100 {_LEE}"),
    "stl10-lee14": Maker(
        partial(_lee14, "stl10"),
        "STL-10 with Lee's network; the seeds 0 to 9 train on the ten predefined folds of 1,000 images.",
    ),
    "cifar10-vit": Maker(
        partial(_vit, "cifar10"),
        "CIFAR-10 with a Vision Transformer of 7 layers, 384 wide, 12 heads, patches of 4 pixels, from scratch.",
    ),
}
SHORT = ("cifar10-resnet56", "cifar100-resnet56")
"""Recipes that have the scale short."""
