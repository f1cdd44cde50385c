"""Train small networks on digits, convert them for ONNX Runtime and TFLite, and say what they lose in float16 and int8.

    python benchmarks/runtimes.py --data-dir FOLDER_OF_MNIST --out benchmarks/results/runtimes.jsonl

scikit-learn's digits, and MNIST if the folder with its four .gz files is given: 1,400 images and 20,000 are taught,
397 and 10,000 are scored. ONNX Runtime takes what PyTorch's exporter wrote, converted by its own tools; TFLite what
Keras on TensorFlow gives. Errors are of the logits, root mean square, relative to their spread and to their range,
against the framework that trained the network. Each runtime has a process of its own, because PyTorch's exporter
crashes beside TensorFlow.
"""

import argparse
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from sklearn.datasets import load_digits
from torch import nn

from gem_activations import GemSpec
from gem_activations.lab.data.images import read_idx
from gem_activations.lab.store.environment import describe_environment
from gem_activations.torch import init_, make_activation

Floats = NDArray[np.float32]
CALIBRATION, TAUGHT_OF_MNIST = 512, 20_000
IN_ONNX = ("gelu", "gem", "gem(n=2)", "gem(n=3)", "egem", "segem(n=2)")
IN_KERAS = {"gelu": 1.53, "gem(n=2)": 1.81, "egem": 1.41, "segem(n=2)": 1.41}  # With their gains.
PACKAGES = ("keras", "onnx", "onnxruntime", "tensorflow-cpu")
TFLITE_MODES = ("float32", "float16", "dynamic", "int8", "16x8")


class Data:
    """Images from 0 to 1 with one channel last, and labels; the last part is for scoring alone."""

    def __init__(self, name: str, images: NDArray[Any], labels: NDArray[Any], taught: int, epochs: int) -> None:
        self.name, self.epochs, self.taught = name, epochs, taught
        self.images = (images / images.max()).astype(np.float32)[..., None]
        self.labels = labels.astype(np.int64)
        self.test, self.answers = self.images[taught:], self.labels[taught:]

    def score(self, got: Floats, want: Floats) -> dict[str, float]:
        before, after = ((logits.argmax(1) == self.answers).mean() * 100 for logits in (want, got))
        error = np.sqrt(np.mean((got - want) ** 2))
        return {
            "accuracy_before": round(float(before), 3),
            "accuracy": round(float(after), 3),
            "points_lost": round(float(before - after), 3),
            "error_of_spread": float(error / want.std()),
            "error_of_range": float(error / np.ptp(want)),
        }


def digits() -> Data:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return Data("digits", data.images[order], data.target[order], 1400, 8)


def mnist(folder: Path) -> Data:
    parts = []
    for part in ("train", "t10k"):
        keep = slice(TAUGHT_OF_MNIST) if part == "train" else slice(None)
        images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")[keep]
        parts.append((images, read_idx(folder / f"{part}-labels-idx1-ubyte.gz")[keep]))
    images, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Data("mnist", images, labels, TAUGHT_OF_MNIST, 1)


def taught_in_torch(activation: str, data: Data) -> nn.Module:
    torch.manual_seed(0)
    small = data.images.shape[1] == 8
    layers: list[nn.Module] = [nn.Conv2d(1, 12, 3, padding=1), make_activation(activation), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(12, 24, 3, padding=1), make_activation(activation)]
    layers += [nn.Flatten()] if small else [nn.MaxPool2d(2), nn.Flatten()]
    features = 24 * (16 if small else 49)
    model = nn.Sequential(*layers, nn.Linear(features, 48), make_activation(activation), nn.Linear(48, 10))
    init_(model, activation)
    images, labels = torch.from_numpy(data.images).movedim(-1, 1), torch.from_numpy(data.labels)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(data.epochs):
        for start in range(0, data.taught, 64):
            batch = slice(start, min(start + 64, data.taught))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


class Batches(CalibrationDataReader):
    """What ONNX Runtime's quantiser sees of the taught images."""

    def __init__(self, images: Floats) -> None:
        self._left = ({"input": each} for each in np.split(images[:CALIBRATION], 8))

    def get_next(self) -> Any:
        return next(self._left, None)


