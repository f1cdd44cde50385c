"""What is compared: recipes by name, and studies over any recipe, with other arms and the baseline that they ask for.

On images: scikit-learn's digits, MNIST and Fashion-MNIST; ResNet-56, Lee's 14-layer network, and a ViT. On text: GPT-2
124M and BERT-small, and their forms for a CPU.

A recipe names its data, model and training in full; the command line only replaces single fields. All but arms,
baseline and, at scale smoke, the number of seeds of a study stays as the recipe has it, so that runs of both can stand
in one comparison. Nothing here imports a framework, so that the command line can list the recipes at once.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from ...catalog import ENTRIES, parse
from ...errors import SettingError
from ...grammar import suggest
from .pipeline import (
    BertPlan,
    Cnn,
    Gpt2Plan,
    Maker,
    Mlp,
    PreActPlan,
    Recipe,
    ResNetPlan,
    Scale,
    Subset,
    Training,
    VitPlan,
)

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


def _gpt2(model: str | None, scale: Scale) -> Recipe:
    training = Training(
        epochs=20,
        epoch_steps=250,
        batch_size=32,
        micro_batch=8,
        learning_rate=6e-4,
        weight_decay=0.1,
        decay="matrices",
        betas=(0.9, 0.95),
        schedule="cosine",
        warm_up=0.04,
        final_rate=0.1,
        clip=1.0,
        precision="bfloat16",
    )
    arms = ("gelu", "relu", "gem", "gem(n=2)", "egem(eps=1e-4)")
    title = "GPT-2 on text, next token"
    recipe = Recipe("gpt2-124m", title, "text", Gpt2Plan(), training, "text", scale, activations=arms)
    small = Gpt2Plan(layers=4, width=128, heads=4, context=128, vocabulary=2048)
    return _at_scale(replace(recipe, metric="perplexity"), model, small, learning_rate=2e-3)


def _bert(model: str | None, scale: Scale) -> Recipe:
    training = Training(
        epochs=12,
        epoch_steps=250,
        batch_size=256,
        micro_batch=64,
        learning_rate=1e-4,
        weight_decay=0.01,
        decay="matrices",
        betas=(0.9, 0.999),
        schedule="linear",
        warm_up=0.1,
        clip=1.0,
        precision="bfloat16",
    )
    arms = ("gelu", "relu", "gem", "gem(n=2)", "egem(eps=10)")
    title = "BERT-small on text, masked language model"
    recipe = Recipe("bert-small", title, "text", BertPlan(), training, "text", scale, metric="loss", activations=arms)
    small = BertPlan(layers=4, width=128, heads=4, feed_forward=512, positions=128, vocabulary=4096)
    return _at_scale(recipe, model, small, learning_rate=1e-3)


def _at_scale(recipe: Recipe, model: str | None, small: Gpt2Plan | BertPlan, *, learning_rate: float) -> Recipe:
    """Return a recipe in full, or for one core of a CPU: a smaller model, fewer steps, less text, float32."""
    if model is not None:
        raise SettingError(f"this recipe has one model; leave --model {model} out")
    if recipe.scale == "full":
        return recipe
    smoke = recipe.scale == "smoke"
    training = replace(
        recipe.training,
        epochs=2 if smoke else 10,
        epoch_steps=5 if smoke else 30,
        batch_size=8 if smoke else 16,
        micro_batch=None,
        learning_rate=learning_rate,
        warm_up=0.1,
        precision="float32",
    )
    return replace(
        recipe,
        model=replace(small, layers=2) if smoke else small,
        training=training,
        subset=Subset(256, 64, 64) if smoke else Subset(8192, 256, 512),
        seeds=2 if smoke else 5,
        threads=1,  # Runs are many and small: two processes on two cores do more than two threads of one.
    )


_PIXELS = "of 28x28 pixels (70,000 images); read from --data-dir or downloaded."
_HE = "with the ResNet-56 of He et al. and their recipe (64,000 steps of SGD); also `--model resnet20`."
_LEE = "with a pre-activation network of 14 layers, Adam, 20 epochs, as in Lee's comparison of twenty."
RECIPES: dict[str, Maker] = {
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
    "gpt2-124m": Maker(
        _gpt2, "GPT-2 with 124 million parameters on any text, 5,000 steps of nanoGPT's recipe; text from --data-dir."
    ),
    "bert-small": Maker(
        _bert,
        "BERT with 28.8 million parameters on any text, masked language model, 3,000 steps; text from --data-dir.",
    ),
}
"""Name -> what makes the recipe."""
SHORT = ("cifar10-resnet56", "cifar100-resnet56")
"""Recipes that have the scale short."""


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
    return replace(recipe, activations=activations, baseline=baseline, seeds=seeds)
