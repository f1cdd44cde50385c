"""What is learnt, apart from how: a data set with its model, everything about a run that is not optimisation.

The loop (`trainer.Trainer`) knows indices of training examples, steps, optimisers, checkpoints and the run's random
streams. A task knows the rest: `ImageTask` classifies images, `TextTask` has GPT-2 predict the next token of each, BERT
the tokens that are hidden from it. Both have

- `device`, where the data lie, and the batches and models are made; `to` gives the same task on another;
- `sizes`, the examples of "train", "validation" and "test": an example is what one index names, an image or a window of
  tokens;
- `checksums`, SHA-256 of the data by name, a part of the comparison's identity: whatever changes a number (also the
  tokenizer, or the way windows are cut) must change a checksum or the recipe;
- `replicate`, the task of one seed: itself, or one with that seed's own training set;
- `make_model`: the initial weights depend on the seed alone and not on the activation, whose own parameters come on
  top, and the global random state is left as it was. The model maps `Batch.inputs` to logits, classes last;
- `train_batch`, the batch of some indices, int64 on the device; augmentation, windows and masks belong here. Its only
  source of random numbers is `generator`. The loop seeds it from the run's seed and the epoch, so that a resumed run
  draws the same numbers and arms of one seed see the same batches. What is drawn must not depend on how many processes
  share the batch: every process makes the whole batch and takes its part;
- `evaluation_batches`, a split in batches, always the same ones: no random number of the run is drawn.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...errors import DataError, SettingError
from ..data.holdings import find_data_dir
from ..data.images import Dataset, load_dataset
from ..data.text import SPLITS, Ids, find_corpus, load_tokens, read_texts
from ..models import Factory, build_language_model, build_model, import_transformers, scale_to_gain
from ..recipes.pipeline import BertPlan, Gpt2Plan, Recipe

IGNORED = -100
"""Target that counts neither in the loss nor in the accuracy."""

SplitName = Literal["validation", "test"]
_EVALUATION_PIXELS = 1000 * 32 * 32  # Of one plane: the inner layers of a batch must fit beside the data.
_MARGIN = 8  # Of an image's height, the part that is padded: 4 pixels of 32, as is usual for CIFAR.
_EVALUATION_LOGITS = 1 << 25  # Of one batch: 128 MB in float32.
_MASK_SEEDS: dict[SplitName, int] = {"validation": 2018, "test": 2019}
# More than a token of prose has in any tokenizer here: text enough for the windows that a recipe uses.
_CHARACTERS_PER_TOKEN = 8
_HIDDEN, _REPLACED = 0.8, 0.9


class Batch(NamedTuple):
    """Inputs and targets of one step, on the task's device.

    The first dimension of both is that of the examples: a batch is cut along it into micro-batches, and between
    processes. `targets` are int64 classes of the shape of the logits without their last dimension: (N,) for images,
    (N, T) for text; `IGNORED` at those that are not to be predicted.
    """

    inputs: Tensor
    targets: Tensor


class ImageTask:
    """Classify images, which lie on the device of the task."""

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.recipe, self.dataset = recipe, dataset
        self.device = dataset.train.x.device
        self.checksums = dataset.checksums

    @property
    def sizes(self) -> Mapping[str, int]:
        """The number of images of each split."""
        return {name: len(getattr(self.dataset, name).y) for name in ("train", "validation", "test")}

    def to(self, device: torch.device) -> "ImageTask":
        """Return the same task on another device."""
        return ImageTask(self.recipe, self.dataset.to(device))

    def replicate(self, seed: int) -> "ImageTask":
        """Return the task of one seed: with the seed's fold, or with splits of its own if the recipe says so."""
        return ImageTask(self.recipe, self.dataset.resplit(seed) if self.recipe.resplit else self.dataset.fold(seed))

    def scaled(self, x: Tensor) -> Tensor:
        """Return pixels as the model takes them: float32, standardised, times the recipe's factor."""
        factor = self.recipe.input_scale
        return self.dataset.scaled(x) if factor == 1 else self.dataset.scaled(x) * factor

    def make_model(self, activation: str | Factory, seed: int) -> nn.Module:
        """Build the recipe's model on the device, with its initialisation."""
        shape, classes = self.dataset.shape, self.dataset.classes
        model = build_model(self.recipe.model, activation, shape, classes, seed).to(self.device)
        if self.recipe.initialisation == "gain":
            assert isinstance(activation, str)  # Others have been refused.
            scale_to_gain(model, activation, torch.zeros(1, *shape, device=self.device))
        return model

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Return the images of the indices, augmented if the recipe says so."""
        split = self.dataset.train
        x = self.scaled(split.x[indices])
        if self.recipe.augmentation == "crop-flip":
            x = crop_and_flip(x, generator)
        return Batch(x, split.y[indices])

    def evaluation_batches(self, split: SplitName) -> Iterator[Batch]:
        """Return a split in its order, a thousand images of 32x32 pixels at a time, or as many larger ones as fit."""
        examples = self.dataset.validation if split == "validation" else self.dataset.test
        _, height, width = self.dataset.shape
        size = max(1, min(1000, _EVALUATION_PIXELS // (height * width)))
        for x, y in zip(examples.x.split(size), examples.y.split(size), strict=True):
            yield Batch(self.scaled(x), y)


def crop_and_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pad images with zeros by 1/8 of their height, crop each back at random, and mirror each with probability 1/2.

    The images (N, C, H, W) have any dtype; the generator is on their device.
    """
    count, _, height, width = x.shape
    margin = height // _MARGIN
    draw = torch.randint(0, 2 * margin + 1, (2, count, 1), generator=generator, device=x.device)
    flipped = torch.randint(0, 2, (count, 1), generator=generator, device=x.device).bool()
    down, across = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    rows = draw[0] + down
    columns = draw[1] + torch.where(flipped, width - 1 - across, across)
    padded = functional.pad(x, (margin, margin, margin, margin)).permute(0, 2, 3, 1)
    each = torch.arange(count, device=x.device)[:, None, None]
    cut = padded[each, rows[:, :, None], columns[:, None]]  # (N, H, W, C): indexing leaves the channels last.
    return cut.permute(0, 3, 1, 2).contiguous()


