"""Recipes on colour images: ResNet-56, Lee's 14-layer network and a Vision Transformer, on CIFAR and STL-10."""

import dataclasses
from collections.abc import Callable

from .mnist import choose_model, shorten
from .pipeline import PreActPlan, Recipe, ResNetPlan, Scale, Subset, Training, VitPlan

_TITLES = {
    "cifar10": "CIFAR-10, photographs of 32x32 pixels",
    "cifar100": "CIFAR-100, photographs of 32x32 pixels",
    "stl10": "STL-10, photographs of 96x96 pixels, ten predefined folds of 1,000",
}
# The papers' baseline, their claims' arms, and the leak without the smoothness.
_DEEP_ARMS = ("relu", "gelu", "gem", "egem(eps=1e-4)", "segem(eps=1e-4)", "leaky_relu")
_SMALL = Subset(10_000, 2_000, 4_000)
_SMOKE = Subset(256, 128, 256)


def cifar10_resnet56(model: str | None = None, scale: Scale = "full") -> Recipe:
    """CIFAR-10 with the ResNet-56 of He et al. and their recipe (64,000 steps of SGD)."""
    return _resnet56("cifar10", model, scale)


def cifar100_resnet56(model: str | None = None, scale: Scale = "full") -> Recipe:
    """CIFAR-100 with the ResNet-56 of He et al. and their recipe (64,000 steps of SGD)."""
    return _resnet56("cifar100", model, scale)


def cifar10_lee14(model: str | None = None, scale: Scale = "full") -> Recipe:
    """CIFAR-10 with a pre-activation network of 14 layers, Adam, 20 epochs, as in Lee's comparison of twenty."""
    return _lee14("cifar10", model, scale)


def cifar100_lee14(model: str | None = None, scale: Scale = "full") -> Recipe:
    """CIFAR-100 with a pre-activation network of 14 layers, Adam, 20 epochs, as in Lee's comparison of twenty."""
    return _lee14("cifar100", model, scale)


def stl10_lee14(model: str | None = None, scale: Scale = "full") -> Recipe:
    """STL-10 with Lee's network; the seeds 0 to 9 train on the ten predefined folds of 1,000 images."""
    return _lee14("stl10", model, scale)


def cifar10_vit(model: str | None = None, scale: Scale = "full") -> Recipe:
    """CIFAR-10 with a Vision Transformer of 7 layers, 384 wide, 12 heads, patches of 4 pixels, from scratch."""
    plan = VitPlan()
    if scale != "full":
        plan = VitPlan(layers=4, width=96, heads=4, feed_forward=2) if scale == "small" else VitPlan(2, 24, 2)
    recipe = Recipe(
        name="cifar10-vit",
        title=_TITLES["cifar10"],
        data="cifar10",
        model=choose_model({"vit": plan}, model or "vit"),
        training=Training(
            epochs=200,
            batch_size=128,
            learning_rate=1e-3,
            weight_decay=5e-2,
            schedule="cosine",
            warm_up=0.025,
            final_rate=0.01,
            decay="matrices",
        ),
        scale=scale,
        augmentation="crop-flip",
        selection="last",
        margin=0.005,
        activations=("relu", "gelu", "silu", "gem", "gem(n=2)", "egem(eps=1e-4)", "segem(eps=1e-4)", "leaky_relu"),
    )
    return _reduce(recipe, epochs=12, shrink=2)


def _resnet56(data: str, model: str | None, scale: Scale) -> Recipe:
    plan = {"full": ResNetPlan(), "small": ResNetPlan(width=8), "smoke": ResNetPlan(width=4)}[scale]
    recipe = Recipe(
        name=f"{data}-resnet56",
        title=_TITLES[data],
        data=data,
        model=choose_model({"resnet56": plan}, model or "resnet56"),
        training=Training(
            epochs=160,
            epoch_steps=400,
            batch_size=128,
            learning_rate=0.1,
            weight_decay=1e-4,
            optimizer="sgd",
            schedule="multistep",
            warm_up=0.0,
            milestones=(0.5, 0.75),
        ),
        scale=scale,
        augmentation="crop-flip",
        selection="last",
        margin=0.002,
        activations=_DEEP_ARMS,
    )
    if scale == "full":
        return recipe
    # In a thousand steps one cycle learns what a rate held high and cut twice does not.
    short = dataclasses.replace(recipe.training, schedule="one-cycle", learning_rate=0.2, warm_up=0.3, milestones=())
    return _reduce(dataclasses.replace(recipe, training=short), epochs=10, shrink=2)


def _lee14(data: str, model: str | None, scale: Scale) -> Recipe:
    plan = {"full": PreActPlan(), "small": PreActPlan(width=8), "smoke": PreActPlan(width=4)}[scale]
    recipe = Recipe(
        name=f"{data}-lee14",
        title=_TITLES[data],
        data=data,
        model=choose_model({"lee14": plan}, model or "lee14"),
        training=Training(
            epochs=20,
            batch_size=128,
            learning_rate=1e-3,
            weight_decay=0.0,
            optimizer="adam",
            schedule="constant",
            warm_up=0.0,
        ),
        scale=scale,
        augmentation="crop-flip",
        selection="last",
        margin=0.005,
        activations=("relu", "gelu", "silu", "gem", "egem(eps=1e-4)", "segem(eps=1e-4)", "leaky_relu"),
        seeds=10 if data == "stl10" else 3,
    )
    return _reduce(recipe, epochs=10, shrink=3 if data == "stl10" else 2)


def _reduce(recipe: Recipe, *, epochs: int, shrink: int) -> Recipe:
    """Return the recipe at its scale: fewer and smaller images, smaller batches, shorter training."""
    if recipe.scale == "full":
        return recipe
    training = dataclasses.replace(recipe.training, batch_size=64, epoch_steps=None, channels_last=True)
    recipe = dataclasses.replace(recipe, training=training, shrink=shrink, threads=1)
    if recipe.scale == "smoke":
        return shorten(recipe, epochs=1, seeds=2, subset=_SMOKE)
    return shorten(recipe, epochs=epochs, seeds=3, subset=_SMALL)


CIFAR: dict[str, Callable[[str | None, Scale], Recipe]] = {
    "cifar10-resnet56": cifar10_resnet56,
    "cifar100-resnet56": cifar100_resnet56,
    "cifar10-lee14": cifar10_lee14,
    "cifar100-lee14": cifar100_lee14,
    "stl10-lee14": stl10_lee14,
    "cifar10-vit": cifar10_vit,
}
