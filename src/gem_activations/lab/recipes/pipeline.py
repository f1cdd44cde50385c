"""What a recipe is made of: frozen dataclasses of plain values, which go into every run's identity.

Nothing here imports a framework. Every field is obeyed: a value that is stored with a result was in force.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, NamedTuple, Self

import msgspec

Scale = Literal["full", "short", "small", "smoke"]
Selection = Literal["lowest-validation-loss", "last"]
ARMS = ("relu", "gelu", "silu", "mish", "gem", "gem(n=2)", "egem(eps=1e-4)", "segem(eps=1e-4)")


@dataclass(frozen=True)
class Mlp:
    """Fully connected layers of hidden widths, each but the last followed by the activation."""

    hidden: tuple[int, ...]
    kind: Literal["mlp"] = "mlp"


@dataclass(frozen=True)
class Cnn:
    """Blocks of two 3x3 convolutions with BatchNorm and activation, the second of stride 2; then a linear head."""

    channels: tuple[int, ...]
    kind: Literal["cnn"] = "cnn"


@dataclass(frozen=True)
class ResNetPlan:
    """The residual network for CIFAR of He et al., 2016, section 4.2: option-A shortcuts, 6m + 2 layers with weights.

    Attributes:
        width: Channels of the first of three stages; the others have two and four times as many.
    """

    depth: int = 56
    width: int = 16
    kind: Literal["resnet"] = "resnet"


@dataclass(frozen=True)
class PreActPlan:
    """A residual network with BatchNorm and activation before each convolution: 6m + 2 layers, projections aside.

    Attributes:
        width: Channels of the first of three stages; the others have two and four times as many.
    """

    depth: int = 14
    width: int = 64
    kind: Literal["preact"] = "preact"


@dataclass(frozen=True)
class VitPlan:
    """A Vision Transformer with pre-normalisation, a class token and learnt positions.

    Attributes:
        layers: Transformer blocks.
        width: Width of a token.
        heads: Attention heads; they divide the width.
        patch: Side of a square patch in pixels; it divides the image's sides.
        feed_forward: Width of the feed-forward layer over that of a token.
    """

    layers: int = 7
    width: int = 384
    heads: int = 12
    patch: int = 4
    feed_forward: int = 1
    kind: Literal["vit"] = "vit"


@dataclass(frozen=True)
class Gpt2Plan:
    """The GPT-2 of transformers, without dropout, its output layer tied to its token embedding.

    Attributes:
        width: Width of a token, which the heads divide; the feed-forward layer is four times as wide.
        context: Tokens of a window, each of which predicts the next.
        vocabulary: Rows of the token embedding. With 50,257 the published tokenizer is used if its files are found;
            otherwise a byte-level BPE of so many tokens at most is trained on the training text.
    """

    layers: int = 12
    width: int = 768
    heads: int = 12
    context: int = 1024
    vocabulary: int = 50257
    kind: Literal["gpt2"] = "gpt2"


@dataclass(frozen=True)
class BertPlan:
    """The BERT of transformers with its masked-language-model head.

    Of each window 15 % of the tokens are predicted: 80 % of them are hidden behind [MASK], 10 % are replaced by a
    random token, 10 % are left as they are.

    Attributes:
        context: Tokens of a window, [CLS] and [SEP] included.
        positions: Rows of the position embedding, of which the context uses the first.
        vocabulary: Rows of the token embedding. With 30,522 the published tokenizer is used if its file is found;
            otherwise a WordPiece vocabulary of so many tokens at most is trained on the training text.
        dropout: Probability, of hidden values and of attention weights.
        predicted: Share of the tokens that are predicted.
    """

    layers: int = 4
    width: int = 512
    heads: int = 8
    feed_forward: int = 2048
    context: int = 128
    positions: int = 512
    vocabulary: int = 30522
    dropout: float = 0.1
    predicted: float = 0.15
    kind: Literal["bert"] = "bert"


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
        epochs: Epochs of a run. An epoch ends with validation and a checkpoint.
        batch_size: Examples of a step; the last batch of a pass over the training set may be smaller.
        learning_rate: Highest learning rate of the schedule.
        weight_decay: Decoupled for "adamw"; added to the gradient as an L2 penalty for "sgd" and "adam".
        optimizer: "adamw", "adam" or "sgd".
        schedule: "one-cycle": up from 1/25 of the highest rate for `warm_up` of the steps, then down to nearly 0;
            "multistep": the rate is multiplied by 0.1 at each of `milestones`; "cosine": down to `final_rate` along a
            half cosine; "linear": down to it along a line; "constant". The last four begin with a linear rise over
            `warm_up` of the steps.
        warm_up: Fraction of the steps before the highest rate.
        momentum: Of "sgd"; the first moment of "adam" and "adamw" is in `betas`.
        betas: Of "adam" and "adamw".
        milestones: Of "multistep", as fractions of the steps.
        final_rate: Of "cosine", as a fraction of the highest rate.
        decay: "all" parameters decay, or "matrices": those of two dimensions or more, so that biases, the parameters
            of normalisations and those of activations (PReLU) do not.
        clip: Largest norm of the whole gradient; longer ones are scaled down to it. None: no clipping.
        epoch_steps: Steps of an epoch, drawn from an endless row of passes, all batches whole; None: one pass.
        steps: Steps of the run if the last epoch is cut short; None: all steps of all epochs.
        micro_batch: Examples of one forward and backward pass; their gradients are summed to that of the whole
            batch's mean loss (BatchNorm sees the parts). None: the whole batch.
        precision: "float32", or "bfloat16": autocast in forward passes, weights and optimiser stay in float32.
        channels_last: Whether images and convolutions are kept in that memory format.
        compiled: Whether training steps run through torch.compile.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 1e-2
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    schedule: Literal["one-cycle", "multistep", "cosine", "linear", "constant"] = "one-cycle"
    warm_up: float = 0.3
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    milestones: tuple[float, ...] = ()
    final_rate: float = 0.0
    decay: Literal["all", "matrices"] = "all"
    clip: float | None = None
    epoch_steps: int | None = None
    steps: int | None = None
    micro_batch: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    compiled: bool = False

    def steps_of_epoch(self, examples: int) -> int:
        """Return the steps of a whole epoch over a training set of so many examples."""
        return self.epoch_steps or math.ceil(examples / self.batch_size)

    def total_steps(self, examples: int) -> int:
        """Return the steps of a run over a training set of so many examples.

        Example:
            >>> Training(epochs=2, batch_size=4, learning_rate=0.1).total_steps(10)
            6
        """
        whole = self.epochs * self.steps_of_epoch(examples)
        return whole if self.steps is None else min(self.steps, whole)


@dataclass(frozen=True)
class Subset:
    """How many examples of each split are used, every class in proportion; None uses all of them."""

    train: int | None = None
    validation: int | None = None
    test: int | None = None


class StoredRecipe:
    """What a comparison stores of its experiment: a `Pipeline` of the lab or an `OwnRecipe`, told apart by `task`."""

    name: str
    title: str
    metric: Any  # Text in the one, one of three words in the other.


@dataclass(frozen=True)
class OwnRecipe(StoredRecipe):
    """What identifies a training function of the user's own, or a table of results from elsewhere.

    Attributes:
        metric, better: Figure by which arms are compared, and which value of it is the better one.
        margin: Margin of equivalence in the metric's unit; None or 0 for no test of equivalence.
        unit: Unit of the metric; "" or None for none.
        chance: Value of the metric by guessing; None if it is not known.
        options: Values of the function's own parameters; None for a table.
    """

    name: str
    title: str
    metric: str
    better: str
    margin: float | None = None
    unit: str | None = None
    chance: float | None = None
    options: dict[str, Any] | None = None
    task: Literal["own"] = "own"


@dataclass(frozen=True)
class Pipeline(StoredRecipe):
    """What every arm and seed of a comparison share.

    Attributes:
        name: Name on the command line.
        title: What is trained on what, in words.
        data: Name of the data set.
        model: The model: a frozen dataclass of plain values with a field `kind`.
        training: The training.
        task: What makes batches and models of the data: see `tasks.load_task`.
        scale: "full" as in the literature, "small" for a CPU, "smoke" to try the code path.
        subset: Examples that are used.
        input_scale: Factor on the inputs after their standardisation, of images.
        shrink: Side of the squares of a colour image whose mean becomes one pixel; 1 leaves images as they are.
        augmentation: "none", or "crop-flip": training images are padded with zeros by 1/8 of their height (4
            pixels of CIFAR's 32), cropped back at random, and mirrored with probability 1/2.
        initialisation: "model": the model's own; "gain": the weights of each layer that reads an activation's output
            are also scaled by the activation's gain over ReLU's, see `models.scale_to_gain`.
        selection: Which weights are scored on the test set: those of the epoch with the "lowest-validation-loss", or
            the "last".
        metric: What arms are compared by: a name in `metrics.METRICS`.
        margin: Margin of equivalence in the metric's stored unit; None for the metric's own.
        threads: CPU threads of torch; None for torch's own choice. The first run's number is kept for the comparison.
        rates: Activation -> its own highest learning rate, which takes the place of the training's.
        scored: Split on which the chosen weights are scored: "test", once at the end of a run, or "validation", which
            leaves the test set alone, as a search over settings must.
        resplit: Whether each seed draws training, validation and test set anew from all of them, in the same sizes.
    """

    name: str
    title: str
    data: str
    model: Any
    training: Training
    task: Literal["images", "text"] = "images"
    scale: Scale = "full"
    subset: Subset = Subset()
    shrink: int = 1
    input_scale: float = 1.0
    augmentation: Literal["none", "crop-flip"] = "none"
    initialisation: Literal["model", "gain"] = "model"
    selection: Selection = "lowest-validation-loss"
    metric: Literal["accuracy", "loss", "perplexity"] = "accuracy"
    margin: Annotated[float, msgspec.Meta(gt=0)] | None = None
    threads: int | None = None
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    scored: Literal["test", "validation"] = "test"
    resplit: bool = False

    @property
    def rule(self) -> str:
        """Which weights are scored, on what and when, in words."""
        if self.selection == "last":
            weights, end = "after the last step", "; the validation set chooses nothing"
        else:
            weights = "of the epoch with the lowest validation loss (the earliest of equals)"
            end = ", at the end of the run"
        if self.scored == "validation":
            return f"The weights {weights} are scored on the validation set; the test set is left alone."
        return f"The weights {weights} are scored once on the test set{end}."


@dataclass(frozen=True)
class Recipe(Pipeline):
    """One comparison in full.

    Attributes:
        activations: Arms of the comparison, as `parse_arm` reads them.
        baseline: Arm that the others are compared with.
        seeds: Number of runs of each arm.
    """

    activations: tuple[str, ...] = ARMS
    baseline: str = "gelu"
    seeds: int = 3

    def for_arm(self, activation: str) -> Self:
        """Return the recipe with which an activation, a canonical string, is trained: at its own rate if it has one."""
        if activation not in self.rates:
            return self
        return replace(self, training=replace(self.training, learning_rate=self.rates[activation]))

    def pipeline(self) -> Pipeline:
        """Return what every arm and seed share: the recipe without its arms."""
        return Pipeline(**{each.name: getattr(self, each.name) for each in fields(Pipeline)})


class Maker(NamedTuple):
    """What makes a recipe of a model, or of its own, and a scale; and its help in a sentence."""

    make: Callable[[str | None, Scale], Recipe]
    help: str


_PLANS = {plan.kind: plan for plan in (Mlp, Cnn, ResNetPlan, PreActPlan, VitPlan, Gpt2Plan, BertPlan)}


def read_recipe(values: Any) -> StoredRecipe:
    """Read a recipe from plain values, as JSON gives them; what an earlier version did not name has its default.

    Raises: TypeError, ValueError: the values are of no recipe; `msgspec` takes it for a fault in the file.
    """
    if not isinstance(values, dict):
        raise TypeError("the recipe is no object")
    if values.get("task") == "own":
        return msgspec.convert(values, OwnRecipe)
    model = values.get("model")
    if not isinstance(model, dict) or model.get("kind") not in _PLANS:
        raise ValueError(f"the recipe has no model of the kinds {', '.join(_PLANS)}")
    plan = msgspec.convert(model, _PLANS[model["kind"]])
    return msgspec.convert({**values, "model": plan}, Pipeline)
