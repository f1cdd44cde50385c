"""What holds on every backend of Keras; `test_backends.py` runs this file with each."""

import doctest
import os
from pathlib import Path
from typing import Any

import keras
import keras.src.testing
import ml_dtypes
import numpy as np
import pytest

import gem_activations.keras as front
from gem_activations import GemSpec
from gem_activations.errors import SpecError, TensorError
from gem_activations.keras import EGEM, GEM, SEGEM, activate, egem, gem, segem

from ..golden.table import read
from ..sweeps import bit_patterns, sweep_float32, wide
from ..tolerances import (
    FLUSHED_FLOOR,
    HALF_ULPS,
    HIGHER_DERIVATIVE,
    RUNTIME,
    converted_float16,
    traced_gradient_floor,
    traced_gradient_ulps,
    value_ulps,
)
from ..ulps import smallest_normal, ulps_apart

# Keras hands the tensors of TensorFlow and PyTorch to NumPy by a protocol that NumPy 2 has changed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    # Keras's own test of a layer trains models of that layer alone, from a generator.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored:UserWarning"),
    pytest.mark.filterwarnings("ignore:The model does not have any trainable weights:UserWarning"),
]

BACKEND = keras.backend.backend()
FOLDER = Path(os.environ["GEM_KERAS_FOLDER"])
SPECS = [GemSpec(), GemSpec(2, 1e-4), GemSpec(3, 1e6), GemSpec(8, 1e-12), GemSpec(64, 10.0), GemSpec(2, 1e-4, 0.01)]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=str)


def differentiate(x: Any, spec: GemSpec) -> tuple[Any, Any, Any]:
    """Return f, f' and f'' by the backend's own reverse mode."""
    if BACKEND == "torch":
        import torch

        x = torch.tensor(x, requires_grad=True)
        y = activate(x, spec)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x)
        return y.detach().numpy(), slope.detach().numpy(), bend.numpy()
    if BACKEND == "jax":
        import jax

        slope = jax.grad(lambda x: activate(x, spec).sum())
        bend = jax.grad(lambda x: slope(x).sum())
        return jax.jit(lambda x: (activate(x, spec), slope(x), bend(x)))(x)
    import tensorflow as tf

    @tf.function
    def all_orders(x: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = activate(x, spec)
            slope = inner.gradient(y, x)
        return y, slope, outer.gradient(slope, x)

    return all_orders(tf.constant(x))


def numbers(y: Any) -> Any:
    """Return a tensor of any dtype to NumPy; TensorFlow's bfloat16 does not convert without a warning."""
    wider = "float32" if keras.backend.standardize_dtype(y.dtype) == "bfloat16" else y.dtype
    return keras.ops.convert_to_numpy(keras.ops.cast(y, wider))


def within(got: Any, want: Any, dtype: str, ulps: float, floor: float) -> bool:
    return bool((ulps_apart(wide(got), want, dtype, floor * smallest_normal(dtype)) <= ulps).all())


@every_spec
def test_float32_over_all_finite_inputs(spec):
    x = sweep_float32(spec)
    value, slope, bend = differentiate(x, spec)
    assert within(value, spec(x), "float32", value_ulps(spec.n), FLUSHED_FLOOR)
    floor = traced_gradient_floor(spec.n, spec.reduction.eps)
    assert within(slope, spec.derivative(x), "float32", traced_gradient_ulps(spec.n), floor)
    assert np.isfinite(wide(bend)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("spec", [GemSpec(), GemSpec(3, 1e-4), GemSpec(2, 1.0, 0.01)], ids=str)
def test_every_16_bit_pattern(dtype, spec):
    x = bit_patterns(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    y = activate(keras.ops.convert_to_tensor(x), spec)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    floor = FLUSHED_FLOOR if dtype == "bfloat16" else 0.0  # Float16 is computed in float32.
    with np.errstate(invalid="ignore"):  # A signalling NaN.
        assert within(numbers(y), spec(wide(x)), dtype, HALF_ULPS, floor)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 16, 50])
@pytest.mark.parametrize(("scale", "leak"), [(1e-3, 0.0), (0.1, 0.01), (1.0, 0.0), (24.0, 0.2), (1e3, 0.01)])
def test_the_graph_in_true_float16(n, scale, leak):
    # As a converter makes it: no operation is widened, and every one is rounded to float16.
    spec, every = GemSpec.from_scale(n, scale, leak), bit_patterns("float16")
    y = front._value(keras.ops.convert_to_tensor(every), spec)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    ulps, floor = converted_float16(n, scale)
    with np.errstate(invalid="ignore"):  # A signalling NaN, and infinity times 0.
        x, got = wide(every), wide(numbers(y))
        want = spec(x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
    np.testing.assert_array_equal(got[np.isinf(x)], want[np.isinf(x)])
    finite = np.abs(want) < 65504 * (1 - ulps * 2.0**-11)  # Beyond it a rounding can lead to infinity.
    near = np.abs(got[finite] - want[finite]) <= floor
    assert (near | (ulps_apart(got[finite], want[finite], "float16") <= ulps)).all()


def test_float64_equals_mpmath():
    for golden in read():
        y = activate(keras.ops.convert_to_tensor(golden.x, "float64"), golden.spec)
        assert keras.backend.standardize_dtype(y.dtype) == "float64"
        got = keras.ops.convert_to_numpy(y)
        assert within(got, golden.value, "float64", value_ulps(golden.spec.n), FLUSHED_FLOOR), golden.spec


@every_spec
def test_float64_second_derivative(spec):
    x = spec.scale * np.linspace(-2, 3, 41)
    _, _, bend = differentiate(x, spec)
    want = spec.second_derivative(x)
    np.testing.assert_allclose(bend, want, rtol=0, atol=HIGHER_DERIVATIVE * np.abs(want).max())


@every_spec
def test_zero_infinity_nan_and_the_largest_numbers(spec):
    x = np.array([0.0, -0.0, np.inf, -np.inf, 3.4e38, -3.4e38, np.nan], np.float32)
    value, slope, bend = (wide(each) for each in differentiate(x, spec))
    leak = np.float32(spec.leak)
    below = [-np.inf, np.float32(-3.4e38) * leak] if leak else [0.0, 0.0]
    np.testing.assert_array_equal(value, [0.0, 0.0, np.inf, below[0], np.float32(3.4e38), below[1], np.nan])
    np.testing.assert_array_equal(slope[:6], [leak, leak, 1.0, leak, 1.0, leak])
    np.testing.assert_array_equal(bend[:6], 0.0)


def make_model() -> Any:
    keras.utils.set_random_seed(7)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(12, activation=gem)(inputs)
    hidden = GEM(n=2, name="second")(keras.layers.Dense(12)(hidden))
    hidden = keras.layers.Dense(12, activation=EGEM(n=2, eps=0.5))(hidden)
    hidden = SEGEM(3, 0.1, 0.05)(keras.layers.Dense(12)(hidden))
    return keras.Model(inputs, keras.layers.Dense(2, activation=segem)(hidden))


X = np.random.default_rng(1).standard_normal((160, 6)).astype(np.float32)


def test_a_saved_model_is_loaded_here_and_by_the_next_backend():
    model = make_model()
    path, results = FOLDER / "model.keras", FOLDER / "results.npy"
    if path.exists():
        other = keras.saving.load_model(path)
        want = np.load(results)
        np.testing.assert_allclose(other.predict(X, verbose=0), want, rtol=0, atol=RUNTIME * np.abs(want).max())
    model.save(path)
    before = model.predict(X, verbose=0)
    np.save(results, before)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), before)
    assert loaded.get_layer("second").spec == GemSpec(2)
    assert loaded.layers[1].activation is gem
    assert loaded.layers[4].activation.spec == GemSpec(2, 0.5)
    assert loaded.layers[6].spec == GemSpec(3, 0.1, 0.05)
    assert len(loaded.weights) == 10  # Of the five dense layers alone.


