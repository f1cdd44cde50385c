"""Every activation in mpmath, written from its definition: the one table that all tests compare with."""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import mpmath as mp

mp.mp.dps = 50
INF = float("inf")
# Exact decimals, as the certificates take them: the double nearest to the constants of the paper.
SELU_ALPHA, SELU_SCALE = mp.mpf("1.6732632423543772"), mp.mpf("1.0507009873554805")
RRELU_SLOPE = mp.mpf(11) / 48  # The middle of 1/8 and 1/3.


class Definition(NamedTuple):
    """An activation: f of an mpmath number, where its pieces join, and its limits at -inf and at inf."""

    f: Callable
    joints: tuple = ()
    limits: tuple = (0, INF)


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


def isrlu(alpha):
    return lambda x: x if x >= 0 else x / mp.sqrt(1 + alpha * x**2)


def smelu(beta):
    return lambda x: max(x, mp.mpf(0)) if abs(x) > beta else (x + beta) ** 2 / (4 * beta)


def softplus(beta=1):
    return lambda x: mp.log1p(mp.exp(beta * x)) / beta


def squareplus(b):
    return lambda x: (x + mp.sqrt(x**2 + b)) / 2


def shrink(lambd, soft=False):
    return lambda x: mp.mpf(0) if abs(x) <= lambd else x - mp.sign(x) * lambd * soft


def celu(alpha):
    return lambda x: x if x > 0 else alpha * mp.expm1(x / alpha)


# Canonical string -> Definition. Every name of the catalog is here; further parameters may be.
DEFINITIONS = {
    "gem": Definition(family(), (0,)),
    "gem(n=2)": Definition(family(2), (0,)),
    "gem(n=3)": Definition(family(3), (0,)),
    "egem(eps=1e-4)": Definition(family(1, Fraction(1, 10000)), (0,)),
    "segem(eps=1e-4, leak=0.01)": Definition(family(1, Fraction(1, 10000), Fraction(1, 100)), (0,), (-INF, INF)),
    "egem(n=2, eps=10)": Definition(family(2, 10), (0,)),
    "relu": Definition(lambda x: max(x, mp.mpf(0)), (0,)),
    "leaky_relu": Definition(leaky(mp.mpf(1) / 100), (0,), (-INF, INF)),
    "gelu": Definition(lambda x: x * mp.ncdf(x)),
    "gelu_tanh": Definition(
        lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))),
    ),
    "silu": Definition(lambda x: x * sigmoid(x)),
    "mish": Definition(lambda x: x * mp.tanh(mp.log(1 + mp.exp(x)))),
    "elu": Definition(celu(1), (0,), (-1, INF)),
    "celu": Definition(celu(1), (0,), (-1, INF)),
    "celu(alpha=0.075)": Definition(celu(mp.mpf("0.075")), (0,), (-0.075, INF)),
    "selu": Definition(
        lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * mp.expm1(x)), (0,), (-1.7580993408473766, INF)
    ),
    "prelu": Definition(leaky(mp.mpf(1) / 4), (0,), (-INF, INF)),
    "rrelu": Definition(leaky(RRELU_SLOPE), (0,), (-INF, INF)),
    "relu6": Definition(lambda x: clip(x, 0, 6), (0, 6), (0, 6)),
    "hardswish": Definition(lambda x: x * clip(x + 3, 0, 6) / 6, (-3, 3)),
    "hardsigmoid": Definition(lambda x: clip(x + 3, 0, 6) / 6, (-3, 3), (0, 1)),
    "hardtanh": Definition(lambda x: clip(x, -1, 1), (-1, 1), (-1, 1)),
    "hardshrink": Definition(shrink(mp.mpf(1) / 2), (-0.5, 0.5), (-INF, INF)),
    "softshrink": Definition(shrink(mp.mpf(1) / 2, soft=True), (-0.5, 0.5), (-INF, INF)),
    "tanhshrink": Definition(lambda x: x - mp.tanh(x), (), (-INF, INF)),
    "softplus": Definition(softplus()),
    "softsign": Definition(lambda x: x / (1 + abs(x)), (0,), (-1, 1)),
    "sigmoid": Definition(sigmoid, (), (0, 1)),
    "logsigmoid": Definition(lambda x: -mp.log(1 + mp.exp(-x)), (), (-INF, 0)),
    "tanh": Definition(mp.tanh, (), (-1, 1)),
    "squareplus": Definition(squareplus(4)),
    "smelu": Definition(smelu(1), (-1, 1)),
    "relu2": Definition(lambda x: max(x, mp.mpf(0)) ** 2, (0,)),
    "telu": Definition(lambda x: x * mp.tanh(mp.exp(x))),
    "golu": Definition(lambda x: x * mp.exp(-mp.exp(-x))),
    "isrlu": Definition(isrlu(1), (0,), (-1, INF)),
    "serf": Definition(lambda x: x * mp.erf(mp.log1p(mp.exp(x)))),
    "logish": Definition(lambda x: x * mp.log1p(sigmoid(x))),
    "phish": Definition(lambda x: x * mp.tanh(x * mp.ncdf(x))),
    "smish": Definition(lambda x: x * mp.tanh(mp.log1p(sigmoid(x)))),
    "quick_gelu": Definition(lambda x: x * sigmoid(mp.mpf("1.702") * x)),
    "starrelu": Definition(
        lambda x: mp.mpf("0.8944") * max(x, mp.mpf(0)) ** 2 - mp.mpf("0.4472"), (0,), (-0.4472, INF)
    ),
}
