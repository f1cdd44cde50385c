"""ONE table of every activation the project compares: name, formula, float64 reference, citation, torch module.

The tests, the documentation, the command line, the benchmarks and the lab all read this table. It loads no framework:
`torch` names the module that `gem_activations.torch.make_activation` imports.
"""

import difflib
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import ActivationNameError, SpecError
from .grammar import Number, format_call, parse_call, quote, scale_to_eps, to_exact
from .spec import MEMBERS, GemSpec

__all__ = ["ALIASES", "ENTRIES", "Activation", "Entry", "Flat", "check", "find_name", "parse", "parse_printed"]

Array = NDArray[np.float64]

_GEM = "E. Krause, arXiv:2604.21677, 2026"
FLAT_SLOPE = 1e-6
"""The largest |f'| in a tail that counts as flat."""
GATE_CLOSED, GATE_OPEN = 0.01, 0.99
"""The shares of its range at which a gate counts as closed, and as open."""
_LEE = "M. Lee, arXiv:2305.12073, 2023 (one of its twenty)"


class Flat(NamedTuple):
    """The inputs at which an activation is flat, so that a unit that stays there is dead.

    Attributes:
        kind: "below": x <= low. "above": x >= high. "outside": either. "inside": low <= x <= high. "nowhere".
        low, high: The bounds, in units of x.
    """

    kind: Literal["below", "above", "outside", "inside", "nowhere"]
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Entry:
    """One row of the catalog: an activation before its parameters are chosen.

    Attributes:
        name: Lower-case name in the string grammar.
        title: Name as the literature writes it.
        formula: The function in ASCII, with its parameters by name.
        reference: (x, **parameters) -> f(x), float64 arrays, the definition that tests compare with.
        citation: Where the function, or the form used here, comes from.
        torch: Dotted path of the torch module class.
        defaults: The parameters that the grammar accepts, with their defaults.
        fixed: Further keyword arguments of the torch class, which the grammar does not offer.
        group: "family", "baseline", "lee" (the other activations of Lee's comparison) or "other".
        flat: (**parameters) -> where the function is constant; None: nowhere, so that it is flat in its tails at most,
            which `Activation.flat` finds from the reference.
        gate: "smooth" if f(x) = x g(x) with a gate g that rises from its floor to its ceiling, "step" if it does so at
            0, None if there is no such gate.
    """

    name: str
    title: str
    formula: str
    reference: Callable[..., Array]
    citation: str
    torch: str
    group: str
    defaults: Mapping[str, Number | float] = field(default_factory=dict[str, Number | float])
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    flat: Callable[..., Flat] | None = None
    gate: Literal["smooth", "step"] | None = None


