"""Where an activation is flat, so that a unit that stays there is asleep, and where its gate opens.

A unit is called active at an input where |f'| exceeds `FLAT_SLOPE`; functions with a constant piece (ReLU, GEM with
leak 0, Hardtanh) are taken as flat on that piece alone.
"""

import importlib
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Literal, NamedTuple

import numpy as np
from torch import nn

from ... import catalog
from ...errors import GemError
from ...grammar import to_exact
from ...spec import GemSpec
from ..inventory import describe

FLAT_SLOPE = 1e-6
GATE_CLOSED, GATE_OPEN = 0.01, 0.99

# Classes of transformers and timm that compute a function of the catalog, up to rounding.
_SAME = {
    "GELU": "gelu",
    "HardSigmoid": "hardsigmoid",
    "HardSwish": "hardswish",
    "Mish": "mish",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "GELUActivation": "gelu",
    "AccurateGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "SiLUActivation": "silu",
    "Swish": "silu",
    "MishActivation": "mish",
    "ReLUSquaredActivation": "relu2",
}
# The functions that these hold as they come.
_HELD = (nn.functional.gelu, nn.functional.mish)
_LEFT_TAIL = {
    *("gelu", "gelu_tanh", "silu", "mish", "telu", "golu"),
    *("elu", "celu", "selu", "softplus", "isrlu", "squareplus"),
}
_BOTH_TAILS = {"sigmoid", "tanh", "softsign"}
_STEPS = {"relu", "leaky_relu", "prelu", "rrelu"}
_GATES = {"gelu", "gelu_tanh", "silu", "mish", "hardswish", "telu", "golu"}


class Flat(NamedTuple):
    """The inputs at which an activation is flat.

    Attributes:
        where: "below": x <= low. "above": x >= high. "outside": either. "inside": low <= x <= high. "nowhere".
        low, high: The bounds, in units of x.
    """

    where: Literal["below", "above", "outside", "inside", "nowhere"]
    low: float = -math.inf
    high: float = math.inf


class Reading(NamedTuple):
    """What the monitor has to know of an activation.

    Attributes:
        activation: Its string in the catalog, or its class where it has none.
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
        Reading(activation='relu', scale=None, flat=Flat(where='below', low=0.0, high=inf), gate=(0.0, 0.0))
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
    return Reading(str(activation), spec.scale if spec else None, find_flat(activation), _find_gate(activation))


def recognise(module: nn.Module) -> catalog.Activation | None:
    """Give the activation of the catalog that a module computes, with its parameters; None where there is none.

    A learnt slope (PReLU) is given by the catalog's default.

    Example:
        >>> print(recognise(nn.ELU(alpha=0.5)), recognise(nn.GELU("tanh")), recognise(nn.Threshold(1, 0)))
        elu(alpha=0.5) gelu_tanh None
    """
    spec = getattr(module, "spec", None)
    if isinstance(spec, GemSpec):
        return _recognise_spec(spec)
    kind = type(module)
    if kind.__name__ in _SAME and kind.__module__.startswith(("transformers.", "timm.")):
        return _recognise_foreign(module)
    for entry in _entries_by_class().get(kind, ()):
        # nn.GELU has two entries: the fixed arguments tell them apart.
        fixed = {"approximate": "none", **entry.fixed}
        if all(getattr(module, key, value) == value for key, value in fixed.items()):
            return _with_parameters(entry, module)
    return None


@cache
def _recognise_spec(spec: GemSpec) -> catalog.Activation:
    return catalog.parse(str(spec))


@cache
def _entries_by_class() -> dict[type, list[catalog.Entry]]:
    found: dict[type, list[catalog.Entry]] = {}
    for entry in catalog.ENTRIES.values():
        home, _, name = entry.torch.rpartition(".")
        found.setdefault(getattr(importlib.import_module(home), name), []).append(entry)
    return found


def _recognise_foreign(module: nn.Module) -> catalog.Activation | None:
    """Give what a class of transformers or timm computes, unless its function was replaced by one that is not known.

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
    found = {key: getattr(module, key, default) for key, default in entry.defaults.items()}
    try:
        catalog.check(entry.name, found)
        # A default that is no finite decimal, such as 1/3, stays what it is.
        exact = {key: value if float(value) == found[key] else found[key] for key, value in entry.defaults.items()}
        return catalog.Activation(entry.name, tuple((key, to_exact(value)) for key, value in exact.items()))
    except GemError:
        return None  # torch takes parameters, such as a negative alpha, that the catalog does not.


@cache
def find_flat(activation: catalog.Activation) -> Flat:
    """Tell at which inputs an activation of the catalog is flat.

    Example:
        >>> find_flat(catalog.parse("hardtanh")), find_flat(catalog.parse("segem"))
        (Flat(where='outside', low=-1.0, high=1.0), Flat(where='nowhere', low=-inf, high=inf))
    """
    name, given = activation.name, {key: float(value) for key, value in activation.parameters.items()}
    spec = activation.spec
    if spec is not None:
        return Flat("nowhere") if spec.leak else Flat("below", 0.0)
    exact = {
        "relu": lambda: Flat("below", 0.0),
        "relu2": lambda: Flat("below", 0.0),
        "leaky_relu": lambda: Flat("nowhere") if given["negative_slope"] else Flat("below", 0.0),
        "smelu": lambda: Flat("below", -given["beta"]),
        "hardswish": lambda: Flat("below", -3.0),
        "relu6": lambda: Flat("outside", 0.0, 6.0),
        "hardsigmoid": lambda: Flat("outside", -3.0, 3.0),
        "hardtanh": lambda: Flat("outside", given["min_val"], given["max_val"]),
        "hardshrink": lambda: Flat("inside", -given["lambd"], given["lambd"]),
        "softshrink": lambda: Flat("inside", -given["lambd"], given["lambd"]),
    }
    if name in exact:
        return exact[name]()
    if name in _LEFT_TAIL:
        return Flat("below", _tail(activation, -1))
    if name in _BOTH_TAILS:
        return Flat("outside", _tail(activation, -1), _tail(activation, 1))
    return Flat("above", high=_tail(activation, 1)) if name == "logsigmoid" else Flat("nowhere")


def _tail(activation: catalog.Activation, side: int) -> float:
    """Give the x from which on, outwards, the slope is at most FLAT_SLOPE in absolute value."""

    def is_flat(distance: float) -> bool:
        x = side * distance
        low, high = activation([x * (1 - 1e-4), x * (1 + 1e-4)])
        return bool(abs(high - low) <= FLAT_SLOPE * 2e-4 * distance)

    awake = next((2.0**k for k in range(100, -100, -1) if not is_flat(2.0**k)), 2.0**-100)
    return side * _bisect(is_flat, awake, 2 * awake)


@cache
def _find_gate(activation: catalog.Activation) -> tuple[float, float] | None:
    spec = activation.spec
    if spec is not None:
        closed, opened = ((share / (1 - share)) ** (1 / (2 * spec.n)) for share in (GATE_CLOSED, GATE_OPEN))
        return closed * spec.scale, opened * spec.scale
    if activation.name in _STEPS:
        return 0.0, 0.0
    if activation.name not in _GATES:
        return None

    def opens_at(share: float) -> float:
        # The ends are unequal so that x = 0, where f(x) / x is not defined, is not met.
        return _bisect(lambda x: bool(activation(x) / np.float64(x) > share), -1e3, 1.1e3)

    return opens_at(GATE_CLOSED), opens_at(GATE_OPEN)


def _bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Give where a condition that fails at `low` and holds at `high` begins to hold."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
