"""Every member of the catalog as a torch module: values, gradients and layouts against its float64 reference."""

import numpy as np
import pytest
import torch

from gem_activations import catalog
from gem_activations.errors import SpecError
from gem_activations.torch import ISRLU, SmeLU, Squareplus, make_activation

from ..definitions import DEFINITIONS, INF
from ..tolerances import CATALOG, GRADCHECK, SOFTPLUS_ATOL
from .known_warnings import forward_mode

every_name = pytest.mark.parametrize("name", list(catalog.ENTRIES))
OTHER_PARAMETERS = [
    "gem(n=3)",
    "egem(n=2, eps=10)",
    "segem(n=2, eps=0.1, leak=0.2)",
    "leaky_relu(negative_slope=0.2)",
    "elu(alpha=0.5)",
    "celu(alpha=0.075)",
    "prelu(init=0.1)",
    "rrelu(lower=0.1, upper=0.2)",
    "hardtanh(min_val=-2, max_val=3)",
    "hardshrink(lambd=1)",
    "softshrink(lambd=1)",
    "softplus(beta=2)",
    "squareplus(b=1)",
    "smelu(beta=2)",
    "isrlu(alpha=3)",
    "starrelu(scale=2, bias=0.5)",
]
every_activation = pytest.mark.parametrize("text", [*catalog.ENTRIES, *OTHER_PARAMETERS])


def grid() -> torch.Tensor:
    # No point lies on a kink of a member but 0, where all are continuous.
    near = torch.linspace(-30, 30, 2411, dtype=torch.float64) + 1e-5
    small = 10.0 ** torch.arange(-300, 0, 10, dtype=torch.float64)
    return torch.cat([near, small, -small, torch.zeros(1, dtype=torch.float64)])


def module(text: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    learns = "learnt" in catalog.parse(text).entry.formula  # What is learnt is rounded where it is made.
    return make_activation(text, **({"dtype": dtype} if learns else {})).to(dtype).eval()


def is_ours(text: str) -> bool:
    return catalog.parse(text).entry.torch.startswith("gem_activations.")


@every_activation
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_forward_equals_the_reference(text, dtype):
    x = grid().to(dtype)
    got = module(text, dtype)(x).detach().double().numpy()
    tolerance = dict(CATALOG[str(dtype).removeprefix("torch.")])
    if text.startswith("softplus"):
        tolerance["atol"] += SOFTPLUS_ATOL
    np.testing.assert_allclose(got, catalog.parse(text)(x.double().numpy()), **tolerance)


@forward_mode
@every_activation
def test_gradcheck_away_from_kinks(text):
    x = torch.tensor([-7.1, -4.3, -2.2, -1.3, -0.8, -0.3, 0.2, 0.7, 1.4, 2.4, 3.3, 5.1, 7.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        module(text, torch.float64), (x.requires_grad_(),), check_forward_ad=True, **GRADCHECK
    )


@every_activation
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_finite_inputs_have_finite_values_and_gradients(text, dtype):
    limits = torch.finfo(dtype)
    steps = [0.0, limits.smallest_normal, limits.eps, 0.5, 1.0, 3.0, 20.0, 200.0]
    # Some of PyTorch's own fail where a power of x is infinite; ours must not.
    steps += [1e4, limits.max**0.4, limits.max / 4] if is_ours(text) else []
    x = torch.tensor([*steps, *(-step for step in steps)], dtype=dtype).requires_grad_()
    y = module(text, dtype)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(gradient).all(), x[~torch.isfinite(gradient)]
    with np.errstate(over="ignore"):
        want = torch.from_numpy(catalog.parse(text)(x.detach().double().numpy())).to(dtype)
    assert torch.equal(torch.isfinite(y), torch.isfinite(want)), x[~torch.isfinite(y)]


@pytest.mark.parametrize("text", [name for name, entry in catalog.ENTRIES.items() if entry.group == "other"])
def test_baselines_at_large_inputs(text):
    x = torch.tensor([1e3, 1e10, 1e18, -1e3, -1e10, -1e18, -1e25])
    got = module(text)(x).detach().double().numpy()
    np.testing.assert_allclose(got, catalog.parse(text)(x.double().numpy()), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("text", "limits"),
    [
        *((text, definition.limits) for text, definition in DEFINITIONS.items() if is_ours(text)),
        ("squareplus(b=9)", (0, INF)),
        ("isrlu(alpha=4)", (-0.5, INF)),
    ],
)
def test_limits_at_infinity(text, limits, dtype):
    got = module(text, dtype)(torch.tensor([-torch.inf, torch.inf], dtype=dtype))
    assert torch.equal(got, torch.tensor(limits, dtype=dtype)), got


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_isrlu_reaches_its_limit_at_the_largest_inputs(dtype):
    x = torch.tensor([-torch.finfo(dtype).max], dtype=dtype)
    torch.testing.assert_close(ISRLU(alpha=16)(x), torch.full_like(x, -0.25), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_squareplus_in_float16_with_a_root_that_underflows():
    x = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float16, requires_grad=True)
    y = Squareplus(b=1e-20)(x)
    torch.testing.assert_close(y, torch.relu(x), rtol=0, atol=torch.finfo(torch.float16).smallest_normal)
    assert torch.isfinite(torch.autograd.grad(y.sum(), x)[0]).all()


@pytest.mark.parametrize("build", [lambda: Squareplus(b=-1), lambda: SmeLU(beta=0), lambda: ISRLU(alpha=torch.nan)])
def test_baselines_refuse_bad_parameters(build):
    with pytest.raises(SpecError, match="above 0"):
        build()


@every_name
def test_nan_stays_nan(name):
    assert torch.isnan(module(name)(torch.tensor([torch.nan]))).all()


@every_name
def test_layout_dtype_and_empty_inputs(name):
    made = module(name)
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    y = made(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    if is_ours(name):  # Two of PyTorch's own return contiguous memory.
        assert y.stride() == x.stride()
    torch.testing.assert_close(y, made(x.contiguous()), **CATALOG["float32"])
    assert made(torch.empty(0, 3)).shape == (0, 3)
    assert made(torch.tensor(0.5)).shape == ()
    assert made.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


@every_name
def test_what_learns_says_so_in_its_formula_and_nothing_else_has_a_state(name):
    made = make_activation(name)
    assert bool(list(made.parameters())) == bool(made.state_dict()) == ("learnt" in catalog.ENTRIES[name].formula)


def test_rrelu_is_random_in_training_only():
    made = make_activation("rrelu")
    x = -torch.ones(1000)
    slopes = -made(x)
    assert 1 / 8 <= slopes.min() < slopes.max() <= 1 / 3
    assert torch.equal(made.eval()(x), torch.full((1000,), -(1 / 8 + 1 / 3) / 2))


def test_prelu_starts_where_it_is_told():
    assert next(make_activation("prelu(init=0.1)").parameters()).item() == pytest.approx(0.1)
