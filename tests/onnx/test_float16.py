"""A float32 file that a converter has made float16, in true float16 arithmetic: finite and accurate for every input."""

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor, nn

from gem_activations import GemSpec
from gem_activations.torch import exported, functional

from ..sweeps import bit_patterns, wide
from ..tolerances import converted_float16
from ..torch.known_warnings import exporting
from ..ulps import ulps_apart
from .running import export, start

pytestmark = exporting

ORDERS = (1, 2, 3, 4, 5, 8, 16, 50)
SPECS = [
    GemSpec.from_scale(n, scale, leak)
    for number, n in enumerate(ORDERS)
    for scale, leak in ((1e-3, 0.0), (0.1, 0.01), (1.0, 0.0), (24.0, 0.2), (1e3, 0.01 * (number % 2)))
]
EVERY = bit_patterns(np.float16)


class Together(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(functional.activate(x, spec) for spec in SPECS)


def assert_accurate(got, spec):
    with np.errstate(invalid="ignore"):  # A signalling NaN, and infinity times 0.
        x = wide(EVERY)
        want = spec(x)
    ulps, floor = converted_float16(spec.n, spec.scale)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x), str(spec))
    finite = np.abs(want) < 65504 * (1 - ulps * 2.0**-11)  # Beyond it a rounding can lead to infinity.
    near = np.abs(wide(got)[finite] - want[finite]) <= floor
    assert (near | (ulps_apart(wide(got)[finite], want[finite], "float16") <= ulps)).all(), spec
    np.testing.assert_array_equal(got[np.isinf(x)], want[np.isinf(x)], str(spec))


@pytest.fixture(scope="module")
def files():
    """The float32 file, made float16 as a whole, and made so with the operators that the converter spares by itself."""
    model = export(Together(), torch.zeros(3), dynamic={"x": (torch.export.Dim.DYNAMIC,)})
    whole = convert_float_to_float16(onnx.ModelProto.FromString(model.SerializeToString()), op_block_list=[])
    return whole, convert_float_to_float16(model)


def test_every_input_of_every_member_in_true_float16(files):
    whole = files[0]
    types = {each.type.tensor_type.elem_type for each in onnx.shape_inference.infer_shapes(whole).graph.value_info}
    assert types == {onnx.TensorProto.FLOAT16}
    with np.errstate(all="ignore"):
        results = ReferenceEvaluator(whole).run(None, {whole.graph.input[0].name: EVERY})
    for got, spec in zip(results, SPECS, strict=True):
        assert got.dtype == np.float16
        assert_accurate(got, spec)


def test_every_input_in_onnx_runtime_after_a_usual_conversion(files):
    session = start(files[1])
    results = session.run(None, {session.get_inputs()[0].name: EVERY})
    for got, spec in zip(results, SPECS, strict=True):
        assert_accurate(got, spec)


def test_no_constant_is_too_small_or_too_large_for_float16(files):
    numbers = [onnx.numpy_helper.to_array(each) for each in files[0].graph.initializer]
    sizes = np.abs(np.concatenate([each.ravel() for each in numbers if each.dtype == np.float16]))
    assert 2.0**-14 <= sizes[sizes > 0].min() <= sizes.max() <= 65504


@pytest.mark.parametrize("n", ORDERS)
def test_scales_from_a_thousandth_to_a_thousand(n):
    """PyTorch rounds each operation of float16 as the evaluator does, and is fast enough for many members."""
    x = torch.from_numpy(EVERY)
    for number, scale in enumerate(np.geomspace(1e-3, 1e3, 25)):
        spec = GemSpec.from_scale(n, float(scale), 0.01 * (number % 2))
        assert_accurate(exported.value(x, spec).numpy(), spec)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_gradients_of_an_exported_formula_are_finite(spec):
    finite = EVERY[np.isfinite(EVERY)].astype(np.float32)
    ends = np.array([1e30, -1e30, 1e-40, -1e-40, spec.scale], np.float32)
    x = torch.tensor(np.concatenate([finite, ends]), requires_grad=True)
    (slope,) = torch.autograd.grad(exported.value(x, spec).sum(), x, create_graph=True)
    assert slope.isfinite().all()
    np.testing.assert_allclose(slope.detach().numpy(), spec.derivative(wide(x.detach().numpy())), rtol=0, atol=1e-4)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert bend.isfinite().all()
