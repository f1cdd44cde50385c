"""The layers of a quantised ONNX file: each member of the family between DequantizeLinear and QuantizeLinear.

An exporter leaves some ten to twenty elementwise operators of an activation, and a quantiser adds its own pairs between
them, or takes the Relu away. So the graph is not matched operator by operator: what stands between a quantised tensor
and another is evaluated in float64, without the pairs inside it, and its n, eps and leak are read off the values.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import QuantizationError, SpecError
from ..extras import framework
from ..spec import GemSpec
from .quantization import Quantization

_OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Clip": np.clip,
    "Div": np.divide,
    "Mul": np.multiply,
    "Pow": np.power,
    "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0),
    "Sub": np.subtract,
}
_PROBES = 2.0 ** np.arange(-40, 40, 1 / 64)  # So close that a gate of n = 64 has several between 0.1 and 0.9.
_CONSTANTS = 1e-6  # A constant of float32 is off by 2^-24, and the quantiser's own pair around it adds twice that.
_CLOSED = 1e-12  # A slope below this is a leak of 0: the gate of n = 1 is no smaller at the first probe.


def read_onnx(path: Path) -> dict[str, tuple[GemSpec, Quantization]]:
    """Return the layers of a quantised ONNX file, in its order, by the names of their outputs made names of C.

    Raises: QuantizationError: no ONNX file, one that is not quantised or has no member of the family between two
        quantised tensors, or one whose integers are not those of `Quantization`; MissingDependencyError: onnx is not
        installed.
    """
    with framework("onnx", at_least="1.20"):
        import onnx
    try:
        graph = _Graph(onnx.load(path).graph, onnx.numpy_helper.to_array)
    except Exception as error:  # Protobuf's among them, which onnx does not name.
        raise QuantizationError(f"{path} cannot be read as ONNX: {error}") from None
    if not graph.pairs:
        raise QuantizationError(
            f"{path} is not quantised: it has no QuantizeLinear; make it so by onnxruntime.quantization.quantize_static"
        )
    layers: dict[str, tuple[GemSpec, Quantization]] = {}
    for output in graph.products():
        for source in graph.sources(output):
            spec = _fit(lambda x, y=output, given=source: graph.value(y, given, x), graph.signed(source))
            if spec is not None:
                name = re.sub(r"\W", "_", output, flags=re.ASCII).strip("_")
                name = f"_{name}" if name[:1].isdigit() else name
                if name in layers:
                    raise QuantizationError(f"{path}: two layers would be called {name!r}; rename {output!r}")
                layers[name] = spec, graph.quantization(path, source, output)
                break
    if not layers:
        raise QuantizationError(
            f"{path}: no member of the GEM family between DequantizeLinear and QuantizeLinear; quantise its input and "
            f"its output, or name the activation and its scales"
        )
    return layers


class _ForeignError(Exception):
    """A tensor depends on more than the given one, or on an operator that is not elementwise."""


class _Graph:
    """Tensors by name, and what makes them; a tensor and its dequantised form are one."""

    def __init__(self, graph: Any, to_array: Callable[[Any], NDArray[Any]]) -> None:
        self._nodes = {output: node for node in graph.node for output in node.output}
        self._constants = {each.name: to_array(each) for each in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = to_array(node.attribute[0].t)
        self.pairs: dict[str, Any] = {}
        for node in graph.node:
            if node.op_type == "QuantizeLinear":
                self.pairs[node.input[0]] = node
            elif node.op_type == "DequantizeLinear" and node.input[0] not in self._constants:
                self.pairs.setdefault(self._origin(node.output[0]), node)  # Of an integer input of the model.

    def _origin(self, tensor: str) -> str:
        node = self._nodes.get(tensor)
        if node is not None and node.op_type == "DequantizeLinear":
            before = self._nodes.get(node.input[0])
            if before is not None and before.op_type == "QuantizeLinear":
                return before.input[0]
        return tensor

    def products(self) -> list[str]:
        """Return the quantised tensors that a product makes, as every member of the family is one."""
        return [
            tensor for tensor in self._nodes if tensor in self.pairs and self._nodes[tensor].op_type in ("Mul", "Div")
        ]

    def sources(self, output: str) -> list[str]:
        """Return the quantised tensors that `output` depends on elementwise, the first of the graph first."""
        found, left = {output}, [output]
        while left:
            node = self._nodes.get(left.pop())
            if node is not None and node.op_type in _OPERATORS:
                new = {self._origin(each) for each in node.input if each} - found
                found |= new
                left += new
        order = {tensor: number for number, tensor in enumerate(self._nodes)}
        return sorted((found - {output}) & self.pairs.keys(), key=lambda tensor: order.get(tensor, -1))

    def value(self, tensor: str, given: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute `tensor` in float64 from x in place of `given`. Raises: _ForeignError."""
        values: dict[str, Any] = {given: x}

        def compute(name: str) -> Any:
            name = self._origin(name)
            if name in values:
                return values[name]
            node = self._nodes.get(name)
            if name in self._constants:
                value = self._constants[name].astype(np.float64)
            elif node is not None and node.op_type == "DequantizeLinear" and node.input[0] in self._constants:
                integers, scale, *zero = (self._constants[each].astype(np.float64) for each in node.input)
                value = (integers - sum(zero)) * scale
            elif node is not None and node.op_type in _OPERATORS:
                value = _OPERATORS[node.op_type](*(compute(each) for each in node.input if each))
            else:
                raise _ForeignError
            values[name] = value
            return value

        result = compute(tensor)
        if np.shape(result) != x.shape:
            raise _ForeignError
        return result

    def signed(self, tensor: str) -> bool:
        """Return whether the integers of a tensor stand for negative numbers as well: else its Relu may be gone."""
        zero = self._constants.get(self.pairs[tensor].input[2]) if len(self.pairs[tensor].input) > 2 else None
        return zero is None or zero.size != 1 or zero.item() > np.iinfo(zero.dtype).min

    def quantization(self, path: Path, source: str, output: str) -> Quantization:
        """Return the scales and zero points on both sides. Raises: QuantizationError."""
        sides: list[tuple[float, int, str]] = []
        for tensor in (source, output):
            numbers = [self._constants.get(each) for each in self.pairs[tensor].input[1:]]
            if len(numbers) != 2 or any(each is None or each.size != 1 for each in numbers):
                raise QuantizationError(f"{path}: {tensor!r} needs one constant scale and one constant zero point")
            scale, zero = (each for each in numbers if each is not None)
            sides.append((float(scale.item()), int(zero.item()), str(zero.dtype)))
        (in_scale, in_zero, kind), (out_scale, out_zero, out_kind) = sides
        if kind != out_kind or kind not in ("int8", "int16"):
            raise QuantizationError(
                f"{path}: {source!r} is {kind} and {output!r} is {out_kind}, expected int8 or int16 for both; quantise "
                f"with activation_type=QuantType.QInt8 or QInt16"
            )
        return Quantization(in_scale, in_zero, out_scale, out_zero, 8 if kind == "int8" else 16, "even")


