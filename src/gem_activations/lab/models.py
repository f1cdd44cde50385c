"""The models of the recipes, each built with a given activation from a given seed; and weights scaled to its gain.

Classifiers of images are here in full. GPT-2 and BERT are those of transformers, with an activation of the catalog in
the place of each of theirs.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..extras import framework
from ..torch.init import calculate_gain
from ..torch.inventory import named_activations
from .recipes.arms import parse_arm
from .recipes.pipeline import BertPlan, Cnn, Gpt2Plan, Mlp, PreActPlan, ResNetPlan, VitPlan

Factory = Callable[[], nn.Module]
STAGES = 3
_FIRST = "gelu"  # What the models are built with before its modules are replaced: it draws no random number.


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, around a shortcut that pads new channels with zeros."""

    def __init__(self, in_channels: int, channels: int, stride: int, activation: Factory) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.act2 = activation()
        self.stride, self.padding = stride, channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        if self.padding or self.stride > 1:
            half = self.padding // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.padding - half))
        return self.act2(y + x)


class PreActBlock(nn.Module):
    """BatchNorm and activation before each of two 3x3 convolutions; the shortcut is a 1x1 convolution at a change."""

    def __init__(self, in_channels: int, channels: int, stride: int, activation: Factory) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.act1 = activation()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.act2 = activation()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        changes = stride > 1 or in_channels != channels
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        y = self.act1(self.norm1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        return x + self.conv2(self.act2(self.norm2(self.conv1(y))))


class ResNet(nn.Module):
    """ResNet of depth 6 blocks + 2 for small images: 56 layers and 0.85 million parameters with blocks=9.

    Args:
        blocks: Residual blocks in each of the three stages, which have 1, 2 and 4 times `width` channels.
        activation: Makes one activation module; called once for each place.
        channels: Channels of an image.
        pre_activation: Whether BatchNorm and activation come before each convolution; the 1x1 convolutions of the
            shortcuts are then not counted in the depth.
    Source: K. He, X. Zhang, S. Ren, J. Sun, arXiv:1512.03385, section 4.2, and arXiv:1603.05027.
    Example:
        >>> ResNet(1)(torch.zeros(2, 3, 32, 32)).shape, ResNet(1, pre_activation=True)(torch.zeros(2, 3, 96, 96)).shape
        (torch.Size([2, 10]), torch.Size([2, 10]))
    """

    def __init__(
        self,
        blocks: int = 9,
        classes: int = 10,
        activation: Factory = nn.ReLU,
        width: int = 16,
        channels: int = 3,
        pre_activation: bool = False,
    ) -> None:
        super().__init__()
        stem, kind = nn.Conv2d(channels, width, 3, 1, 1, bias=False), PreActBlock if pre_activation else BasicBlock
        self.stem = stem if pre_activation else nn.Sequential(stem, nn.BatchNorm2d(width), activation())
        # The first block of a later stage halves the image and doubles the channels.
        self.stages = nn.Sequential(
            *(
                kind(width << max(stage - (index == 0), 0), width << stage, 1 + (index == 0 < stage), activation)
                for stage in range(STAGES)
                for index in range(blocks)
            )
        )
        self.tail = nn.Sequential(nn.BatchNorm2d(4 * width), activation()) if pre_activation else nn.Identity()
        self.head = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, classes)."""
        x = self.tail(self.stages(self.stem(x)))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


_DEVIATION = 0.02


class Attention(nn.Module):
    """Self-attention of several heads over all tokens, or over those before if it is causal."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, T, width) to (N, T, width)."""
        count, tokens, width = x.shape
        parts = self.inputs(x).view(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=self.causal)
        return self.output(mixed.transpose(1, 2).reshape(count, tokens, width))


class Block(nn.Module):
    """Attention and a feed-forward layer with the activation, each behind a LayerNorm and around a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int, activation: Factory, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.expand, self.act, self.reduce = nn.Linear(width, hidden), activation(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, T, width) to (N, T, width)."""
        x = x + self.attention(self.norm1(x))
        return x + self.reduce(self.act(self.expand(self.norm2(x))))


