"""The GEM family as one formula in float64: the oracle that every other implementation is tested against.

An activation of the family is its input times a gate,

    f(x) = x * g(x),    g(x) = leak + (1 - leak) * F(x),
    F(x) = x^(2n) / (x^(2n) + eps) for x > 0, else 0,

where F is the cumulative distribution function of the log-logistic law with shape 2n and scale eps^(1/(2n)).
Source: E. Krause, arXiv:2604.21677 (2026). Two points are our reading of the paper: eps is added to x^(2n), and
SE-GEM floors the gate at `leak`. docs/mathematics.md says why.
"""

import math
import operator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ActivationNameError, SpecError
from .grammar import format_call, parse_call, scale_to_eps, to_exact

MAX_N = 64
MIN_SCALE, MAX_SCALE = 1e-30, 1e30
MIN_LEAK = 1e-30
MAX_P = 1e6
MEMBERS: dict[str, dict[str, float]] = {
    "gem": {"n": 1},
    "egem": {"n": 1, "eps": 1e-4},
    "segem": {"n": 1, "eps": 1e-4, "leak": 0.01},
}

Array = NDArray[np.float64]


class Reduction(NamedTuple):
    """The gate in coordinates where nothing overflows: t = min(x * inverse_scale, limit), F = t^(2n) / (t^(2n) + eps).

    `inverse_scale` is the power of two nearest 1/scale, so that the product is exact; beyond `limit`, 1 - F is less
    than 2^-60 and F rounds to 1.
    """

    inverse_scale: float
    eps: float
    limit: float