def test_ten_steps_of_fit():
    model = make_model()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    y = X[:, :2] + X[:, 2:4]
    before = model.evaluate(X, y, verbose=0)
    history = model.fit(X, y, batch_size=16, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert int(model.optimizer.iterations) == 10
    assert model.evaluate(X, y, verbose=0) < before


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float32"])
def test_mixed_precision(policy):
    layer = EGEM(eps=0.5, dtype=policy)
    y = layer(keras.ops.convert_to_tensor(X))
    dtype = keras.DTypePolicy(policy).compute_dtype
    assert keras.backend.standardize_dtype(y.dtype) == dtype == layer.compute_dtype
    x = wide(numbers(keras.ops.cast(X, dtype)))
    assert within(numbers(y), GemSpec(1, 0.5)(x), dtype, value_ulps(1), FLUSHED_FLOOR)


@pytest.mark.parametrize("layer", [GEM(), GEM(3), EGEM(2, 0.5), SEGEM(2, 0.5, 0.25)], ids=lambda layer: str(layer.spec))
def test_a_layer_and_its_config(layer):
    config = keras.saving.serialize_keras_object(layer)
    assert config["registered_name"] == f"gem_activations>{type(layer).__name__}"
    twin = keras.saving.deserialize_keras_object(config)
    assert (type(twin), twin.spec, twin.name) == (type(layer), layer.spec, layer.name)
    assert layer.compute_output_shape((None, 3)) == (None, 3)
    assert not layer.weights
    assert layer.supports_masking


def test_functions_serialise_by_name_and_take_symbolic_tensors():
    for function in (gem, egem, segem):
        config = keras.activations.serialize(function)
        assert config["config"] == f"gem_activations>{function.__name__}"
        assert keras.activations.get(config) is function
        symbol = function(keras.KerasTensor((None, 3), "float16"))
        assert (symbol.shape, symbol.dtype) == ((None, 3), "float16")


def test_a_symbolic_call_of_a_layer_says_the_dtype_that_comes_out():
    for layer in (GEM(autocast=False), EGEM(dtype="mixed_float16"), SEGEM(dtype="bfloat16"), GEM(dtype="float64")):
        for dtype in ("float16", "float32", "float64"):
            inputs = keras.Input((3,), dtype=dtype)
            outputs = layer(inputs)
            assert outputs.shape == (None, 3)
            computed = layer(keras.ops.ones((2, 3), dtype))
            assert outputs.dtype == keras.backend.standardize_dtype(computed.dtype), (layer, dtype)
            assert keras.Model(inputs, outputs).output.dtype == outputs.dtype


@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8"])
def test_integers_are_refused_when_a_model_is_made(dtype):
    for layer in (GEM(), EGEM(), SEGEM()):
        with pytest.raises(TensorError, match=f"float16, bfloat16, float32 or float64, got {dtype}"):
            layer(keras.Input((3,), dtype=dtype))


def test_a_layer_of_two_inputs_is_refused():
    with pytest.raises(TensorError, match="expected a tensor of floating-point numbers, got list"):
        GEM()([keras.Input((3,)), keras.Input((3,))])


def test_a_layer_inside_a_wrapper():
    inputs = keras.Input((5, 6))
    assert keras.layers.TimeDistributed(GEM())(inputs).shape == (None, 5, 6)


@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8"])
def test_integers(dtype):
    x = np.ones(3, dtype)
    for function in (gem, egem, segem, GEM(), EGEM(), SEGEM(), lambda x: gem(keras.KerasTensor((3,), str(x.dtype)))):
        with pytest.raises(TensorError, match=f"float16, bfloat16, float32 or float64, got {dtype}"):
            function(x)


def test_what_is_no_tensor():
    text = "|string" if BACKEND == "tensorflow" else ""  # Which has tensors of text.
    for x in (None, object(), "x"):
        with pytest.raises(TensorError, match=rf"expected a tensor of .*, got ({type(x).__name__}{text})$"):
            gem(x)
    for x in (np.array([1.0, None]), np.array(["a"])):
        with pytest.raises(TensorError, match=rf"expected a tensor of .*, got (ndarray of dtype {x.dtype}{text})$"):
            gem(x)


@pytest.mark.parametrize("n", [0, 65, 1.5, "2", None])
def test_orders_out_of_range(n):
    for make in (GEM, EGEM, SEGEM, lambda n: gem(X, n=n)):
        with pytest.raises(SpecError, match="whole number from 1 to 64"):
            make(n)


def test_widths_and_leaks_out_of_range():
    for make in (lambda: EGEM(eps=0), lambda: SEGEM(eps=-1.0), lambda: egem(X, eps=float("nan"))):
        with pytest.raises(SpecError, match="eps="):
            make()
    for make in (lambda: SEGEM(leak=1.0), lambda: segem(X, leak=-0.1)):
        with pytest.raises(SpecError, match="leak="):
            make()


def test_a_config_with_an_unknown_name():
    with pytest.raises((ValueError, TypeError), match=r"(?s)GEM.*order"):
        GEM.from_config({**GEM().get_config(), "order": 2})
    config = keras.saving.serialize_keras_object(GEM())
    unknown = {**config, "class_name": "GEMM", "registered_name": "gem_activations>GEMM"}
    with pytest.raises(TypeError, match="Could not locate class 'GEMM'"):
        keras.saving.deserialize_keras_object(unknown)


def test_the_docstrings():
    failed, attempted = doctest.testmod(front, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not failed
    assert attempted >= 10


class Scaled(GEM):
    """A user's layer with a weight of its own."""

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        return super().call(inputs) * self.scale


def test_a_subclass_with_weights_is_built():
    layer = Scaled(n=2)
    assert not layer.built
    assert layer(keras.ops.ones((2, 3))).shape == (2, 3)
    assert layer.built
    assert [tuple(weight.shape) for weight in layer.weights] == [(3,)]


CONFIGS = [(GEM, {"n": 2}), (EGEM, {"n": 2, "eps": 0.5}), (SEGEM, {"n": 1, "eps": 0.1, "leak": 0.2})]


class TestLayersByKeras(keras.src.testing.TestCase):
    """Keras's own test of a layer: saving, symbolic calls, dtype policies, masks, training steps."""

    def test_members(self) -> None:
        for layer, arguments in CONFIGS:
            self.run_layer_test(
                layer,
                init_kwargs=arguments,
                input_shape=(2, 3, 4),
                expected_output_shape=(2, 3, 4),
                expected_num_trainable_weights=0,
                expected_num_non_trainable_weights=0,
                expected_num_seed_generators=0,
                expected_num_losses=0,
                supports_masking=True,
                assert_built_after_instantiation=False,
            )
            assert layer(**arguments).compute_output_shape((2, 3, 4)) == (2, 3, 4)
