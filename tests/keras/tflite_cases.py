"""TFLite in its five modes: what a network with GEM loses, beside the same one with GELU. Run by test_backends.py."""

import contextlib
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from gem_activations.keras import EGEM, GEM, SEGEM, int8_form

from ..tolerances import TFLITE_OVER_GELU, TFLITE_RANGE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

DIGITS = load_digits()
IMAGES = (DIGITS.images / 16).astype(np.float32)[..., None]
TAUGHT = 1400
MODES = ("float32", "float16", "dynamic", "int8", "16x8")
ACTIVATIONS = {
    "gelu": (lambda: keras.layers.Activation("gelu"), 1.53),
    "gem(n=2)": (lambda: GEM(2), 1.81),
    "egem(n=1)": (EGEM, 1.41),
    "segem(n=2)": (lambda: SEGEM(2), 1.41),
}


@cache
def network(name, trained):
    """Return a network of three activations, taught for some seconds or not at all."""
    keras.utils.set_random_seed(0)
    make, gain = ACTIVATIONS[name]
    start = {"kernel_initializer": keras.initializers.VarianceScaling(gain**2)}
    layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(12, 3, **start), make(), keras.layers.MaxPooling2D(2)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(48, **start), make(), keras.layers.Dense(24, **start), make()]
    model = keras.Sequential([*layers, keras.layers.Dense(10)])
    if trained:
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(IMAGES[:TAUGHT], DIGITS.target[:TAUGHT], batch_size=32, epochs=5, verbose=0)
    return model


def convert(model, mode):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode in ("int8", "16x8"):
        converter.representative_dataset = lambda: ([IMAGES[i : i + 1]] for i in range(200))
        integers = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        if mode == "16x8":
            integers = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [integers]
    with int8_form() if mode in ("int8", "16x8") else contextlib.nullcontext():
        return converter.convert()


@cache
def error(name, mode, trained):
    """Return the root mean square error of the outputs, relative to their range."""
    model, images = network(name, trained), IMAGES[TAUGHT:]
    want = model.predict(images, verbose=0)
    interpreter = tf.lite.Interpreter(model_content=convert(model, mode))
    given, taken = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.allocate_tensors()
    got = []
    for number in range(len(images)):
        interpreter.set_tensor(given, images[number : number + 1])
        interpreter.invoke()
        got.append(interpreter.get_tensor(taken)[0])
    return float(np.sqrt(np.mean((np.array(got) - want) ** 2)) / np.ptp(want))


@pytest.mark.parametrize("trained", [False, True], ids=["untrained", "trained"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "gelu"])
def test_a_converted_network_loses_about_what_gelu_does(name, mode, trained):
    assert error(name, mode, trained) <= TFLITE_OVER_GELU * error("gelu", mode, trained) + TFLITE_RANGE


def test_values_in_the_form_for_int8():
    x = np.concatenate([np.linspace(-4, 8, 4001), [1e4, 0.0]]).astype(np.float32)
    for layer in (GEM(1), GEM(3), EGEM(2, 0.1), SEGEM(2, 0.3, 0.05)):
        with int8_form():
            got = keras.ops.convert_to_numpy(layer(x))
        np.testing.assert_allclose(got, layer.spec(x), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)), layer.spec(x), rtol=1e-6, atol=1e-9)
