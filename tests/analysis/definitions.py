"""Every activation in mpmath, written from its definition and not from the symbolic catalog under test."""

from fractions import Fraction

import mpmath as mp

mp.mp.dps = 50
SELU_ALPHA, SELU_SCALE = mp.mpf("1.6732632423543772"), mp.mpf("1.0507009873554805")
RRELU_SLOPE = mp.mpf(11) / 48  # The middle of 1/8 and 1/3.


def family(n=1, eps=1, leak=0):
    eps, leak = (mp.mpf(Fraction(v).numerator) / Fraction(v).denominator for v in (eps, leak))

    def f(x):
        gate = x ** (2 * n) / (x ** (2 * n) + eps) if x > 0 else mp.mpf(0)
        return x * (leak + (1 - leak) * gate)

    return f


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def clip(x, low, high):
    return max(mp.mpf(low), min(mp.mpf(high), x))


def leaky(slope):
    return lambda x: x if x > 0 else slope * x


def half(x):
    return mp.mpf(x) / 2


# Name -> (f, joints of f, as floats).
DEFINITIONS = {
    "gem": (family(), [0]),
    "gem(n=2)": (family(2), [0]),
    "gem(n=3)": (family(3), [0]),
    "egem(eps=1e-4)": (family(1, Fraction(1, 10000)), [0]),
    "segem(eps=1e-4, leak=0.01)": (family(1, Fraction(1, 10000), Fraction(1, 100)), [0]),
    "egem(n=2, eps=10)": (family(2, 10), [0]),
    "relu": (lambda x: max(x, mp.mpf(0)), [0]),
    "leaky_relu": (leaky(mp.mpf(1) / 100), [0]),
    "gelu": (lambda x: x * mp.ncdf(x), []),
    "gelu_tanh": (
        lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))),
        [],
    ),
    "silu": (lambda x: x * sigmoid(x), []),
    "mish": (lambda x: x * mp.tanh(mp.log(1 + mp.exp(x))), []),
    "elu": (lambda x: x if x > 0 else mp.expm1(x), [0]),
    "celu": (lambda x: x if x > 0 else mp.expm1(x), [0]),
    "celu(alpha=0.075)": (lambda x: x if x > 0 else mp.mpf("0.075") * mp.expm1(x / mp.mpf("0.075")), [0]),
    "selu": (lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * mp.expm1(x)), [0]),
    "prelu": (leaky(mp.mpf(1) / 4), [0]),
    "rrelu": (leaky(RRELU_SLOPE), [0]),
    "relu6": (lambda x: clip(x, 0, 6), [0, 6]),
    "hardswish": (lambda x: x * clip(x + 3, 0, 6) / 6, [-3, 3]),
    "hardsigmoid": (lambda x: clip(x + 3, 0, 6) / 6, [-3, 3]),
    "hardtanh": (lambda x: clip(x, -1, 1), [-1, 1]),
    "hardshrink": (lambda x: x if abs(x) > mp.mpf(1) / 2 else mp.mpf(0), [-0.5, 0.5]),
    "softshrink": (lambda x: x - clip(x, -half(1), half(1)), [-0.5, 0.5]),
    "tanhshrink": (lambda x: x - mp.tanh(x), []),
    "softplus": (lambda x: mp.log(1 + mp.exp(x)), []),
    "softsign": (lambda x: x / (1 + abs(x)), [0]),
    "sigmoid": (sigmoid, []),
    "logsigmoid": (lambda x: -mp.log(1 + mp.exp(-x)), []),
    "tanh": (mp.tanh, []),
    "squareplus": (lambda x: (x + mp.sqrt(x**2 + 4)) / 2, []),
    "smelu": (lambda x: max(x, mp.mpf(0)) if abs(x) > 1 else (x + 1) ** 2 / 4, [-1, 1]),
    "relu2": (lambda x: max(x, mp.mpf(0)) ** 2, [0]),
    "telu": (lambda x: x * mp.tanh(mp.exp(x)), []),
    "golu": (lambda x: x * mp.exp(-mp.exp(-x)), []),
    "isrlu": (lambda x: x if x >= 0 else x / mp.sqrt(1 + x**2), [0]),
}