@dataclass(frozen=True)
class GemSpec:
    """One activation of the GEM family: its parameters, its values in float64 and its closed-form constants.

    f(x) = x * (leak + (1 - leak) * F(x)), F(x) = x^(2n) / (x^(2n) + eps) for x > 0, else 0.

    Args:
        n: Smoothness order, 1 <= n <= 64; f is C^(2n).
        eps: Width of the transition, added to x^(2n), eps > 0: F is 1/2 at x = eps^(1/(2n)); eps -> 0 gives ReLU
            (LeakyReLU if leak > 0).
        leak: Floor of the gate and slope for x < 0: 0, or at least 1e-30 and below 1. A smaller one is 0 in float32,
            where f(-inf) would be neither 0 nor -inf.
        reduction: Derived, not an argument: the gate's parameters in the coordinates that kernels compute in.
        handle: The spec as the C kernels read it, which they make at their first call and keep here; not an argument.
    Returns: A frozen, hashable value. Called on an array of any shape it returns float64 values of the same shape.
    Raises: SpecError: a parameter is out of its range, or eps^(1/(2n)) lies outside 1e-30 .. 1e30.
    Edge cases: f(+inf) = +inf; f(-inf) is 0 for leak = 0, else -inf; NaN stays NaN; f'(0) = leak; f''(0) = 0.
    Source: Krause 2026, arXiv:2604.21677; https://gem-activations.github.io/gem-activations/mathematics.html.
    Example:
        >>> spec = GemSpec(n=2)
        >>> print(spec, spec.smoothness, spec.lipschitz)
        gem(n=2) 4 1.5625
        >>> spec([-1.0, 0.0, 1.0, 2.0])
        array([0.        , 0.        , 0.5       , 1.88235294])
    """

    n: int = 1
    eps: float = 1.0
    leak: float = 0.0
    reduction: Reduction = field(init=False, repr=False, compare=False)
    handle: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _order(self.n))
        object.__setattr__(self, "eps", _real("eps", self.eps, "a finite number above 0"))
        object.__setattr__(self, "leak", _real("leak", self.leak, "a number from 0 up to, not including, 1"))
        if not 0 < self.eps < math.inf:
            raise SpecError(f"eps={self.eps}: the width of the transition must be a finite number above 0")
        if self.leak and not MIN_LEAK <= self.leak < 1:
            raise SpecError(
                f"leak={self.leak}: the floor of the gate must be a number from 0 up to, not including, 1, "
                f"and 0 rather than below {MIN_LEAK:g}, which vanishes in float32"
            )
        if not MIN_SCALE <= self.scale <= MAX_SCALE:
            raise SpecError(
                f"eps={self.eps} with n={self.n} puts the transition at x = {self.scale:.3g}, "
                f"expected {MIN_SCALE:g} to {MAX_SCALE:g}; choose eps between those bounds to the power {2 * self.n}"
            )
        object.__setattr__(self, "reduction", _reduce(self.n, self.eps))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `gem(n=2)`, `egem(eps=1e-4)`, `segem(n=2, eps=1e-4, leak=0.01)`; defaults n=1, eps=1e-4, leak=0.01.

        `scale=` stands for eps = scale^(2n); the spec is printed with eps.

        Raises: ActivationNameError: not a member of the family; SpecError: a parameter out of range.
        Example:
            >>> GemSpec.parse("segem(n=2)")
            GemSpec(n=2, eps=0.0001, leak=0.01)
        """
        name, arguments = parse_call(text)
        if name not in MEMBERS:
            raise ActivationNameError(f"{name!r} is not of the GEM family; expected one of {', '.join(MEMBERS)}")
        if "eps" in MEMBERS[name]:
            arguments = scale_to_eps(arguments, text)
        unknown = arguments.keys() - MEMBERS[name].keys()
        if unknown:
            raise ActivationNameError(f"{text!r}: {name} takes {', '.join(MEMBERS[name])}, not {', '.join(unknown)}")
        return cls(**{**MEMBERS[name], **arguments})  # pyright: ignore[reportArgumentType]

    @classmethod
    def from_scale(cls, n: int, scale: float, leak: float = 0.0) -> Self:
        """Return the member whose gate is 1/2 (for leak = 0) at x = scale: eps = scale^(2n).

        The power is that of the decimal which scale stands for, rounded once: 0.1 with n = 1 gives 0.01.

        Raises: SpecError: scale is not a finite number above 0, or out of the range of eps.
        Example:
            >>> GemSpec.from_scale(2, 0.1).scale, GemSpec.from_scale(1, 0.1).eps
            (0.1, 0.01)
        """
        scale = _real("scale", scale, "a finite number above 0")
        if not 0 < scale < math.inf:
            raise SpecError(f"scale={scale}: expected a finite number above 0")
        try:
            eps = float(to_exact(scale) ** (2 * _order(n)))
        except OverflowError:
            eps = math.inf
        if not 0 < eps < math.inf:
            raise SpecError(f"scale={scale}: eps = scale^{2 * n} leaves the range of float64; bring scale nearer to 1")
        return cls(n=n, eps=eps, leak=leak)

    @classmethod
    def of(
        cls, n: int, eps: float | None, leak: float = 0.0, scale: float | None = None, *, default: float = 1e-4
    ) -> Self:
        """Return the member that a caller describes by eps or by scale, the two readings of the paper.

        Args:
            n, leak: As for GemSpec.
            eps: Added to x^(2n); None if it is not given.
            scale: The input at which the gate is 1/2, as in `from_scale`; None if it is not given.
            default: The eps if neither is given.
        Raises: SpecError: both are given, or a parameter is out of its range.
        Example:
            >>> GemSpec.of(2, None, scale=0.1) == GemSpec.of(2, 1e-4) == GemSpec.of(2, None)
            True
        """
        if scale is None:
            return cls(n, default if eps is None else eps, leak)
        if eps is not None:
            raise SpecError(
                f"eps={eps} and scale={scale}: give one of them; scale is the input at which the gate is 1/2, and "
                "eps = scale^(2n)"
            )
        return cls.from_scale(n, scale, leak)

    @classmethod
    def from_distance(cls, n: int, distance: float, p: float = math.inf) -> Self:
        """Return the member with leak 0 whose L^p distance to ReLU is `distance`.

        Raises: SpecError: distance is not a finite number above 0, p < 1, or the distance does not exist.
        Example:
            >>> spec = GemSpec.from_distance(1, 0.005)
            >>> print(spec, spec.distance_to_relu())
            egem(eps=1e-4) 0.005
        """
        distance = _real("distance", distance, "a finite number above 0")
        if not 0 < distance < math.inf:
            raise SpecError(f"distance={distance}: expected a finite number above 0")
        ratio = distance / _unit_distance(_order(n), p)
        return cls.from_scale(n, ratio if p == math.inf else ratio ** (p / (p + 1)))

    @property
    def scale(self) -> float:
        """The input a = eps^(1/(2n)) at which F is 1/2, in units of x."""
        return self.eps ** (1 / (2 * self.n))

    @property
    def smoothness(self) -> int:
        """The largest k with f in C^k on the real line: 2n. The next derivative jumps at 0."""
        return 2 * self.n

    @property
    def lipschitz(self) -> float:
        """sup |f'| = leak + (1 - leak) (2n+1)^2 / (8n), taken where F = (2n+1)/(4n)."""
        return self.leak + (1 - self.leak) * (2 * self.n + 1) ** 2 / (8 * self.n)

    @property
    def sup_second_derivative(self) -> float:
        """sup |f''|, the Lipschitz constant of the gradient, in units of 1/x; it grows as 1/scale."""
        # With x = a (F/(1-F))^s, f'' is a function of F alone; its two stationary points solve a quadratic in F.
        s = 1 / (2 * self.n)
        offset = math.sqrt((2 * self.n**2 + 1) / 24) / self.n
        roots = np.array([0.5 - offset, 0.5 + offset])
        values = (1 + 2 * self.n - 4 * self.n * roots) * roots ** (1 - s) * (1 - roots) ** (1 + s)
        return float((1 - self.leak) * 2 * self.n / self.scale * np.abs(values).max())

    def distance_to_relu(self, p: float = math.inf) -> float:
        """Return the L^p norm of f - ReLU over the real line.

        Args:
            p: p >= 1, or inf for the supremum.
        Raises: SpecError: p < 1; or the norm is infinite, which the message explains: leak > 0, or p (2n - 1) <= 1.
        Example:
            >>> GemSpec(n=1).distance_to_relu()
            0.5
        """
        if self.leak > 0:
            raise SpecError(
                f"leak={self.leak}: the distance to ReLU is infinite, f(x) - ReLU(x) = leak x has no bound for x < 0; "
                "it exists for leak = 0"
            )
        unit = _unit_distance(self.n, p)
        return unit * (self.scale if p == math.inf else self.scale ** ((p + 1) / p))

    def __reduce__(self) -> tuple[type[Self], tuple[int, float, float]]:
        """Pickle the parameters alone: what derives from them is derived anew when they are read."""
        return type(self), (self.n, self.eps, self.leak)

    def __call__(self, x: ArrayLike) -> Array:
        """Return f(x) in float64, in the shape of x. Raises: SpecError: x is no array of real numbers."""
        x = _array(x)
        return self.gate(x) * (x if self.leak else np.maximum(x, 0.0))

    def gate(self, x: ArrayLike) -> Array:
        """Return g(x) = leak + (1 - leak) F(x) in float64; leak at -inf, 1 at +inf, NaN at NaN."""
        gate, _ = self._gates(_array(x))
        return self.leak + (1 - self.leak) * gate

    def derivative(self, x: ArrayLike) -> Array:
        """Return f'(x) in float64; leak for x <= 0, 1 at +inf, NaN at NaN."""
        gate, one_minus_gate = self._gates(_array(x))
        return self.leak + (1 - self.leak) * gate * (1 + 2 * self.n * one_minus_gate)

    def second_derivative(self, x: ArrayLike) -> Array:
        """Return f''(x) in float64; 0 for x <= 0 and at +inf, NaN at NaN."""
        x = _array(x)
        gate, one_minus_gate = self._gates(x)
        inverse_scale, eps, _ = self.reduction
        positive = np.maximum(x, 0.0)
        with np.errstate(all="ignore"):
            t = np.minimum(positive * inverse_scale, 1.0)
            near = t ** (2 * self.n - 1) / (t ** (2 * self.n) + eps) * inverse_scale
            gate_over_x = np.where(positive * inverse_scale > 1, gate / positive, near)
        return (1 - self.leak) * 2 * self.n * gate_over_x * one_minus_gate * (1 + 2 * self.n - 4 * self.n * gate)

    def inverse(self, y: ArrayLike) -> Array:
        """Return the x >= 0 with f(x) = y (any x if leak > 0) in float64.

        Edge cases: 0 at 0 and inf at inf; for leak = 0, y < 0 is outside the range of f and gives NaN.
        Example:
            >>> GemSpec().inverse([0.0, 0.5, 8 / 5])
            array([0., 1., 2.])
        """
        y = _array(y)
        with np.errstate(over="ignore"):
            below = y / self.leak if self.leak else np.where(y < 0, np.nan, y)
        solvable = (y > 0) & np.isfinite(y)
        return np.where(solvable, self._solve(np.where(solvable, y, 1.0)), below)

    def __str__(self) -> str:
        """Write the spec in the string grammar; `GemSpec.parse` reads it back."""
        name = "segem" if self.leak else "egem" if self.eps != 1 else "gem"
        values = {"n": self.n, "eps": self.eps, "leak": self.leak}
        return format_call(name, {key: values[key] for key in MEMBERS[name] if (key, values[key]) != ("n", 1)})

    def _gates(self, x: Array) -> tuple[Array, Array]:
        """Return F and 1 - F, each to a few ulp wherever it is a normal number."""
        inverse_scale, eps, _ = self.reduction
        with np.errstate(all="ignore"):
            power = (np.maximum(x, 0.0) * inverse_scale) ** (2 * self.n)
            return 1 / (1 + eps / power), 1 / (1 + power / eps)

    def _solve(self, y: Array) -> Array:
        """Solve f(x) = y > 0 by Newton's method on log f over log x, kept inside a bracket.

        Where leak > 0 the slope of log f over log x has a hump and Newton's method can run in a cycle: a step must
        halve the one before, else the bracket is halved.
        """
        with np.errstate(all="ignore"):
            low, high = y, y / (1 - self.leak)
            high = high + self.scale * (high / self.scale) ** (1 / (2 * self.n + 1))
            high = np.minimum(high, y / self.leak) if self.leak else high
            high = np.minimum(high, np.finfo(np.float64).max)
            x, last, done = high, np.full_like(high, np.inf), np.zeros_like(high, dtype=bool)
            for _ in range(100):
                value = self(x)
                low, high = np.where(value < y, x, low), np.where(value > y, x, high)
                following = x * (y / value) ** (value / (x * self.derivative(x)))
                step = np.abs(following - x)
                converges = (following >= low) & (following <= high) & (step <= np.maximum(last / 2, 1e-12 * x))
                following = np.where(converges, following, np.sqrt(low) * np.sqrt(high))
                last = np.abs(following - x)
                x = np.where(done | (value == y), x, following)
                # Convergence is quadratic: after a step of 1e-10 the error is below rounding, and x stays as it is.
                done = done | (value == y) | (converges & (last <= 1e-10 * x))
                if np.all(done):
                    break
        return x