@dataclass(frozen=True)
class Activation:
    """An entry of the catalog with its parameters chosen; equal strings are equal activations.

    Called on an array it gives the reference value in float64.

    Args:
        name: A name of the catalog.
        arguments: (key, exact value) of every parameter of the entry, in the entry's order. Use `parse`.
    Example:
        >>> activation = parse("egem(n=2)")
        >>> print(activation, activation.spec)
        egem(n=2, eps=1e-4) egem(n=2, eps=1e-4)
    """

    name: str
    arguments: tuple[tuple[str, Number], ...] = ()

    @property
    def entry(self) -> Entry:
        """The row of the catalog."""
        return ENTRIES[self.name]

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters as Python numbers: whole ones below 2^53 as int, others as float."""
        # A larger int fits neither an array's nor a tensor's integer type.
        return {
            key: value if isinstance(value, int) and abs(value) < 2**53 else float(value)
            for key, value in self.arguments
        }

    @property
    def spec(self) -> GemSpec | None:
        """The GemSpec of a member of the family, None for every other activation."""
        return GemSpec(**self.parameters) if self.name in MEMBERS else None  # pyright: ignore[reportArgumentType]

    @property
    def flat(self) -> Flat:
        """Where the function is constant; if nowhere, the tails in which its slope is at most `FLAT_SLOPE`."""
        if self.entry.flat is not None:
            return self.entry.flat(**self.parameters)
        low, high = self._find_tail(-1), self._find_tail(1)
        if low is None:
            return Flat("nowhere") if high is None else Flat("above", high=high)
        return Flat("below", low) if high is None else Flat("outside", low, high)

    def _find_tail(self, side: int) -> float | None:
        """Return the x from which on, outwards, the slope is at most FLAT_SLOPE; None if it is not in the end."""

        def is_flat(distance: float) -> bool:
            x = side * distance
            low, high = self([x * (1 - 1e-4), x * (1 + 1e-4)])
            return bool(abs(high - low) <= FLAT_SLOPE * 2e-4 * distance)

        with np.errstate(all="ignore"):
            steep = next((2.0**k for k in range(100, -100, -1) if not is_flat(2.0**k)), 2.0**-100)
            return None if steep == 2.0**100 else side * _bisect(is_flat, steep, 2 * steep)

    @property
    def gate_bounds(self) -> tuple[float, float] | None:
        """The inputs where the gate has risen by 1 % and by 99 % of its range; None if there is no gate."""
        spec, kind = self.spec, self.entry.gate
        if spec is not None:
            closed, opened = ((share / (1 - share)) ** (1 / (2 * spec.n)) for share in (GATE_CLOSED, GATE_OPEN))
            return closed * spec.scale, opened * spec.scale
        if kind is None:
            return None
        if kind == "step":
            return 0.0, 0.0
        # The ends are unequal so that x = 0, where f(x) / x is not defined, is not met.
        low, high = -1e3, 1.1e3
        floor, ceiling = self(low) / low, self(high) / high
        closed, opened = (
            _bisect(lambda x, level=floor + share * (ceiling - floor): bool(self(x) / x > level), low, high)
            for share in (GATE_CLOSED, GATE_OPEN)
        )
        return closed, opened

    def __call__(self, x: Any) -> Array:
        """Return f(x) in float64."""
        return self.entry.reference(np.asarray(x, np.float64), **self.parameters)

    def __str__(self) -> str:
        """Write the canonical string: n only if it is not 1, a rival's parameters only if they are not the defaults."""
        defaults = self.entry.defaults
        shown = {"eps", "leak"} if self.name in MEMBERS else set[str]()
        return format_call(
            self.name, {key: value for key, value in self.arguments if key in shown or value != to_exact(defaults[key])}
        )


_ABOVE_0 = (lambda value: 0 < value < math.inf, "a finite number above 0")
_FROM_0 = (lambda value: 0 <= value < math.inf, "a finite number from 0 up")
_FINITE = (lambda value: -math.inf < value < math.inf, "a finite number")
# A parameter's name means the same in every rival; GemSpec checks the family's own.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(["alpha", "beta", "b"], _ABOVE_0),
    "lambd": _FROM_0,
    **dict.fromkeys(["negative_slope", "init", "lower", "upper", "min_val", "max_val", "scale", "bias"], _FINITE),
}
ORDERED = {("lower", "upper"): (operator.le, "at most"), ("min_val", "max_val"): (operator.lt, "below")}


def _bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a condition that fails at `low` and holds at `high` begins to hold."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


ALIASES = {
    "swish": "silu",
    "lrelu": "leaky_relu",
    "hswish": "hardswish",
    "hsigmoid": "hardsigmoid",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "squared_relu": "relu2",
}
"""Other names in common use, and what they are called here."""


def check(name: str, parameters: Mapping[str, Any]) -> None:
    """Check a rival's parameters against `RANGES` and `ORDERED`.

    Args:
        name: The rival's name in the catalog, for the message.
        parameters: Its parameters by name.
    Raises: SpecError: a parameter is out of its range, or a pair is out of order.
    Example:
        >>> check("hardtanh", {"min_val": -1, "max_val": 1})
    """
    shown = {key: f"{float(value):g}" if isinstance(value, Real) else quote(value) for key, value in parameters.items()}
    for key, value in parameters.items():
        allowed, expected = RANGES[key]
        if not isinstance(value, Real) or not allowed(value):
            raise SpecError(f"{name}({key}={shown[key]}): {key} must be {expected}")
    for (low, high), (in_order, relation) in ORDERED.items():
        if {low, high} <= parameters.keys() and not in_order(parameters[low], parameters[high]):
            raise SpecError(f"{name}({low}={shown[low]}, {high}={shown[high]}): {low} must be {relation} {high}")


