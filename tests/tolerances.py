"""The one table of tolerances, each with its reason. A test that needs another adds it here, never in its own file.

An ulp is the spacing of the result's dtype at the exact value; below the smallest normal number it is the constant
spacing of the subnormal numbers (tests/ulps.py measures it). u is half an ulp of 1. Bounds that count roundings were
derived first and then compared with the largest error seen, which stands beside them.
"""

from typing import Any

ORACLE_ULPS = 4
"""GemSpec's value and slope against mpmath: one power, one quotient, one sum, a second quotient, one or two products.
Seen: 2."""


def oracle_bend_ulps(condition: Any) -> Any:
    """GemSpec's second derivative: as above, and its factor 1 + 2n - 4n F cancels near its zero.

    `condition` is (1 + 2n + 4n F) / |1 + 2n - 4n F|, by which that subtraction amplifies a rounding of F. Seen: half.
    """
    return ORACLE_ULPS + condition


def value_ulps(n: int) -> int:
    """f in float32 and float64, over all finite inputs, subnormal results included: what the package promises.

    2n - 1 products make x^(2n); eps, sum, quotient and the product by x round four times more, and half of them count
    half. Seen in float32: 2.8 for n = 1, 12.8 for n = 8.
    """
    return 2 * n + 2


def gradient_ulps(n: int) -> int:
    """f' in float32 and float64, plus `gradient_floor`.

    F (1 + 2n (1 - F)) has the roundings of f, and a product and a sum more. Seen in float32: 4.3 for n = 1, 13.2 for
    n = 8.
    """
    return 2 * n + 4


def traced_gradient_ulps(n: int) -> int:
    """f' where a tracer or a transform differentiates the formula of f operation by operation.

    x F' is the difference of two terms, each with the roundings of x^(2n). Seen in float32: 3.5 for n = 1, 26.4 for
    n = 8.
    """
    return 4 * n + 2


INVERSE_ULPS = 4
"""The root of f(x) = y in float64 against the x that gave y: y is rounded, Newton's method stops within rounding of f.
Seen: 3."""


def gradient_from_output_ulps(n: int) -> int:
    """f' in float64 from the output: the root, itself a float64, enters as x^(2n). In float32 the root is exact enough.

    Seen: 148 for n = 64.
    """
    return gradient_ulps(n) + 2 * n * INVERSE_ULPS


TABLE_GRADIENT_ULPS = 84
"""f' in float32 from the output by the kernels' tables of polynomials: what the package promises, a relative error of
1e-5, is 84 ulps where an ulp is largest. Seen: 11 for n = 1, 30 for n = 4."""

HALF_ULPS = 1
"""f and f' in float16 and bfloat16 for every bit pattern: computed in float32 and rounded once, so that 1/2 and a
trace of float32's error are to be expected; 1 is what the package promises."""


def half_gradient_from_output_ulps(n: int) -> float:
    """f' in float16 and bfloat16 from an output that is itself rounded to that dtype.

    |f f'' / f'^2|, by which a relative change of f becomes one of f', stays below 1 + n/2; the output is half an ulp
    off, which is at most one ulp of the slope for a factor 1. Seen: 1.3 for n = 1, 3.1 for n = 8.
    """
    return HALF_ULPS + 1 + n / 2


GRADIENT_FLOOR = 1.0
"""Absolute error of a gradient in units of the smallest normal number: where x^(2n) is subnormal, (2n+1)/eps times
its lost bits remain in the slope. What a processor that flushes subnormal numbers to zero would lose anyway."""


def bend_floor(n: int) -> float:
    """Absolute error of f'' in units of sup |f''|.

    The formula clamps its argument where 1 - F is 2^-60, so that f'' stays at 2n (2n - 1) 2^-60 / a there instead of
    falling on to 0; sup |f''| is more than n / (2a), its value where F is 1/2.
    """
    return 4 * (2 * n - 1) * 2.0**-60


GRADCHECK: dict[str, Any] = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-5}
"""torch.autograd.gradcheck in float64: central differences with step h have error h^2/6 times the third derivative, at
most 1e-12 times 1e5 for the narrowest transition used, and rounding 1e-16 / h. At 0, where f' is 3 x^2 / eps on one
side and flat on the other, the difference of f' is 3 h / 2 for n = 1 and eps = 1, times gradients of up to 4."""

HIGHER_DERIVATIVE = 1e-9
"""f''' and the derivatives of transforms in float64, relative to the largest value on the grid: products of up to
thirty factors, each with tens of roundings of 1e-16, and cancellation by up to 4n F per order."""

SAME_MATHEMATICS: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}
"""Two float64 evaluations of one model (checkpointed, distributed, exported): only the order of sums differs."""

TWO_PROCESSES = 1e-5
"""Losses of a run in float32 after a hundred steps, relative: gradients are sums in another order. Seen: 2e-7."""

CATALOG: dict[str, dict[str, Any]] = {
    "float64": {"rtol": 1e-13, "atol": 4e-15},
    "float32": {"rtol": 2e-6, "atol": 2e-6},
}
"""Modules against the float64 references of the catalog on [-30, 30]. Absolute parts: PyTorch's GELU and others take
1 + erf(x) or 1 + tanh(x) in the negative tail, where the result is a difference of numbers near |x|."""

SOFTPLUS_ATOL = 2.1e-9
"""PyTorch's Softplus gives x itself beyond beta x = 20, which is log(1 + exp(-20)) = 2.06e-9 too little."""

GRADIENT_FROM_OUTPUT = {"float32": 1e-5, "float64": 1e-13}
"""The C kernels' f' from the output, relative, for n in 1..8, eps in 1e-12..1e6 and every leak: what the package
promises. The polynomials of float32 are fitted to 5e-6, float64 iterates until rounding. Seen: 4.2e-6 and 1.6e-14."""

