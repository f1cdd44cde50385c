"""What the JAX front cannot serve: one clear error of the project's own family."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gem_activations import GemSpec
from gem_activations.errors import SpecError, TensorError
from gem_activations.jax import activate, egem, gem, segem

X = jnp.ones(3)


@pytest.mark.parametrize("n", [0, -1, 1.5, 65, None, True, "1", math.nan])
def test_orders(n: Any):
    for function in (gem, egem, segem):
        with pytest.raises(SpecError, match=r"n=.*a whole number from 1 to 64"):
            function(X, n=n)


@pytest.mark.parametrize("eps", [0, -1e-4, math.inf, math.nan, "1", 1e-300])
def test_widths(eps: Any):
    for function in (egem, segem):
        with pytest.raises(SpecError, match=r"eps=.*(above 0|choose eps between)"):
            function(X, eps=eps)


def test_scale_is_another_spelling_of_eps_and_not_given_with_it():
    for function in (egem, segem):
        assert jnp.array_equal(function(X, n=2, scale=0.5), function(X, n=2, eps=0.0625))
        assert jnp.array_equal(jax.jit(lambda x, f=function: f(x, scale=0.5))(X), function(X, eps=0.25))
        with pytest.raises(SpecError, match="give one of them"):
            function(X, eps=1.0, scale=1.0)


@pytest.mark.parametrize("leak", [-0.01, 1, math.nan, None])
def test_leaks(leak: Any):
    with pytest.raises(SpecError, match=r"leak=.*from 0 up to, not including, 1"):
        segem(X, leak=leak)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int32", "uint16", "complex64", "float8_e4m3fn"])
def test_dtypes(dtype):
    with pytest.raises(TensorError, match=f"float16, bfloat16, float32 or float64, got {dtype}"):
        gem(jnp.ones(3, dtype))
    with pytest.raises(TensorError, match="float64, got int32"):
        jax.jit(gem)(3)


@pytest.mark.parametrize("x", [None, "x", set(), {"a": 1.0}, 10**400], ids=["None", "text", "set", "dict", "huge"])
def test_what_is_no_array(x: Any):
    with pytest.raises(TensorError, match=f"array of floating-point numbers, got {type(x).__name__}"):
        gem(x)


@pytest.mark.parametrize("x", [np.array([1.0, None]), np.array(["a"])], ids=["objects", "text"])
def test_an_array_of_no_numbers_says_its_dtype(x: Any):
    with pytest.raises(TensorError, match=f"array of floating-point numbers, got ndarray of dtype {x.dtype}"):
        gem(x)


@pytest.mark.parametrize("name", ["n", "eps", "leak"])
def test_a_traced_parameter_says_how_to_bind_it(name):
    with pytest.raises(SpecError, match=rf"{name} is a traced value.*functools.partial.*static_argnames"):
        jax.jit(lambda value: segem(X, **{name: value}))(1)


@pytest.mark.parametrize("name", ["eps", "leak"])
def test_a_traced_parameter_of_flax_says_it_too(name):
    parameter = nnx.Param(jnp.float32(0.5))
    want = segem(X, **{name: 0.5})
    np.testing.assert_array_equal(segem(X, **{name: parameter}), want)
    with pytest.raises(SpecError, match=rf"{name} is a traced value.*functools.partial.*static_argnames"):
        nnx.jit(lambda value: segem(X, **{name: value}))(parameter)


def test_arguments_after_the_order_are_named():
    np.testing.assert_array_equal(segem(X, 2), segem(X, n=2))
    positional: Any = segem
    with pytest.raises(TypeError):
        positional(X, 2, 0.1)


def test_numpy_numbers_are_numbers():
    numbers: dict[str, Any] = {"n": np.int64(2), "eps": np.float32(0.5), "leak": np.float64(0.25)}
    np.testing.assert_array_equal(segem(X, **numbers), segem(X, n=2, eps=0.5, leak=0.25))


def test_an_error_leaves_the_functions_usable():
    with pytest.raises(SpecError):
        gem(X, n=0)
    np.testing.assert_array_equal(activate(X, GemSpec()), [0.5] * 3)
