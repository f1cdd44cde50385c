"""Text as a task: GPT-2 predicts the next token of each, BERT the tokens that are hidden from it."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import DataError, SettingError
from ..data.corpus import SPLITS, find_corpus, read_texts
from ..data.holdings import find_data_dir
from ..data.tokens import Ids, load_tokens
from ..models.classifiers import Factory
from ..models.initialisation import scale_to_gain
from ..models.language import build_language_model, import_transformers
from ..recipes.pipeline import BertPlan, Gpt2Plan, Recipe
from .tasks import Batch, SplitName

_EVALUATION_LOGITS = 1 << 25  # Of one batch: 128 MB in float32.
_MASK_SEEDS: dict[SplitName, int] = {"validation": 2018, "test": 2019}
# More than a token of prose has in any tokenizer here: text enough for the windows that a recipe uses.
_CHARACTERS_PER_TOKEN = 8
_HIDDEN, _REPLACED = 0.8, 0.9


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
    """Model text; see `tasks.Task`. All windows, (windows, tokens) int32, are in memory on the task's device.

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


def load_task(recipe: Recipe, data_dir: Path | None) -> TextTask:
    """Load the text of a recipe as windows of tokens, on the CPU; see `tasks.load_task`.

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
