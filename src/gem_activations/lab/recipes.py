"""What is compared: recipes are functions that return frozen dataclasses of plain values.

A recipe names its data, model and training in full; the command line only replaces single fields. Nothing here
imports a framework, so that the command line can list the recipes at once.
"""

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import SettingError

ARMS = ("relu", "gelu", "silu", "mish", "gem", "gem(n=2)", "egem(eps=1e-4)", "segem(eps=1e-4)")
RULE = (
    "The weights of the epoch with the lowest validation loss (the earliest of equals) are scored once on the test "
    "set, at the end of the run."
)


@dataclass(frozen=True)
class Mlp:
    """Fully connected layers, each but the last followed by the activation.

    Attributes:
        hidden: Widths of the hidden layers.
    """

    hidden: tuple[int, ...]
    kind: Literal["mlp"] = "mlp"


@dataclass(frozen=True)
class Cnn:
    """Blocks of two 3x3 convolutions with BatchNorm and activation, the second of stride 2; then a linear head.

    Attributes:
        channels: Channels of each block.
    """

    channels: tuple[int, ...]
    kind: Literal["cnn"] = "cnn"


Model = Mlp | Cnn


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
        epochs: Passes over the training set.
        batch_size: Examples of a step; the last batch of an epoch may be smaller.
        learning_rate: Highest learning rate of the schedule.
        weight_decay: Decoupled weight decay.
        optimizer: "adamw".
        schedule: "one-cycle": up from 1/25 of the highest rate for `warm_up` of the steps, then down to nearly 0.
        warm_up: Fraction of the steps before the highest rate.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 1e-2
    optimizer: Literal["adamw"] = "adamw"
    schedule: Literal["one-cycle"] = "one-cycle"
    warm_up: float = 0.3


@dataclass(frozen=True)
class Recipe:
    """One comparison in full, activations and seeds included.

    Attributes:
        name: Name on the command line.
        title: What is trained on what, in words.
        data: Name of the data set in `lab.data`.
        model: The model.
        training: The training.
        activations: Arms of the comparison, as strings of the catalog.
        baseline: Arm that the others are compared with.
        seeds: Number of runs of each arm.
        threads: CPU threads of torch; None for torch's own choice. The first run's number is kept for the comparison.
        rule: Which weights are scored on the test set, and when.
    """

    name: str
    title: str
    data: str
    model: Model
    training: Training
    activations: tuple[str, ...] = ARMS
    baseline: str = "gelu"
    seeds: int = 3
    threads: int | None = None
    rule: str = RULE

    def pipeline(self) -> dict[str, Any]:
        """Give what every arm and seed share, as nested plain values: the recipe without its arms."""
        return {key: value for key, value in asdict(self).items() if key not in ("activations", "baseline", "seeds")}


def digits(model: str | None = None) -> Recipe:
    """Handwritten digits of 8x8 pixels inside scikit-learn (1,797 images); no download."""
    models = {"mlp": Mlp((128, 128)), "cnn": Cnn((16, 32))}
    return Recipe(
        name="digits",
        title="handwritten digits, 8x8 pixels (scikit-learn)",
        data="digits",
        model=_choose(models, model or "mlp"),
        training=Training(epochs=20, batch_size=32, learning_rate=5e-3),
        seeds=10,
        threads=1,  # The steps are too small to share; a second thread waits, and dearly on a busy machine.
    )


def mnist(model: str | None = None) -> Recipe:
    """Handwritten digits of 28x28 pixels (70,000 images); read from --data-dir or downloaded."""
    return Recipe(
        name="mnist",
        title="MNIST, handwritten digits, 28x28 pixels",
        data="mnist",
        model=_choose(_IDX_MODELS, model or "cnn"),
        training=Training(epochs=5, batch_size=128, learning_rate=5e-3),
    )


def fashion_mnist(model: str | None = None) -> Recipe:
    """Clothing of 28x28 pixels (70,000 images); read from --data-dir or downloaded."""
    return Recipe(
        name="fashion-mnist",
        title="Fashion-MNIST, articles of clothing, 28x28 pixels",
        data="fashion-mnist",
        model=_choose(_IDX_MODELS, model or "cnn"),
        training=Training(epochs=8, batch_size=128, learning_rate=5e-3),
    )


def make_recipe(name: str, model: str | None = None) -> Recipe:
    """Make a recipe by its name.

    Args:
        name: A name in `RECIPES`.
        model: Another model of the recipe than its own: "mlp" or "cnn".
    Raises: SettingError: no such recipe (the nearest are offered) or model.
    Example:
        >>> make_recipe("digits").model
        Mlp(hidden=(128, 128), kind='mlp')
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the recipes are {', '.join(RECIPES)}"
        raise SettingError(f"no recipe is called {name!r}; {hint}")
    return RECIPES[name](model)


def _choose(models: dict[str, Model], name: str) -> Model:
    if name not in models:
        raise SettingError(f"no model of this recipe is called {name!r}; the models are {', '.join(models)}")
    return models[name]


_IDX_MODELS: dict[str, Model] = {"mlp": Mlp((256, 256)), "cnn": Cnn((16, 32))}

RECIPES: dict[str, Callable[[str | None], Recipe]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
}
