"""What a dead unit is, and which activation of the catalog a module computes.

A unit is dead in a batch if every one of its pre-activations lies where the activation is flat: where it is constant
(ReLU, GEM with leak 0, Hardtanh), or, if it is constant nowhere (GELU, sigmoid), in a tail in which |f'| is at most
1e-6. The catalog says where that is (`Activation.flat`); the monitor and the lab both ask `is_dead`.
"""

import importlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ... import catalog
from ...catalog import Flat
from ...errors import GemError
from ...grammar import to_exact
from ...spec import GemSpec
from ..inventory import describe, own_class

_WIDE = 64  # Columns from which on a reduction over rows is fast on a CPU.

# Classes of transformers and timm that compute a function of the catalog, up to rounding.
_SAME = {
    **dict.fromkeys(["GELU", "GELUActivation"], "gelu"),
    **dict.fromkeys(["AccurateGELUActivation", "FastGELUActivation", "GELUTanh", "NewGELUActivation"], "gelu_tanh"),
    **dict.fromkeys(["SiLUActivation", "Swish"], "silu"),
    **dict.fromkeys(["Mish", "MishActivation"], "mish"),
    **dict.fromkeys(["QuickGELU", "QuickGELUActivation"], "quick_gelu"),
    **{"HardSigmoid": "hardsigmoid", "HardSwish": "hardswish", "Sigmoid": "sigmoid", "Tanh": "tanh"},
    "ReLUSquaredActivation": "relu2",
}
# The functions that these hold as they come.
_HELD = (nn.functional.gelu, nn.functional.mish)


class Reading(NamedTuple):
    """What the monitor has to know of an activation.

    Attributes:
        activation: Its string in the catalog, or its class if it has none.
        scale: The scale a of a member of the family, in units of x; None for every other activation.
        flat: Where it is flat; None for an activation that is not in the catalog.
        gate: The inputs below which the gate is below 1 % and above which it is above 99 % of its range; None for an
            activation that is no input times a gate that rises from its floor to 1.
    """

    activation: str
    scale: float | None
    flat: Flat | None
    gate: tuple[float, float] | None


def read_activation(module: nn.Module) -> Reading:
    """Tell where the function of an activation module is flat and where its gate opens.

    Example:
        >>> read_activation(nn.ReLU())
        Reading(activation='relu', scale=None, flat=Flat(kind='below', low=0.0, high=inf), gate=(0.0, 0.0))
        >>> read_activation(nn.LogSoftmax(-1)).flat is None
        True
    """
    activation = recognise(module)
    if activation is None:
        inside = ", ".join(describe(part) for part in module.children())
        return Reading(f"{type(module).__name__}({inside})" if inside else describe(module), None, None, None)
    return _read(activation)


@cache
def _read(activation: catalog.Activation) -> Reading:
    spec = activation.spec
    return Reading(str(activation), spec.scale if spec else None, activation.flat, activation.gate_bounds)


def recognise(module: nn.Module) -> catalog.Activation | None:
    """Return the activation of the catalog that a module computes, with its parameters; None if there is none.

    Learnt numbers (PReLU, StarReLU) are given by the catalog's defaults.

    Example:
        >>> print(recognise(nn.ELU(alpha=0.5)), recognise(nn.GELU("tanh")), recognise(nn.Threshold(1, 0)))
        elu(alpha=0.5) gelu_tanh None
    """
    spec = getattr(module, "spec", None)
    if isinstance(spec, GemSpec):
        return catalog.parse(str(spec))
    kind = own_class(module)
    if kind.__name__ in _SAME and kind.__module__.startswith(("transformers.", "timm.")):
        return _recognise_foreign(module)
    for entry in _entries_by_class().get(kind, ()):
        # nn.GELU has two entries: the fixed arguments tell them apart.
        fixed = {"approximate": "none", **entry.fixed}
        if all(getattr(module, key, value) == value for key, value in fixed.items()):
            return _with_parameters(entry, module)
    return None


@cache
def _entries_by_class() -> dict[type, list[catalog.Entry]]:
    found: dict[type, list[catalog.Entry]] = {}
    for entry in catalog.ENTRIES.values():
        home, _, name = entry.torch.rpartition(".")
        found.setdefault(getattr(importlib.import_module(home), name), []).append(entry)
    return found


def _recognise_foreign(module: nn.Module) -> catalog.Activation | None:
    """Return what a class of transformers or timm computes, unless its function was replaced by one that is not known.

    Some of these classes call what they hold as `act`: a function, a method of their own, or a module that `swap` has
    put there.
    """
    held = getattr(module, "act", None)
    if isinstance(held, nn.Module):
        return recognise(held) if "forward" not in vars(module) else None
    if any(True for _ in module.children()):
        return None  # Its forward was rewritten to call them.
    function = held.func if isinstance(held, partial) else held
    known = function is None or function in _HELD or getattr(function, "__self__", None) is module
    return catalog.parse(_SAME[type(module).__name__]) if known else None


def _with_parameters(entry: catalog.Entry, module: nn.Module) -> catalog.Activation | None:
    found: dict[str, Any] = {}
    for key, default in entry.defaults.items():
        value = getattr(module, key, default)
        found[key] = default if isinstance(value, Tensor) else value
    try:
        catalog.check(entry.name, found)
        # A default that is no finite decimal, such as 1/3, stays what it is.
        exact = {key: value if float(value) == found[key] else found[key] for key, value in entry.defaults.items()}
        return catalog.Activation(entry.name, tuple((key, to_exact(value)) for key, value in exact.items()))
    except GemError:
        return None  # torch takes parameters, such as a negative alpha, that the catalog does not.


def is_dead(x: Tensor, dim: int, flat: catalog.Flat) -> Tensor:
    """Tell of each unit whether every element of it lies where the activation is flat; NaN does not.

    Args:
        x: A floating tensor with at least one element.
        dim: The channel dimension, 0 up to x.dim() - 1; ignored if x has none.
        flat: Where the activation is flat.
    Returns: bool, (units,).
    Example:
        >>> is_dead(torch.tensor([[-1.0, 2.0], [-3.0, -1.0]]), 1, catalog.parse("relu").flat)
        tensor([ True, False])
    """
    if flat.kind == "below":
        return reduce_units(x, dim, torch.amax) <= flat.low
    if flat.kind == "above":
        return reduce_units(x, dim, torch.amin) >= flat.high
    # Comparisons alone: x - 3 rounds to 3 at small x, and ReLU6 has a slope there.
    inside = (x >= flat.low) & (x <= flat.high) if flat.kind == "inside" else (x <= flat.low) | (x >= flat.high)
    return reduce_units(inside, dim, torch.amin)


def reduce_units(x: Tensor, dim: int, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduce all dimensions but one, to (x.shape[dim],), by torch.amax or amin, in the order that suits the layout."""
    if x.dim() == 0:
        return x.reshape(1)
    if x.dim() == 2:
        return reduce(x, 1 - dim)
    units, last = x.shape[dim], x.movedim(dim, -1)
    if dim < x.dim() - 1 and not last.is_contiguous():
        return reduce(reduce(x.flatten(dim + 1), -1).reshape(-1, units), 0)
    if units < _WIDE and x.dim() > 1:
        # Rows of a few numbers are slow: the first dimension goes first, in rows of all that is in it.
        last = reduce(last.reshape(last.shape[0], -1), 0)
    return reduce(last.reshape(-1, units), 0)
