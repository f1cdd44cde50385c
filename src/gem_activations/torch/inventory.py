"""Which modules of a model are activations, and how an activation is asked for."""

from collections import Counter
from collections.abc import Iterator

from torch import nn

from .. import catalog
from ..spec import GemSpec
from .modules import GEMGLU

Choice = str | catalog.Activation | GemSpec

_HOMES = {
    "torch.nn.modules.activation",
    "gem_activations.torch.modules",
    "gem_activations.torch.baselines",
    "transformers.activations",
    "timm.layers.activations",
    "timm.layers.activations_me",
}
# What lives in those modules beside functions of one element.
_OTHERS = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax, nn.GLU, GEMGLU)


def is_activation(module: nn.Module) -> bool:
    """Return whether a module is an elementwise activation of PyTorch, of this package, of transformers or of timm.

    Subclasses count, other than PyTorch's own for quantised tensors. An activation class of another source is not
    recognised.

    Example:
        >>> is_activation(nn.SiLU()), is_activation(nn.Dropout()), is_activation(nn.Softmax(-1))
        (True, False, False)
    """
    if type(module).__module__.startswith("torch.ao."):
        return False
    homes = {base.__module__ for base in type(module).__mro__}
    return not homes.isdisjoint(_HOMES) and not isinstance(module, _OTHERS)


def is_known_class(module: nn.Module) -> bool:
    """Return whether a module's class is an activation of those sources itself, not a subclass that may do more.

    Example:
        >>> is_known_class(nn.ReLU()), is_known_class(type("Own", (nn.ReLU,), {})())
        (True, False)
    """
    return type(module).__module__ in _HOMES and is_activation(module)


def own_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module was made of; `swap` puts a subclass in its place if it serves functions.

    Example:
        >>> own_class(nn.ReLU())
        <class 'torch.nn.modules.activation.ReLU'>
    """
    return vars(type(module)).get("_own_class", type(module))


def named_activations(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Return (dotted name, module) of every recognised activation, each module once; what is inside one is left out."""
    inside: set[int] = set()
    for name, module in model.named_modules():
        if id(module) not in inside and is_activation(module):
            inside.update(id(part) for part in module.modules())
            yield name, module


def as_activation(choice: Choice) -> catalog.Activation:
    """Read an activation as `make_activation` takes it.

    Raises: ActivationNameError, SpecError: as `catalog.parse`.
    """
    return choice if isinstance(choice, catalog.Activation) else catalog.parse(str(choice))


def list_activations(model: nn.Module) -> str:
    """Return the kinds of activations in a model for a message, the most frequent first.

    Example:
        >>> list_activations(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.ReLU(), nn.Tanh()))
        'its activations are 2 ReLU, 1 Tanh'
    """
    kinds = Counter(describe(module) for _, module in named_activations(model))
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6))
    return f"its activations are {shown}" if shown else "it has no module that is known to be an activation"


def describe(module: nn.Module) -> str:
    """Return a module in one line: its class, with the parameters that set it apart.

    Example:
        >>> describe(nn.GELU(approximate="tanh")), describe(nn.ReLU())
        ("GELU(approximate='tanh')", 'ReLU')
    """
    if any(True for _ in module.children()):
        return type(module).__name__
    inside = module.extra_repr()
    shown = inside.replace("approximate='none'", "")
    return f"{type(module).__name__}({shown})" if shown else type(module).__name__
