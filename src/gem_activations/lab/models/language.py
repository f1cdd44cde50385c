"""GPT-2 and BERT of transformers, with an activation of the catalog in the place of each of theirs."""

from typing import Any

import torch
from torch import Tensor, nn

from ...extras import framework
from ..recipes.pipeline import BertPlan, Gpt2Plan
from .classifiers import Factory, as_factory

_FIRST = "gelu"  # What the models are built with before its modules are replaced: it draws no random number.


class CausalModel(nn.Module):
    """GPT-2 as a map from tokens (N, T) int64 to the logits of the token after each, (N, T, vocabulary).

    Raises: MissingDependencyError: transformers is not installed.
    """

    def __init__(self, plan: Gpt2Plan, activation: str | Factory) -> None:
        super().__init__()
        library, make = import_transformers(), as_factory(activation)
        config = library.GPT2Config(
            vocab_size=plan.vocabulary,
            n_positions=plan.context,
            n_embd=plan.width,
            n_layer=plan.layers,
            n_head=plan.heads,
            activation_function=_FIRST,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
            attn_implementation="sdpa",
        )
        self.model = library.GPT2LMHeadModel(config)
        for block in self.model.transformer.h:
            block.mlp.act = make()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next tokens."""
        return self.model(input_ids=tokens).logits


class MaskedModel(nn.Module):
    """BERT as a map from packed tokens and places to the logits of the tokens at those places.

    The head, which is most of the work at this size, is applied to the places that are predicted and to no others.

    Raises: MissingDependencyError: transformers is not installed.
    """

    def __init__(self, plan: BertPlan, activation: str | Factory) -> None:
        super().__init__()
        library, make = import_transformers(), as_factory(activation)
        config = library.BertConfig(
            vocab_size=plan.vocabulary,
            hidden_size=plan.width,
            num_hidden_layers=plan.layers,
            num_attention_heads=plan.heads,
            intermediate_size=plan.feed_forward,
            hidden_act=_FIRST,
            hidden_dropout_prob=plan.dropout,
            attention_probs_dropout_prob=plan.dropout,
            max_position_embeddings=plan.positions,
            attn_implementation="sdpa",
        )
        self.context = plan.context
        self.model = library.BertForMaskedLM(config)
        for layer in self.model.bert.encoder.layer:
            layer.intermediate.intermediate_act_fn = make()
        self.model.cls.predictions.transform.transform_act_fn = make()

    def forward(self, packed: Tensor) -> Tensor:
        """Map (N, context + k) int64, a window of tokens and then k places in it, to logits (N, k, vocabulary)."""
        tokens, places = packed.split((self.context, packed.shape[1] - self.context), dim=1)
        hidden = self.model.bert(input_ids=tokens).last_hidden_state
        chosen = hidden.gather(1, places[:, :, None].expand(-1, -1, hidden.shape[-1]))
        return self.model.cls(chosen)


def build_language_model(plan: Gpt2Plan | BertPlan, activation: str | Factory, seed: int) -> nn.Module:
    """Build a model whose initial weights depend on the seed alone, not on the activation.

    They are drawn as transformers draws them: normal with deviation 0.02, GPT-2's residual projections with
    0.02 / sqrt(2 layers), biases 0. The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CausalModel(plan, activation) if isinstance(plan, Gpt2Plan) else MaskedModel(plan, activation)


def import_transformers() -> Any:
    """Import the library. Raises: MissingDependencyError: it is not installed, or too old."""
    with framework("transformers", at_least="5.0", install="'gem-activations[lab,huggingface]'"):
        import transformers
    return transformers