class NextToken:
    """Predict each next token: inputs and targets (N, context).

    Windows of `length` tokens are cut from a stream, one every `stride` tokens.
    """

    def __init__(self, plan: Gpt2Plan) -> None:
        self.length, self.stride = plan.context + 1, plan.context

    def frame(self, windows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the windows as they are: the last token of one is the first of the next, and its target."""
        return windows

    def make_batch(self, windows: Tensor, generator: torch.Generator) -> Batch:  # noqa: ARG002 -- nothing is drawn
        """Return all tokens but the last, and all but the first."""
        return Batch(windows[:, :-1], windows[:, 1:])


class MaskedTokens:
    """Predict k tokens of each window: inputs (N, context + k) as `MaskedModel` reads them, targets (N, k).

    A fixed number, as in BERT, and not a random one: every window weighs the same, however a batch is divided. A
    replacing token is drawn from all that the tokenizer knows; [CLS] and [SEP] are never predicted.
    """

    def __init__(self, plan: BertPlan, size: int, special: Mapping[str, int]) -> None:
        self.length = self.stride = plan.context - 2
        self.count = max(1, round(plan.predicted * self.length))
        self.size = size
        self.first, self.last, self.mask = special["[CLS]"], special["[SEP]"], special["[MASK]"]

    def frame(self, windows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Put [CLS] before and [SEP] after each window."""
        return np.pad(windows, ((0, 0), (1, 1)), constant_values=((0, 0), (self.first, self.last)))

    def make_batch(self, windows: Tensor, generator: torch.Generator) -> Batch:
        """Choose the tokens to predict; hide 80 % of them, replace 10 % at random, leave 10 % as they are."""
        device, rows = windows.device, len(windows)
        order = torch.rand(windows.shape, generator=generator, device=device)
        order.masked_fill_((windows == self.first) | (windows == self.last), 2.0)
        places = order.topk(self.count, dim=1, largest=False).indices
        targets = windows.gather(1, places)
        fate = torch.rand((rows, self.count), generator=generator, device=device)
        others = torch.randint(self.size, (rows, self.count), generator=generator, device=device)
        shown = torch.where(fate < _HIDDEN, self.mask, torch.where(fate < _REPLACED, others, targets))
        return Batch(torch.cat((windows.scatter(1, places, shown), places), dim=1), targets)


Objective = NextToken | MaskedTokens


class TextTask:
    """Model text. All windows, (windows, tokens) int32, are in memory on the task's device.

    The masks of validation and test are drawn once and for all: every arm, seed and epoch has the same targets. The
    checksums are those of each split's windows and of the tokenizer.
    """

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        train: Tensor,
        evaluation: Mapping[SplitName, Batch],
        checksums: dict[str, str],
    ) -> None:
        self.recipe, self.objective, self.train, self.evaluation = recipe, objective, train, evaluation
        self.checksums = checksums
        self.device = train.device

    @property
    def sizes(self) -> Mapping[str, int]:
        """The number of windows of each split."""
        return {"train": len(self.train)} | {name: len(batch.targets) for name, batch in self.evaluation.items()}

    def to(self, device: torch.device) -> "TextTask":
        """Return the same task on another device."""
        evaluation: dict[SplitName, Batch] = {
            name: Batch(inputs.to(device), targets.to(device)) for name, (inputs, targets) in self.evaluation.items()
        }
        return TextTask(self.recipe, self.objective, self.train.to(device), evaluation, self.checksums)

    def replicate(self, seed: int) -> "TextTask":  # noqa: ARG002 -- text has no folds
        """Return the task itself."""
        return self

    def make_model(self, activation: str | Factory, seed: int) -> nn.Module:
        """Build the recipe's model on the device, with its initialisation."""
        model = build_language_model(self.recipe.model, activation, seed).to(self.device)
        if self.recipe.initialisation == "gain":
            assert isinstance(activation, str)  # Others have been refused.
            scale_to_gain(model, activation, self.evaluation["validation"].inputs[:1])
        return model

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Return the windows of the indices, with fresh masks if there are any."""
        return self.objective.make_batch(self.train[indices].long(), generator)

    def evaluation_batches(self, split: SplitName) -> Iterator[Batch]:
        """Return a split in its order, as many windows at a time as their logits allow."""
        whole = self.evaluation[split]
        size = max(1, _EVALUATION_LOGITS // (whole.targets.shape[1] * self.recipe.model.vocabulary))
        yield from map(Batch, whole.inputs.split(size), whole.targets.split(size))


def _load_text(recipe: Recipe, data_dir: Path | None) -> TextTask:
    """Load the text of a recipe as windows of tokens, on the CPU.

    The recipe's `subset` says how many windows of each split are used: evenly spread ones, of the beginnings of the
    documents. Of a text that has fewer, all are used. Files of the published tokenizers are looked for in the data
    folder, in its folder `tokenizers`, and in the default data folder.

    Raises: DataError: no text, too little of it, or a damaged file; SettingError: a size of the model;
        MissingDependencyError: transformers or tokenizers is not installed.
    """
    import_transformers()
    plan: Gpt2Plan | BertPlan = recipe.model
    if isinstance(plan, BertPlan) and not 3 <= plan.context <= plan.positions:
        raise SettingError(f"a context of {plan.context} tokens: expected 3 to {plan.positions}")
    place = find_data_dir(data_dir)
    texts = read_texts(find_corpus(place))
    wanted = {name: getattr(recipe.subset, name) for name in SPLITS}
    characters = {
        name: None if count is None else _CHARACTERS_PER_TOKEN * plan.context * count for name, count in wanted.items()
    }
    folders = [folder / name for folder in dict.fromkeys((place, find_data_dir())) for name in ("tokenizers", ".")]
    tokens = load_tokens(texts.shorten(characters), plan.kind, plan.vocabulary, folders)
    objective = NextToken(plan) if isinstance(plan, Gpt2Plan) else MaskedTokens(plan, tokens.size, tokens.special)
    windows = {name: make_windows(getattr(tokens, name), objective, wanted[name]) for name in SPLITS}
    for name, found in windows.items():
        if not len(found):
            raise DataError(
                f"the {name} text of {texts.origin} has {len(getattr(tokens, name))} tokens, fewer than one window of "
                f"{objective.length}; give more text"
            )
    evaluation: dict[SplitName, Batch] = {}
    for name, seed in _MASK_SEEDS.items():
        generator = torch.Generator().manual_seed(seed)
        evaluation[name] = objective.make_batch(torch.from_numpy(windows[name]).long(), generator)
    checksums = {name: hashlib.sha256(found.data).hexdigest() for name, found in windows.items()}
    train = torch.from_numpy(windows["train"])
    return TextTask(recipe, objective, train, evaluation, checksums | {"tokenizer": tokens.tokenizer})


def make_windows(stream: Ids, objective: Objective, count: int | None) -> NDArray[np.int32]:
    """Cut a stream of tokens, (tokens,), into framed windows, (windows, tokens), and keep `count`, evenly spread.

    What is left over at the end, less than a window, is not used.
    """
    if len(stream) < objective.length:
        return np.empty((0, objective.length), np.int32)
    every = np.lib.stride_tricks.sliding_window_view(stream, objective.length)[:: objective.stride]
    kept = len(every) if count is None else min(count, len(every))
    chosen = every[np.arange(kept) * len(every) // kept]
    return objective.frame(chosen.astype(np.int32))


Task = ImageTask | TextTask


def load_task(recipe: Recipe, data_dir: Path | None) -> Task:
    """Load the data of a recipe, on the CPU.

    Raises: DataError: the data are missing or damaged; SettingError: a size of the model; MissingDependencyError: a
        library is missing.
    """
    if recipe.task == "text":
        return _load_text(recipe, data_dir)
    return ImageTask(recipe, load_dataset(recipe.data, data_dir, recipe.subset, recipe.shrink))