def parse(text: str) -> Activation:
    """Read an activation: a name of the catalog, with arguments in parentheses if it takes any.

    Case, hyphens and underscores of the name are free, and `ALIASES` are names too: `Swish`, `E-GEM(n=2)`,
    `LeakyReLU(negative_slope=0.1)`. So are printed modules and specs, whose function is read: of `GEM(n=2, inplace=True)`
    it is `gem(n=2)`, of `GELU(approximate='tanh')` it is `gelu_tanh`.

    Args:
        text: For example `gelu`, `gem(n=2)`, `egem(eps=1e-4)`, `celu(alpha=0.075)`. In the family `scale=` stands for
            eps = scale^(2n): `egem(scale=0.1)` is `egem(eps=0.01)`, and is printed so.
    Raises: ActivationNameError: a malformed string, an unknown name (the nearest are offered) or argument;
        SpecError: a parameter out of its range, or two out of order. A trainable scale is refused: it is a module's.
    Example:
        >>> str(parse("segem( eps = 1/10000 )")), parse("gelu").entry.title
        ('segem(eps=1e-4, leak=0.01)', 'GELU (erf)')
    """
    activation, options = parse_printed(text)
    if options.get("trainable"):
        raise ActivationNameError(f"{quote(text)}: a scale that is learnt belongs to a module; leave out trainable=")
    return activation


