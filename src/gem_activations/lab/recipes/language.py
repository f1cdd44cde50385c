"""Recipes on text: GPT-2 124M and BERT-small, and their forms for a CPU. Nothing here imports a framework."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from ...errors import SettingError
from .pipeline import Maker, Recipe, Scale, Subset, Training


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
    return _at_scale(dataclasses.replace(recipe, metric="perplexity"), model, small, learning_rate=2e-3)


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
    training = dataclasses.replace(
        recipe.training,
        epochs=2 if smoke else 10,
        epoch_steps=5 if smoke else 30,
        batch_size=8 if smoke else 16,
        micro_batch=None,
        learning_rate=learning_rate,
        warm_up=0.1,
        precision="float32",
    )
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(small, layers=2) if smoke else small,
        training=training,
        subset=Subset(256, 64, 64) if smoke else Subset(8192, 256, 512),
        seeds=2 if smoke else 5,
        threads=1,  # Runs are many and small: two processes on two cores do more than two threads of one.
    )


LANGUAGE = {
    "gpt2-124m": Maker(
        _gpt2, "GPT-2 with 124 million parameters on any text, 5,000 steps of nanoGPT's recipe; text from --data-dir."
    ),
    "bert-small": Maker(
        _bert,
        "BERT with 28.8 million parameters on any text, masked language model, 3,000 steps; text from --data-dir.",
    ),
}