HALF_GRADIENT_OF_ROUNDED_OUTPUT_ULPS = 2
"""The C kernels' f' in float16 and bfloat16 at the output as it is kept: what the package promises. Seen: 0.6."""


def triton_gradient_ulps(n: int) -> int:
    """The Triton kernels' f' in float32 and float64, and the gated unit's gradients, plus `gradient_floor`.

    As `gradient_ulps`; on a GPU the one division may be 2 ulp off, which enters both F and 1 - F. Seen in the
    interpreter, which divides exactly: 2.7 for n = 1, 10 for n = 8.
    """
    return gradient_ulps(n) + 4


def triton_high_order_gradient(n: int, digits: int) -> float:
    """The Triton kernels' f' from the output for n above 8, relative, in a format of `digits` significant bits.

    One rounding of x changes x^(2n), and with it f', by 2n. Seen in float32: 6e-6 for n = 64, half of this.
    """
    return (2 * n + 8) * 2.0 ** (1 - digits)


FLUSHED_FLOOR = 1.0
"""Absolute error of a value in units of the smallest normal number where a framework flushes subnormal numbers to zero,
as XLA and TensorFlow do on the CPU."""


def flushed_gradient_floor(n: int) -> float:
    """The same of a gradient: F is flushed, and the slope is up to 2n + 1 times F."""
    return (2 * n + 1) * FLUSHED_FLOOR


THIRD_BY_DIFFERENCES = 1e-7
"""The third derivative against central differences of f'' in float64, relative to the largest on the grid: a step of
1e-5 a has an error of 2e-11 times a fifth derivative of up to 1e2 times the third over a^2, and rounding of 1e-11."""


def traced_gradient_floor(n: int, eps: float) -> float:
    """As `flushed_gradient_floor` where a framework differentiates x^(2n) / (x^(2n) + eps) operation by operation.

    The power is flushed, and each of the two terms of x F': together up to 4n + 2 times the power over eps.
    """
    return (4 * n + 2) * FLUSHED_FLOOR / min(1.0, eps)


EXPORTED_CONSTANTS = 3 * 2.0**-24
"""f in a float64 ONNX model, relative: PyTorch's exporter writes eps, the leak and 1 minus the leak with the digits of
float32, each off by at most 2^-24, and f changes by no more than each of them does. Seen: 2.8e-8."""

RUNTIME = 1e-5
"""Outputs of small float32 models in another runtime, relative to the largest: sums of 72 products in another order are
off by up to 72 * 2^-24 = 4e-6 of their terms, and the slopes that follow are up to 1.6. Seen: 1.6e-6."""

HALF_RUNTIME = 2.0**-10
"""The same of a float16 model: each of two linear maps rounds its output by up to 2^-11. Seen: 4.3e-4, 2^-11.2."""

INT8_LOGITS = 0.04
"""Logits of int8 models, root mean square relative to their spread: a tensor with a range of eight standard deviations
in 255 steps is off by 8 / 255 / sqrt(12) = 0.9 % of one, and such errors add up along four to nine tensors. Seen: 0.008
(GPT-2) and 0.021 (convolutional network); with GELU 0.009 and 0.018. TorchAO: 0.020, with GELU 0.018."""

INT8_LOSS = 0.01
"""Change of a language model's cross-entropy, in nats. Seen: 0.0003."""

INT8_ACCURACY = 0.01
"""Change of accuracy: 3 of 397 images, whose logits were nearly equal before. Seen: none."""

INT8_OVER_GELU = 1.5
"""The error with GEM over that with GELU; the networks differ, as each is trained with its own. Seen: 0.95, 1.2."""

SECOND_FROM_OUTPUT = {"float32": 1e-5, "float64": 1e-13}
"""The C kernels' f' and f'' in the pass of second order from the output: relative, f'' near its zero relative to its
supremum: what the package promises; in float64 for each unit of n. Seen: 9.3e-6 for n = 64, where one rounding of x
changes F by 2n, 1.3e-6 for n up to 4, and 1.1e-15."""

THIRD_IN_FLOAT32 = 5e-6
"""The C kernels' pass of third order in float32 beside float64, relative to the largest: from the output x is off by up
to 6e-7 for n up to 4, and f''' changes by a few times as much. Seen: 2.0e-6."""


def half_second_from_output(dtype: str) -> float:
    """f' and f'' in half precision in the pass of second order, relative to their suprema: one rounding."""
    return {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]


def converted_float16(n: int, scale: float) -> tuple[int, float]:
    """f by a graph that a converter has made float16, each operation rounded: ulps, or else an absolute error.

    x/p or p/x is half an ulp off, which enters as x^(2n); squares, sum and quotients add a few. Where the gate is
    nearly closed its power is subnormal: 2^-25 over e, which is at least 2^-8, times x below the scale. Seen: 5 ulps
    for n = 3, 15 for n = 8, 51 for n = 50.
    """
    return 2 * n + 2, 1e-4 * max(1.0, scale)


TRITON_THIRD_IN_FLOAT32 = 2e-5
"""The Triton kernels' pass of third order in float32 beside float64, relative to the largest: x is off by up to
1e-6 from the output, and f''' changes by a few times 2n as much."""


TFLITE_OVER_GELU, TFLITE_RANGE = 2.0, 0.01
"""Outputs of converted networks, root mean square relative to their range: at most twice GELU's own error and a
hundredth of the range. Seen in int8 by benchmarks/runtimes.py: 0.32 to 0.71 % of the range, with GELU 0.31 to 0.35 %;
in 16x8 0.12 to 0.17 %, with GELU the same."""