def parse_printed(text: str) -> tuple[Activation, dict[str, Any]]:
    """Read an activation as `parse` does, and the options of a printed module, for the constructor of its class.

    Raises: ActivationNameError, SpecError: as `parse`; an option that no module of the activation has.
    Example:
        >>> activation, options = parse_printed("GEM(n=2, save='input')")
        >>> str(activation), options
        ('gem(n=2)', {'save': 'input'})
    """
    options: dict[str, Any] = {}
    spelling, given = parse_call(str(text).lower(), options)
    if spelling == "gemspec" and given.keys() <= {"n", "eps", "leak"} and not options:
        return parse_printed(str(GemSpec(**given)))  # pyright: ignore[reportArgumentType]
    name = find_name(spelling)
    if name == "gelu" and options.get("approximate") in ("none", "tanh"):
        name = "gelu_tanh" if options.pop("approximate") == "tanh" else name
    if name is None:
        near = difflib.get_close_matches(spelling, ENTRIES, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`gem-act list` shows all names"
        raise ActivationNameError(f"no activation is called {quote(spelling)}; {hint}")
    defaults = ENTRIES[name].defaults
    foreign = options.keys() - (
        {"backend", "channels", "inplace", "save", "trainable"} if name in MEMBERS else {"inplace"}
    )
    if foreign:
        raise ActivationNameError(f"{quote(text)}: {name} has no option {', '.join(sorted(foreign))}; leave it out")
    if name in MEMBERS and "eps" in defaults:
        given = scale_to_eps(given, text)
    for key in given:
        if key not in defaults:
            takes = ", ".join(defaults) if defaults else "no arguments"
            raise ActivationNameError(f"{quote(text)}: {name} takes {takes}, not {quote(key)}")
    exact = {key: given.get(key, to_exact(value)) for key, value in defaults.items()}
    activation = Activation(name, tuple(exact.items()))
    if activation.spec is None:  # A member's GemSpec checks its own parameters.
        check(name, exact)
    return activation, options


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def _gated(gate: Callable[[Array], Array]) -> Callable[[Array], Array]:
    # Below -1000 the gates of x gate(x) are 0 in float64; the clamp gives the limit at -inf instead of inf times 0.
    def activation(x: Array) -> Array:
        x = np.maximum(x, -1e3)
        return x * gate(x)

    return activation


_erf, _erfc = (np.vectorize(f, otypes=[np.float64]) for f in (math.erf, math.erfc))


def _normal_cdf(x: Array) -> Array:
    return 0.5 * _erfc(-x / math.sqrt(2))


def _flat_below_0(**_: float) -> Flat:
    return Flat("below", 0.0)


def _flat_nowhere(**_: float) -> Flat:
    return Flat("nowhere")


def _flat_inside(lambd: float) -> Flat:
    return Flat("inside", -float(lambd), float(lambd))


def _flat_member(leak: float = 0.0, **_: float) -> Flat:
    return Flat("nowhere") if leak else Flat("below", 0.0)


def _member(x: Array, n: int, eps: float = 1.0, leak: float = 0.0) -> Array:
    return GemSpec(n, eps, leak)(x)


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _leaky(x: Array, slope: float) -> Array:
    return np.where(x > 0, x, slope * x)


def _squareplus(x: Array, b: float) -> Array:
    # |x| + sqrt(x^2 + b) has no cancellation; the other root is b over it.
    larger = np.abs(x) + np.hypot(x, math.sqrt(b))
    return np.where(x > 0, larger / 2, b / 2 / larger)


def _isrlu(x: Array, alpha: float) -> Array:
    # Where sqrt(alpha) |x| is 2^52 the value has rounded to its limit, -1/sqrt(alpha): the clamp spares inf / inf.
    root = math.sqrt(alpha)
    negative = np.clip(x, -(2.0**52) / root, 0)
    return np.where(x >= 0, x, negative / np.hypot(1, root * negative))


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805

_ROWS = [
    Entry("gem", "GEM", "x^(2n+1) / (1 + x^(2n)) for x > 0, else 0", _member, _GEM,
          "gem_activations.torch.GEM", "family", MEMBERS["gem"], flat=_flat_member),
    Entry("egem", "E-GEM", "x^(2n+1) / (eps + x^(2n)) for x > 0, else 0", _member, _GEM,
          "gem_activations.torch.EGEM", "family", MEMBERS["egem"], flat=_flat_member),
    Entry("segem", "SE-GEM", "x (leak + (1-leak) x^(2n) / (eps + x^(2n))) for x > 0, else leak x", _member, _GEM,
          "gem_activations.torch.SEGEM", "family", MEMBERS["segem"], flat=_flat_member),
    Entry("relu", "ReLU", "max(x, 0)", lambda x: np.maximum(x, 0),
          "K. Fukushima, IEEE Trans. Syst. Sci. Cybern. 5(4), 1969", "torch.nn.ReLU", "baseline", flat=_flat_below_0, gate="step"),
    Entry("leaky_relu", "LeakyReLU", "x for x > 0, else negative_slope x", lambda x, negative_slope: _leaky(x, negative_slope),
          "A. Maas, A. Hannun, A. Ng, ICML workshop 2013", "torch.nn.LeakyReLU", "baseline", {"negative_slope": 0.01},
          flat=lambda negative_slope: _flat_member(negative_slope), gate="step"),
    Entry("gelu", "GELU (erf)", "x Phi(x), Phi the standard normal CDF", _gated(_normal_cdf),
          "D. Hendrycks, K. Gimpel, arXiv:1606.08415, 2016", "torch.nn.GELU", "baseline", gate="smooth"),
    Entry("gelu_tanh", "GELU (tanh)", "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))", _gated(lambda x: _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
          "D. Hendrycks, K. Gimpel, arXiv:1606.08415, 2016", "torch.nn.GELU", "baseline", fixed={"approximate": "tanh"}, gate="smooth"),
    Entry("silu", "SiLU (Swish)", "x / (1 + exp(-x))", _gated(_sigmoid),
          "S. Elfwing, E. Uchibe, K. Doya, arXiv:1702.03118, 2017", "torch.nn.SiLU", "baseline", gate="smooth"),
    Entry("mish", "Mish", "x tanh(log(1 + exp(x)))", _gated(lambda x: np.tanh(np.logaddexp(0, x))),
          "D. Misra, arXiv:1908.08681, 2019", "torch.nn.Mish", "baseline", gate="smooth"),
    Entry("elu", "ELU", "x for x > 0, else alpha (exp(x) - 1)", _elu,
          "D.-A. Clevert, T. Unterthiner, S. Hochreiter, arXiv:1511.07289, 2015", "torch.nn.ELU", "lee", {"alpha": 1.0}),
    Entry("celu", "CELU", "x for x > 0, else alpha (exp(x/alpha) - 1)",
          lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha)),
          "J. Barron, arXiv:1704.07483, 2017", "torch.nn.CELU", "lee", {"alpha": 1.0}),
    Entry("selu", "SELU", "1.0507010 (x for x > 0, else 1.6732632 (exp(x) - 1))",
          lambda x: _SELU_SCALE * _elu(x, _SELU_ALPHA),
          "G. Klambauer et al., arXiv:1706.02515, 2017", "torch.nn.SELU", "lee"),
    Entry("prelu", "PReLU", "x for x > 0, else init x (init is the start of a learnt slope)", lambda x, init: _leaky(x, init),
          "K. He et al., arXiv:1502.01852, 2015", "torch.nn.PReLU", "lee", {"init": 0.25},
          flat=_flat_nowhere, gate="step"),
    Entry("rrelu", "RReLU", "x for x > 0, else (lower+upper)/2 x (in training: slope uniform in [lower, upper])",
          lambda x, lower, upper: _leaky(x, (lower + upper) / 2),
          "B. Xu et al., arXiv:1505.00853, 2015", "torch.nn.RReLU", "lee", {"lower": 0.125, "upper": Fraction(1, 3)},
          flat=_flat_nowhere, gate="step"),
    Entry("relu6", "ReLU6", "min(max(x, 0), 6)", lambda x: np.clip(x, 0, 6),
          "A. Krizhevsky, Convolutional deep belief networks on CIFAR-10, 2010", "torch.nn.ReLU6", "lee",
          flat=lambda: Flat("outside", 0.0, 6.0)),
    Entry("hardswish", "Hardswish", "x min(max(x + 3, 0), 6) / 6",
          lambda x: np.where(x <= -3, 0.0 * np.maximum(x, -3), x * (np.clip(x + 3, 0, 6) / 6)),
          "A. Howard et al., arXiv:1905.02244, 2019", "torch.nn.Hardswish", "lee",
          flat=lambda: Flat("below", -3.0), gate="smooth"),
    Entry("hardsigmoid", "Hardsigmoid", "min(max(x + 3, 0), 6) / 6", lambda x: np.clip(x + 3, 0, 6) / 6,
          _LEE, "torch.nn.Hardsigmoid", "lee", flat=lambda: Flat("outside", -3.0, 3.0)),
    Entry("hardtanh", "Hardtanh", "min(max(x, min_val), max_val)", lambda x, min_val, max_val: np.clip(x, min_val, max_val),
          _LEE, "torch.nn.Hardtanh", "lee", {"min_val": -1.0, "max_val": 1.0},
          flat=lambda min_val, max_val: Flat("outside", float(min_val), float(max_val))),
    Entry("hardshrink", "Hardshrink", "x for |x| > lambd, else 0",
          lambda x, lambd: np.where(np.abs(x) <= lambd, 0.0, x),
          _LEE, "torch.nn.Hardshrink", "lee", {"lambd": 0.5}, flat=_flat_inside),
    Entry("softshrink", "Softshrink", "x - lambd for x > lambd, x + lambd for x < -lambd, else 0",
          lambda x, lambd: np.where(np.abs(x) <= lambd, 0.0, x - np.copysign(lambd, x)),
          _LEE, "torch.nn.Softshrink", "lee", {"lambd": 0.5}, flat=_flat_inside),
    Entry("tanhshrink", "Tanhshrink", "x - tanh(x)", lambda x: x - np.tanh(x), _LEE, "torch.nn.Tanhshrink", "lee"),
    Entry("softplus", "Softplus", "log(1 + exp(beta x)) / beta", lambda x, beta: np.logaddexp(0, beta * x) / beta,
          "C. Dugas et al., NIPS 13, 2001", "torch.nn.Softplus", "lee", {"beta": 1.0}),
    Entry("softsign", "Softsign", "x / (1 + |x|)", lambda x: np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x))),
          "J. Turian, J. Bergstra, Y. Bengio, NAACL 2009", "torch.nn.Softsign", "lee"),
    Entry("sigmoid", "Sigmoid", "1 / (1 + exp(-x))", _sigmoid, _LEE, "torch.nn.Sigmoid", "lee"),
    Entry("logsigmoid", "LogSigmoid", "-log(1 + exp(-x))", lambda x: -np.logaddexp(0, -x), _LEE, "torch.nn.LogSigmoid", "lee"),
    Entry("tanh", "Tanh", "tanh(x)", np.tanh, _LEE, "torch.nn.Tanh", "lee"),
    Entry("squareplus", "Squareplus", "(x + sqrt(x^2 + b)) / 2",
          _squareplus, "J. Barron, arXiv:2112.11687, 2021", "gem_activations.torch.Squareplus", "other", {"b": 4.0}),
    Entry("smelu", "SmeLU", "0 for x < -beta, (x+beta)^2 / (4 beta) for |x| <= beta, else x",
          lambda x, beta: np.where(np.abs(x) <= beta, (x + beta) ** 2 / (4 * beta), np.maximum(x, 0)),
          "G. Shamir, D. Lin, L. Coviello, arXiv:2010.09931, 2020", "gem_activations.torch.SmeLU", "other", {"beta": 1.0},
          flat=lambda beta: Flat("below", -float(beta))),
    Entry("relu2", "ReLU^2", "max(x, 0)^2", lambda x: np.maximum(x, 0) ** 2,
          "D. So et al., arXiv:2109.08668, 2021", "gem_activations.torch.SquaredReLU", "other", flat=_flat_below_0),
    Entry("telu", "TeLU", "x tanh(exp(x))", _gated(lambda x: np.tanh(np.exp(np.minimum(x, 700)))),
          "A. Fernandez, A. Mali, arXiv:2412.20269, 2024", "gem_activations.torch.TeLU", "other", gate="smooth"),
    Entry("golu", "GoLU", "x exp(-exp(-x))", _gated(lambda x: np.exp(-np.exp(-np.maximum(x, -700)))),
          "I. Das et al., arXiv:2502.03654, 2025", "gem_activations.torch.GoLU", "other", gate="smooth"),
    Entry("isrlu", "ISRLU", "x for x >= 0, else x / sqrt(1 + alpha x^2)",
          _isrlu, "B. Carlile et al., arXiv:1710.09967, 2017", "gem_activations.torch.ISRLU", "other", {"alpha": 1.0}),
    Entry("serf", "Serf", "x erf(log(1 + exp(x)))", _gated(lambda x: _erf(np.logaddexp(0, x))),
          "S. Nag, M. Bhattacharyya, arXiv:2108.09598, 2021", "gem_activations.torch.baselines.Serf", "other",
          gate="smooth"),
    Entry("logish", "Logish", "x log(1 + 1 / (1 + exp(-x)))", _gated(lambda x: np.log1p(_sigmoid(x))),
          "H. Zhu et al., Neurocomputing 458, 2021, doi:10.1016/j.neucom.2021.06.067",
          "gem_activations.torch.baselines.Logish", "other", gate="smooth"),
    Entry("phish", "Phish", "x tanh(x Phi(x)), Phi the standard normal CDF", _gated(lambda x: np.tanh(x * _normal_cdf(x))),
          "P. Naveen, TechRxiv, 2021, doi:10.36227/techrxiv.17283824", "gem_activations.torch.baselines.Phish", "other"),
    Entry("smish", "Smish", "x tanh(log(1 + 1 / (1 + exp(-x))))", _gated(lambda x: np.tanh(np.log1p(_sigmoid(x)))),
          "X. Wang, H. Ren, A. Wang, Electronics 11(4), 2022, doi:10.3390/electronics11040540",
          "gem_activations.torch.baselines.Smish", "other", gate="smooth"),
    Entry("quick_gelu", "quick-GELU", "x / (1 + exp(-1.702 x))", _gated(lambda x: _sigmoid(1.702 * x)),
          "D. Hendrycks, K. Gimpel, arXiv:1606.08415, 2016", "gem_activations.torch.baselines.QuickGELU", "other",
          gate="smooth"),
    Entry("starrelu", "StarReLU", "scale max(x, 0)^2 + bias (both are the start of learnt numbers)",
          lambda x, scale, bias: scale * np.maximum(x, 0) ** 2 + bias,
          "W. Yu et al., arXiv:2210.13452, 2022", "gem_activations.torch.baselines.StarReLU", "other",
          {"scale": 0.8944, "bias": -0.4472}, flat=_flat_below_0),
]  # fmt: skip

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in _ROWS}
_SPELLINGS = {name.replace("_", ""): own for name, own in ALIASES.items()}
_SPELLINGS |= {name.replace("_", ""): name for name in ENTRIES}


def find_name(spelling: str) -> str | None:
    """Return the name of the catalog that a spelling stands for, None if there is none.

    Example:
        >>> find_name("Hard_Swish"), find_name("gellu")
        ('hardswish', None)
    """
    return _SPELLINGS.get(spelling.lower().replace("_", "").replace("-", ""))