class VisionTransformer(nn.Module):
    """A Vision Transformer for images (channels, height, width) of one size, whose sides the plan's patch divides.

    It has pre-normalisation, a class token and learnt positions; `activation` makes one module for each block.

    Source: A. Dosovitskiy et al., arXiv:2010.11929.
    Example:
        >>> model = VisionTransformer((3, 8, 8), 10, nn.GELU, VitPlan(layers=1, width=12, heads=3, feed_forward=2))
        >>> model(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, shape: tuple[int, ...], classes: int, activation: Factory, plan: VitPlan) -> None:
        super().__init__()
        channels, height, breadth = shape
        width, patch, hidden = plan.width, plan.patch, plan.width * plan.feed_forward
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (height // patch) * (breadth // patch), width))
        self.blocks = nn.Sequential(*(Block(width, plan.heads, hidden, activation) for _ in range(plan.layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        for parameter in (self.token, self.positions):
            nn.init.normal_(parameter, std=_DEVIATION)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_DEVIATION)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens)[:, 0]))


Model = Mlp | Cnn | ResNetPlan | PreActPlan | VitPlan


def as_factory(activation: str | Factory) -> Factory:
    """Return what makes a module of an activation: a string as `parse_arm` reads it, or such a factory itself."""
    return parse_arm(activation) if isinstance(activation, str) else activation


def build_model(model: Model, activation: str | Factory, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """Build a classifier whose initial weights depend on the seed alone, not on the activation.

    It maps (N, channels, height, width) float32 to logits (N, classes). An activation's own parameters (PReLU) come on
    top. The global random state is left as it was.
    """
    factory = as_factory(activation)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, Mlp):
            layers: list[nn.Module] = [nn.Flatten()]
            for inputs, outputs in pairwise((math.prod(shape), *model.hidden)):
                layers += [nn.Linear(inputs, outputs), factory()]
            return nn.Sequential(*layers, nn.Linear(model.hidden[-1], classes))
        if isinstance(model, Cnn):
            layers, (_, height, width) = [], shape
            for inputs, outputs in pairwise((shape[0], *model.channels)):
                for channels, stride in ((inputs, 1), (outputs, 2)):
                    convolution = nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=False)
                    layers += [convolution, nn.BatchNorm2d(outputs), factory()]
                height, width = (height + 1) // 2, (width + 1) // 2
            return nn.Sequential(*layers, nn.Flatten(), nn.Linear(model.channels[-1] * height * width, classes))
        if isinstance(model, VitPlan):
            return VisionTransformer(shape, classes, factory, model)
        blocks = (model.depth - 2) // (2 * STAGES)
        return ResNet(blocks, classes, factory, model.width, shape[0], pre_activation=isinstance(model, PreActPlan))


def count_parameters(model: nn.Module) -> int:
    """Count the trained scalars of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


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


def scale_to_gain(model: nn.Module, activation: str, example: Tensor) -> list[str]:
    """Scale the weights that read an activation's output by its gain over ReLU's, in place; return the layers' names.

    The recipes' models draw weights for ReLU, or whatever the activation. After the scaling a layer that reads f(z) of
    a standard normal z gives the second moment that it would give with ReLU. Weights are multiplied, not drawn anew:
    the arms of a seed keep their common draw, and ReLU's arm stays as it is. One forward pass of the example in
    evaluation mode tells which layers read what: an activation's output itself or a view of it. A layer behind a
    pooling or a normalisation is left as it is, and so are biases. Activations are modules; see `is_activation`.

    Edge cases: If BatchNorm follows the layer, the scaling changes no output; it makes the steps relatively smaller.
    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 2))
        >>> scale_to_gain(model, "silu", torch.zeros(1, 4))
        ['2']
    """
    readers = _find_readers(model, example)
    factor = calculate_gain(activation) / calculate_gain("relu")
    with torch.no_grad():
        for weight in {id(weight): weight for weight in readers.values()}.values():  # Shared ones once.
            weight.mul_(factor)
    return list(readers)


def _find_readers(model: nn.Module, example: Tensor) -> dict[str, nn.Parameter]:
    """Return the layers whose input lies in the memory of an activation's output: name -> weight matrix or kernel."""
    outputs: list[Tensor] = []  # Kept, so that their memory is not given to another tensor.
    readers: dict[str, nn.Parameter] = {}

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        outputs.append(output)

    def note(name: str, weight: nn.Parameter) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def hook(_: nn.Module, arguments: tuple[object, ...]) -> None:
            inputs = {_memory(argument) for argument in arguments if isinstance(argument, Tensor)}
            if not inputs.isdisjoint(map(_memory, outputs)):
                readers[name] = weight

        return hook

    handles = [module.register_forward_hook(keep) for _, module in named_activations(model)]
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() >= 2:
            handles.append(module.register_forward_pre_hook(note(name, weight)))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return readers


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
