"""The symbolic catalog against the float64 catalog: the two must never drift apart."""

import numpy as np
import pytest
from flint import arb

from gem_activations.analysis import CertificateError
from gem_activations.analysis.balls import tape
from gem_activations.analysis.formulas import formula
from gem_activations.catalog import ENTRIES, parse
from gem_activations.errors import SpecError

VARIANTS = [
    *ENTRIES, "gem(n=5)", "egem(n=3, eps=10)", "segem(n=2, eps=1/3, leak=0.3)", "leaky_relu(negative_slope=0.2)",
    "elu(alpha=0.5)", "celu(alpha=0.075)", "prelu(init=0.1)", "rrelu(lower=0.1, upper=0.2)",
    "hardtanh(min_val=-2, max_val=0.5)", "hardshrink(lambd=0.7)", "softshrink(lambd=1.5)", "softplus(beta=3)",
    "squareplus(b=0.1)", "smelu(beta=2)", "isrlu(alpha=3)",
]  # fmt: skip


def value(function, x):
    for joint, height in zip(function.joints, function.at_joints, strict=True):
        if x == float(joint):
            return float(height)
    piece = next(p for p in function.pieces if not p.high.is_finite or x < float(p.high))
    return float(tape(piece.expression)(arb(x)))


@pytest.mark.parametrize("name", VARIANTS)
def test_pieces_agree_with_the_reference(name):
    activation = parse(name)
    function = formula(activation)
    points = np.concatenate([np.linspace(-9, 9, 73), [-0.5, 0.5, 1e-3, -1e-3], [float(j) for j in function.joints]])
    exact = np.array([value(function, float(x)) for x in points])
    np.testing.assert_allclose(exact, activation(points), rtol=5e-15, atol=1e-17)


@pytest.mark.parametrize(
    "name", ["hardtanh(min_val=1, max_val=1)", "celu(alpha=0)", "smelu(beta=-1)", "softplus(beta=0)", "squareplus(b=0)",
             "isrlu(alpha=0)", "hardshrink(lambd=0)", "softshrink(lambd=-1)"]
)  # fmt: skip
def test_parameters_without_a_certificate_are_refused(name):
    with pytest.raises((CertificateError, SpecError)):  # Most are refused when they are read.
        formula(parse(name))