def in_onnx_runtime(activation: str, data: Data) -> Iterator[dict[str, Any]]:
    model = taught_in_torch(activation, data)
    images, test = (np.ascontiguousarray(np.moveaxis(each, -1, 1)) for each in (data.images, data.test))
    with torch.no_grad():
        want = model(torch.from_numpy(test)).numpy()
    with tempfile.TemporaryDirectory() as name:
        paths = {mode: Path(name, f"{mode}.onnx") for mode in ("float32", "float16", "int8", "int8, all operators")}
        free = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(
            model, (torch.from_numpy(images[:4]),), dynamo=True, verbose=False, dynamic_shapes=free
        )
        assert program is not None
        program.save(paths["float32"])
        onnx.save(convert_float_to_float16(onnx.load(paths["float32"]), keep_io_types=True), paths["float16"])
        for mode, operators in (("int8", ["Conv", "Gemm", "MatMul"]), ("int8, all operators", None)):
            quantize_static(paths["float32"], paths[mode], Batches(images), op_types_to_quantize=operators)
        for mode, path in paths.items():
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            got = np.concatenate([session.run(None, {"input": each})[0] for each in np.array_split(test, 10)])
            row = {"data": data.name, "runtime": "onnxruntime", "mode": mode, "activation": activation, "taught": True}
            yield shown(row | data.score(got, want))


def shown(row: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(row), flush=True)
    return row


def network_of_keras(activation: str, data: Data, *, taught: bool) -> Any:
    import keras

    from gem_activations.keras import activate

    def make() -> Any:
        if activation == "gelu":
            return keras.layers.Activation("gelu")
        spec = GemSpec.parse(activation)
        return keras.layers.Activation(lambda x: activate(x, spec))

    keras.utils.set_random_seed(0)
    start: Any = {"kernel_initializer": keras.initializers.VarianceScaling(IN_KERAS[activation] ** 2)}
    layers = [keras.Input(data.images.shape[1:]), keras.layers.Conv2D(12, 3, **start), make()]
    layers += [keras.layers.MaxPooling2D(2), keras.layers.Flatten()]
    layers += [keras.layers.Dense(48, **start), make(), keras.layers.Dense(24, **start), make()]
    model = keras.Sequential([*layers, keras.layers.Dense(10)])
    if taught:
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(data.images[: data.taught], data.labels[: data.taught], batch_size=32, epochs=data.epochs, verbose=0)
    return model


def convert(model: Any, mode: str, images: Floats) -> bytes:
    import tensorflow as tf

    from gem_activations.keras import int8_form

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode not in ("int8", "16x8"):
        return converter.convert()
    converter.representative_dataset = lambda: ([images[number : number + 1]] for number in range(CALIBRATION))
    sets = tf.lite.OpsSet
    converter.target_spec.supported_ops = [
        sets.TFLITE_BUILTINS_INT8
        if mode == "int8"
        else sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    ]
    with int8_form():
        return converter.convert()


def in_tflite(activation: str, data: Data, *, taught: bool) -> Iterator[dict[str, Any]]:
    import tensorflow as tf

    model = network_of_keras(activation, data, taught=taught)
    want = model.predict(data.test, batch_size=256, verbose=0)
    for mode in TFLITE_MODES:
        interpreter = tf.lite.Interpreter(model_content=convert(model, mode, data.images))
        given, made = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
        interpreter.allocate_tensors()
        got = []
        for image in data.test:
            interpreter.set_tensor(given, image[None])
            interpreter.invoke()
            got.append(interpreter.get_tensor(made)[0])
        row = {"data": data.name, "runtime": "tflite", "mode": mode, "activation": activation, "taught": taught}
        yield shown(row | data.score(np.array(got), want))


def with_onnx_runtime(folder: Path | None) -> list[dict[str, Any]]:
    return [row for data in data_sets(folder) for activation in IN_ONNX for row in in_onnx_runtime(activation, data)]


def with_tflite(folder: Path | None) -> list[dict[str, Any]]:
    rows = []
    for data in data_sets(folder):
        for activation in IN_KERAS:
            for taught in (True, False) if data.name == "digits" else (True,):
                rows += in_tflite(activation, data, taught=taught)
    return rows


def data_sets(folder: Path | None) -> list[Data]:
    warnings.filterwarnings("ignore")  # Of the converters.
    return [digits(), *([mnist(folder)] if folder else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with the four .gz files of MNIST")
    parser.add_argument("--out", type=Path, help="file of JSON lines to write")
    options = parser.parse_args()
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    record = {"environment": describe_environment(torch.device("cpu"))}
    record["environment"]["packages"] |= {name: version(name) for name in PACKAGES}
    rows = []
    for measure in (with_onnx_runtime, with_tflite):
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            rows += alone.submit(measure, options.data_dir).result()
    if options.out:
        options.out.write_text("".join(json.dumps(line) + "\n" for line in [record, *rows]), encoding="utf-8")


if __name__ == "__main__":
    main()
