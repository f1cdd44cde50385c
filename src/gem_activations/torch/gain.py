"""The gain of an activation: 1 / sqrt(E f(z)^2) for a standard normal z."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .. import catalog
from ..errors import SpecError
from .inventory import Choice, as_activation

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_REACH = 38.5  # Beyond, the normal density is 0 in float64.
_TOLERANCE = 1e-14
GAIN_ERROR = 1e-12
"""The largest relative error of a gain. Quadrature is no proof: `gem-act certify` encloses the gains it can prove."""
_ROUNDS = 60


def calculate_gain(activation: Choice) -> float:
    """Return the factor that keeps E f(x)^2 at 1 from layer to layer: 1 / sqrt(E f(z)^2), z standard normal.

    Weights drawn with standard deviation gain / sqrt(fan_in) keep the mean square of the pre-activations at 1. It is
    computed from the catalog's formula by adaptive quadrature, to a relative error of at most 1e-12, whether or not a
    certificate proves it.

    Args:
        activation: A string such as `gelu` or `egem(eps=10)`, what `catalog.parse` gives, or a GemSpec.
    Returns: The gain, a number above 0. RReLU is taken in evaluation form, PReLU and StarReLU as they begin.
    Raises: ActivationNameError, SpecError: no activation, or one whose mean square is 0 or infinite in float64.
    Edge cases: `torch.nn.init.calculate_gain` gives rules of thumb for tanh (5/3), SELU (3/4) and sigmoid (1); the
        definition gives 1.593, 1 and 1.846.
    Example:
        >>> round(calculate_gain("relu"), 12), round(calculate_gain("egem(eps=10)"), 6)
        (1.414213562373, 5.827866)
    """
    return _gain(as_activation(activation))


def calculate_chi(activation: Choice) -> float:
    """Return the factor by which the mean square of a gradient changes in a layer drawn by the gain: E f'^2 / E f^2.

    The expectations are over a standard normal input. By quadrature, to a relative error of at most 1e-12.

    Args:
        activation: A member of the family, as for `calculate_gain`.
    Raises: SpecError: another activation, or one whose mean square is 0 in float64.
    Example:
        >>> round(calculate_chi("gem"), 4), round(calculate_chi("egem(eps=1e-4)"), 4)
        (1.2693, 1.0031)
    """
    spec = as_activation(activation).spec
    if spec is None:
        raise SpecError(f"{activation}: chi is given for members of the family; `gem-act certify` proves it for others")
    with np.errstate(all="ignore"):
        slope = _integrate(lambda z: spec.derivative(z) ** 2 * np.exp(-z * z / 2), [spec.scale])
    return slope / math.sqrt(2 * math.pi) * _gain(as_activation(spec)) ** 2


@lru_cache(maxsize=256)
def _gain(activation: catalog.Activation) -> float:
    # Where a piece of the catalog ends elsewhere than at a half number, a parameter says where.
    kinks = [float(value) for value in activation.parameters.values()]
    with np.errstate(all="ignore"):
        square = _integrate(lambda z: activation(z) ** 2 * np.exp(-z * z / 2), kinks) / math.sqrt(2 * math.pi)
    if not 0 < square < math.inf:
        raise SpecError(f"{activation}: the mean square of f is {square:g} in float64, so that there is no gain")
    return square**-0.5


def _integrate(integrand: Callable[[Array], Array], kinks: list[float]) -> float:
    """Integrate over the real line by Gauss-Legendre panels, halved until both halves agree with the whole.

    The first panels shrink towards 0, where the transitions of the catalog are, and end at each of `kinks` and its
    negative: a kink between a panel's end and its first node would be seen by neither the panel nor its halves.
    """
    near = np.ldexp(1.0, np.arange(-60, 0))
    inside = [abs(kink) for kink in kinks if abs(kink) < _REACH]
    edges = np.concatenate([near, np.arange(1, 2 * _REACH) / 2, inside, [_REACH]])
    edges = np.unique(np.concatenate([-edges, [0.0], edges]))
    low, high = edges[:-1], edges[1:]
    done = 0.0
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        left, right = _panels(integrand, low, middle), _panels(integrand, middle, high)
        total = done + float((left + right).sum())
        if not math.isfinite(total):
            return total
        rest = np.abs(left + right - _panels(integrand, low, high)) > _TOLERANCE * total
        if not rest.any():
            return total
        done += float((left + right)[~rest].sum())
        low, high = np.concatenate([low[rest], middle[rest]]), np.concatenate([middle[rest], high[rest]])
    # What is left beside a jump is as narrow as rounding.
    return done + float(_panels(integrand, low, high).sum())


def _panels(integrand: Callable[[Array], Array], low: Array, high: Array) -> Array:
    half = (high - low) / 2
    points = low[:, None] + half[:, None] * (1 + _NODES)
    return half * (integrand(points) @ _WEIGHTS)