def _reduce(n: int, eps: float) -> Reduction:
    exponent = round(math.log2(eps) / (2 * n))
    reduced = math.ldexp(eps, -2 * n * exponent)
    return Reduction(math.ldexp(1.0, -exponent), reduced, (reduced * 2.0**60) ** (1 / (2 * n)))


def _unit_distance(n: int, p: float) -> float:
    """Return the L^p distance to ReLU of the member with scale 1 and leak 0."""
    p = _real("p", p, "a number from 1 to inf")
    if not p >= 1:
        raise SpecError(f"p={p}: an L^p norm needs p from 1 to inf")
    if p == math.inf:
        return (2 * n - 1) ** (1 - 1 / (2 * n)) / (2 * n)
    if p * (2 * n - 1) <= 1:
        raise SpecError(
            f"n={n}, p={p:g}: the L^p distance to ReLU is infinite; it exists if p (2n - 1) > 1. Choose a larger p or n"
        )
    first = (p + 1) / (2 * n)
    if p > MAX_P:
        raise SpecError(f"p={p:g}: expected p up to {MAX_P:g}, or inf for the supremum")
    log_beta = math.lgamma(first) + math.lgamma(p - first) - math.lgamma(p)
    return math.exp((log_beta - math.log(2 * n)) / p)


def _order(n: SupportsIndex) -> int:
    try:
        order = 0 if isinstance(n, bool) else operator.index(n)
    except TypeError:
        order = 0
    if not 1 <= order <= MAX_N:
        raise SpecError(f"n={n}: the smoothness order must be a whole number from 1 to {MAX_N}")
    return order


def _real(name: str, value: SupportsFloat, expected: str) -> float:
    if isinstance(value, (bool, str, bytes, complex, np.complexfloating)) or not hasattr(value, "__float__"):
        raise SpecError(f"{name}={value!r}: expected {expected}")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise SpecError(f"{name}={value!r}: expected {expected}") from None


def _array(x: ArrayLike) -> Array:
    try:
        array = np.asarray(x)
        if array.dtype.kind in "biuf":
            return array.astype(np.float64)
    except (TypeError, ValueError):
        pass
    raise SpecError("the input of a GemSpec must be an array of real numbers")
