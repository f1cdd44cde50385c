"""Which dimension of a pre-activation counts the units."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage] -- of batch and instance norms
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage] -- the base of every convolution
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage] -- of all instance norms
from torch.nn.parameter import is_lazy

from ...errors import ModelError
from ..inventory import named_activations


class Source(NamedTuple):
    """A module with weights, which the units of the activation behind it come from.

    Attributes:
        name: Its dotted name.
        dim: Channel dimension of what it gives, counted from 0, or from the end where negative.
        width: Number of its channels where `dim` is a guess: it scales channels, in a layout that is not known.
    """

    name: str
    dim: int
    width: int | None = None


def named_sources(model: nn.Module) -> list[tuple[Source, nn.Module]]:
    """Give every module inside a model whose weights tell where the channels of what it gives are.

    A layer norm over several dimensions does not tell: the units stay where they were. Activations are left out.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.PReLU(), nn.Flatten(), nn.Linear(8, 2))
        >>> [(source.name, source.dim) for source, _ in named_sources(model)]
        [('0', -3), ('1', 1), ('4', -1)]
    """
    return list(_sources(model))


def _sources(model: nn.Module) -> Iterator[tuple[Source, nn.Module]]:
    inside = {id(part) for _, activation in named_activations(model) for part in activation.modules()}
    for name, module in model.named_modules():
        place = None if module is model or id(module) in inside else _find_place(module)
        if place is not None:
            yield Source(name, *place), module


def _find_place(module: nn.Module) -> tuple[int, int | None] | None:
    """Give the channel dimension of what a module gives, and a width where that is a guess; None for no source."""
    weight = getattr(module, "weight", None)
    if weight is None:
        return _find_place_by_parameters(module)
    if isinstance(module, _ConvNd):
        return -1 - len(module.kernel_size), None
    if isinstance(module, _InstanceNorm):  # It takes an input without a batch, too.
        return -module._get_no_batch_dim(), None  # pyright: ignore[reportPrivateUsage] -- dimensions of such an input
    if isinstance(module, (_NormBase, nn.GroupNorm)):
        return 1, None
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) > 1:
        return None
    if type(module) in (nn.LayerNorm, nn.RMSNorm) or isinstance(module, nn.Linear):  # FSDP flattens a matrix, too.
        return -1, None
    scales = isinstance(weight, Tensor) and not is_lazy(weight) and weight.dim() == 1
    return -1, len(weight) if scales else None


def _find_place_by_parameters(module: nn.Module) -> tuple[int, int | None] | None:
    """Do so for a module whose weights have other names, such as an LSTM or attention."""
    own = list(module.parameters(recurse=False))
    if any(is_lazy(weight) or weight.numel() > max(weight.shape, default=1) for weight in own):
        return -1, None
    # A block may scale what its parts give, after them: it does not tell what comes in.
    widths = set() if any(True for _ in module.children()) else {weight.numel() for weight in own} - {0, 1}
    return (-1, widths.pop()) if len(widths) == 1 else None


def channel_dimension(x: Tensor, given: int | Source | None, name: str) -> int:
    """Give the channel dimension of a pre-activation, 0 up to x.dim() - 1; 0 where x has no dimension.

    Args:
        x: The pre-activation.
        given: A dimension that the user has chosen; or what ran last, whose dimension is the last one where x does not
            have it, as after Flatten, and where it has a width one of that size; or None.
        name: The activation's name, for the message.
    Raises: ModelError: x does not have the dimension that the user has chosen.
    """
    count = x.dim()
    if isinstance(given, int):
        if not -count <= given < count:
            raise ModelError(f"channel_dim={given} for {name!r}, whose input has {count} dimensions")
        return given % count
    usual = 1 if count >= 4 else -1
    if given is not None and given.width is not None:
        places = (usual, -1, *range(count)) if count else ()
        return next((place % count for place in places if x.shape[place] == given.width), max(count - 1, 0))
    dim = usual if given is None else given.dim
    return max(dim % count if -count <= dim < count else count - 1, 0)
