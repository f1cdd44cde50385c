"""The ways through the dispatch that the numeric tests run: one entry for each backend and each kept tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from gem_activations import GemSpec
from gem_activations.kernels import cpu
from gem_activations.torch import activate

from ..tolerances import (
    GRADIENT_FLOOR,
    HALF_ULPS,
    TABLE_GRADIENT_ULPS,
    gradient_from_output_ulps,
    gradient_ulps,
    half_gradient_from_output_ulps,
)
from ..ulps import smallest_normal


@dataclass(frozen=True)
class Route:
    """Keyword arguments of `activate`, and what its results are held to.

    Attributes:
        name: Shown in test ids.
        options: Keyword arguments of `activate`.
        keeps_output: Whether the gradient is taken from the output.
        tabulated: Whether float32 gradients come from tables of polynomials.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    keeps_output: bool = False
    tabulated: bool = False

    def __call__(self, x: Tensor, spec: GemSpec) -> Tensor:
        return activate(x, spec, **self.options)

    def __str__(self) -> str:
        return self.name

    def value_and_gradient(self, x: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
        """Return f(x) and f'(x) through one forward and one backward pass."""
        x = x.detach().clone().requires_grad_()
        y = self(x, spec)
        (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
        return y.detach(), gradient

    def gradient_ulps(self, n: int, dtype: str) -> float:
        """Return the bound of the gradient's error beside `gradient_floor`."""
        if dtype in ("float16", "bfloat16"):
            return half_gradient_from_output_ulps(n) if self.keeps_output else HALF_ULPS
        if self.tabulated and dtype == "float32":
            return TABLE_GRADIENT_ULPS
        return gradient_from_output_ulps(n) if self.keeps_output and dtype == "float64" else gradient_ulps(n)

    def gradient_floor(self, spec: GemSpec, dtype: str) -> float:
        """Return the absolute error that a gradient may have besides: see `GRADIENT_FLOOR`.

        From the output it is the slope where the output turns subnormal: below, the output has too few bits left.
        """
        tiny = smallest_normal(dtype)
        turn = float(spec.derivative(spec.inverse(tiny))) - spec.leak if self.keeps_output else 0.0
        return max(GRADIENT_FLOOR * tiny, turn)


ROUTES = [
    Route("plain-from-input", {"backend": "plain", "save": "input"}),
    Route("plain-from-output", {"backend": "plain", "save": "output"}, keeps_output=True),
    Route("cpu-from-input", {"backend": "cpu", "save": "input"}),
    Route("cpu-from-output", {"backend": "cpu", "save": "output"}, keeps_output=True, tabulated=True),
]


def _parameter(route: Route) -> Any:
    refusal = "" if route.options["backend"] == "plain" else cpu.status().reason
    return pytest.param(route, id=route.name, marks=pytest.mark.skipif(bool(refusal), reason=refusal))


every_route = pytest.mark.parametrize("route", [_parameter(route) for route in ROUTES])