def _fit(function: Callable[[NDArray[np.float64]], NDArray[np.float64]], signed: bool) -> GemSpec | None:
    """Return the member of the family that a function is, if it is one; on x > 0 alone unless `signed`."""
    x = np.concatenate([-_PROBES, _PROBES]) if signed else _PROBES
    with np.errstate(all="ignore"):
        try:
            y = function(x)
        except _ForeignError:
            return None
        slope = (y / x)[-_PROBES.size :]
        leak = _plain(slope[0]) if slope[0] > _CLOSED else 0.0
        gate = (slope - leak) / (1 - leak)
        odds = gate / (1 - gate)
        middle = int(np.argmin(np.abs(gate[:-1] - 0.5)))
        order = np.log2(odds[middle + 1] / odds[middle]) * 32
        if not 0.1 < gate[middle] < 0.9 or not 0.5 < order < 1000:
            return None
        n = round(order)
        try:
            spec = GemSpec(n, _plain(_PROBES[middle] ** (2 * n) / odds[middle]), leak)
        except SpecError:
            return None
        want = spec(x)
        return spec if np.allclose(y, want, rtol=4 * n * _CONSTANTS, atol=1e-30) else None


def _plain(value: np.float64) -> float:
    """Undo what float32 did to a short decimal, such as 1e-4."""
    short = float(f"{value:.5g}")
    return short if abs(short - value) <= _CONSTANTS * value else float(value)
