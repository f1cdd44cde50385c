"""Every parameter and tensor that the functions and modules cannot serve: a GemError that says what to do."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from gem_activations import GemError, GemSpec
from gem_activations.errors import BackendError, SpecError, TensorError
from gem_activations.torch import EGEM, GEM, SEGEM, activate, egem, gem, gem_glu, segem

X = torch.ones(3)
# What a caller passes against the annotations.
BOTH: Any = "both"
CUDA: Any = "cuda"
BAD_ORDERS = [0, -1, 1.5, 2.0, True, False, "1", None, math.nan, math.inf, 65, 10**30, [1]]
BAD_WIDTHS = [0, 0.0, -0.0, -1e-4, math.nan, math.inf, -math.inf, "1e-4", True, 1j, 1e-300, 1e300, [1.0]]
BAD_LEAKS = [-0.01, -1e-300, 1e-300, 9.9e-31, 1, 1.0, 1.5, math.nan, math.inf, "0.1", None, True, 1j]


@pytest.mark.parametrize("n", BAD_ORDERS, ids=repr)
def test_orders(n):
    for make in (
        lambda: gem(X, n=n),
        lambda: egem(X, n=n),
        lambda: segem(X, n=n),
        lambda: gem_glu(X, X, n=n),
        lambda: GEM(n),
        lambda: EGEM(n),
        lambda: SEGEM(n),
        lambda: GemSpec(n),
    ):
        with pytest.raises(SpecError, match=r"n=.*a whole number from 1 to 64"):
            make()


@pytest.mark.parametrize("eps", BAD_WIDTHS, ids=repr)
def test_widths(eps):
    for make in (
        lambda: egem(X, eps=eps),
        lambda: segem(X, eps=eps),
        lambda: gem_glu(X, X, eps=eps),
        lambda: EGEM(eps=eps),
        lambda: SEGEM(eps=eps),
    ):
        with pytest.raises(SpecError, match=r"eps=.*(above 0|choose eps between)"):
            make()


@pytest.mark.parametrize("leak", BAD_LEAKS, ids=repr)
def test_leaks(leak):
    for make in (lambda: segem(X, leak=leak), lambda: gem_glu(X, X, leak=leak), lambda: SEGEM(leak=leak)):
        with pytest.raises(SpecError, match=r"leak=.*from 0 up to, not including, 1"):
            make()


def test_a_width_between_the_extremes_depends_on_the_order():
    assert GemSpec(8, 1e-300).scale == pytest.approx(10 ** (-300 / 16))
    with pytest.raises(SpecError, match=r"puts the transition at x = .*choose eps"):
        egem(X, eps=1e-300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["auto", "plain"])
def test_the_smallest_leak_still_has_its_limit(dtype, backend):
    y = segem(torch.tensor([-torch.inf, -1e30, torch.inf], dtype=torch.float64).to(dtype), leak=1e-30, backend=backend)
    assert y[0].item() == -torch.inf
    assert y[2].item() == torch.inf
    if dtype != torch.float16:  # -1e30 is -inf there.
        assert y[1].item() == pytest.approx(-1, rel=2 * torch.finfo(dtype).eps)


BAD_DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
]


@pytest.mark.parametrize("dtype", BAD_DTYPES, ids=str)
def test_dtypes(dtype):
    x = torch.ones(3).to(dtype)
    before = x.clone()
    for call in (gem, egem, segem, GEM(), EGEM(), SEGEM(), GEM(inplace=True), lambda x: gem_glu(X, x)):
        with pytest.raises(TensorError, match=f"float16, bfloat16, float32 or float64, got {dtype}"):
            call(x)
    assert torch.equal(x.view(torch.uint8), before.view(torch.uint8))


@pytest.mark.parametrize(
    "x", [1.0, 3, None, "x", [1.0, 2.0], (X,), np.ones(3), GemSpec()], ids=lambda x: type(x).__name__
)
def test_what_is_no_tensor(x):
    for call in (gem, egem, segem, GEM(), lambda x: activate(x, GemSpec()), lambda x: gem_glu(X, x)):
        with pytest.raises(TensorError, match=rf"expected a torch.Tensor, got {type(x).__name__}"):
            call(x)


def test_options():
    with pytest.raises(TensorError, match=r"save='both'.*'auto', 'input' or 'output'"):
        gem(X, save=BOTH)
    with pytest.raises(BackendError, match=r"backend='cuda'.*auto, plain, cpu, triton"):
        gem(X, backend=CUDA)
    with pytest.raises(TensorError, match="agree in shape"):
        gem_glu(X, torch.ones(4))
    with pytest.raises(TensorError, match="agree in dtype"):
        gem_glu(X, torch.ones(3, dtype=torch.float64))


def test_one_family_of_errors_that_old_code_can_catch_as_a_value_error():
    for error in (SpecError, TensorError, BackendError):
        assert issubclass(error, GemError)
        assert issubclass(error, ValueError)


def test_an_error_leaves_the_functions_usable():
    with pytest.raises(GemError):
        gem(X, n=0)
    assert torch.equal(gem(X), torch.full((3,), 0.5))


def test_a_number_in_a_tensor_is_read_anew_at_every_call():
    eps: Any = torch.tensor(0.5)
    before = egem(X, eps=eps)
    eps.fill_(2.0)
    assert torch.equal(before, egem(X, eps=0.5))
    assert torch.equal(egem(X, eps=eps), egem(X, eps=2.0))


def test_numpy_numbers_are_numbers():
    x = torch.linspace(-1, 2, 10)
    numbers: dict[str, Any] = {"n": np.int64(2), "eps": np.float32(0.5), "leak": np.float64(0.25)}
    got = segem(x, **numbers)
    assert torch.equal(got, segem(x, n=2, eps=0.5, leak=0.25))
