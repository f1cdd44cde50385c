"""The curves f, f' and f'' of an activation, sampled for a plot."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...catalog import Activation

Array = NDArray[np.float64]

REACH = 3.0
_STEP = 1e-4
_TOLERANCE = 1e-3


class Shape(NamedTuple):
    """An activation on a grid: x, f(x), f'(x), f''(x), each of shape (points,), float64."""

    x: Array
    value: Array
    first: Array
    second: Array


def sample_shape(activation: Activation, *, points: int = 800) -> Shape:
    """Sample an activation and its first two derivatives on [-3, 3].

    Members of the family have their closed forms. All others have central differences of the float64 reference with
    the step 1e-4: f' is within 1e-8 and f'' within 1e-6 of the analytic derivative where f is smooth. Where f has a
    kink or a jump, the differences depend on the step; there the derivative is NaN, so that no line is drawn.

    Args:
        activation: An activation of the catalog.
        points: Number of grid points; an even one leaves 0, where many activations have a kink, off the grid. The
            grid is dense around 0, where a member of small eps bends.
    Example:
        >>> from gem_activations.catalog import parse
        >>> shape = sample_shape(parse("gelu"))
        >>> print(shape.x.shape, f"{shape.first.max():.4f}")
        (800,) 1.1289
    """
    x = REACH * np.linspace(-1, 1, points) ** 3
    spec = activation.spec
    if spec is not None:
        return Shape(x, spec(x), spec.derivative(x), spec.second_derivative(x))
    first, second = _differences(activation, x, _STEP)
    first_half, second_half = _differences(activation, x, _STEP / 2)
    # On a kink itself the central slope is the mean of both sides for every step: there the sides disagree.
    first = np.where(np.abs(second) * _STEP > _TOLERANCE, np.nan, first)
    return Shape(x, activation(x), _settled(first, first_half), _settled(second, second_half))


def _differences(activation: Activation, x: Array, step: float) -> tuple[Array, Array]:
    below, value, above = activation(x - step), activation(x), activation(x + step)
    return (above - below) / (2 * step), (above - 2 * value + below) / step**2


def _settled(values: Array, at_half_step: Array) -> Array:
    return np.where(np.abs(values - at_half_step) > _TOLERANCE * (1 + np.abs(values)), np.nan, values)
