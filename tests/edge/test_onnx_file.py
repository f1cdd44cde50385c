"""gem-act c on what ONNX Runtime's own static quantisation makes of an exported model."""

import sys

import numpy as np
import pytest

from gem_activations import GemSpec
from gem_activations.cli import main
from gem_activations.edge import integer
from gem_activations.edge.onnx_file import read_onnx

torch = pytest.importorskip("torch", reason="needs torch, which exports the models")
onnx = pytest.importorskip("onnx", reason="needs onnx")
quantization = pytest.importorskip("onnxruntime.quantization", reason="needs onnxruntime")

from gem_activations.torch import make_activation  # noqa: E402 -- it needs torch

from ..torch.known_warnings import exporting  # noqa: E402 -- it needs torch

pytestmark = exporting

SPECS = [GemSpec(2), GemSpec(1, 1e-4), GemSpec(3, 1e-4, 0.01), GemSpec.from_scale(64, 0.7), GemSpec(1, 0.3, 1e-3)]
ALL = None
SOME = ["Conv", "Gemm", "MatMul"]


class Batches(quantization.CalibrationDataReader):
    """Hands the tool four batches of noise."""

    def __init__(self):
        noise = np.random.default_rng(0)
        self._left = iter([{"input": noise.standard_normal((64, 8)).astype(np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self._left, None)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return the folder of a model with five members in float32, and of one with GELU."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, activations in {"ours": [str(spec) for spec in SPECS], "gelu": ["gelu", "relu"]}.items():
        layers = [torch.nn.Linear(8, 8)]
        for each in activations:
            layers += [make_activation(each), torch.nn.Linear(8, 8)]
        with torch.no_grad():
            for layer in layers[::2]:
                torch.nn.init.orthogonal_(layer.weight, 2.0)
        model = torch.nn.Sequential(*layers).eval()
        free = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(model, (torch.ones(4, 8),), dynamo=True, verbose=False, dynamic_shapes=free)
        program.save(folder / f"{name}.onnx")
    return folder


def quantise(models, name, kind, operators, **more):
    path = models / f"{name}-{kind}-{len(operators or [])}.onnx"
    kinds = {"activation_type": quantization.QuantType.from_string(kind), "op_types_to_quantize": operators}
    quantization.quantize_static(models / f"{name}.onnx", path, Batches(), **kinds, **more)
    return path


@pytest.mark.parametrize("operators", [ALL, SOME], ids=["all operators", "matrix products"])
@pytest.mark.parametrize(("kind", "bits"), [("QInt8", 8), ("QInt16", 16)])
def test_every_member_is_found_with_its_scales(models, kind, bits, operators):
    path = quantise(models, "ours", kind, operators)
    layers = read_onnx(path)
    assert [spec.n for spec, _ in layers.values()] == [spec.n for spec in SPECS]
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    for (name, (spec, found)), want in zip(layers.items(), SPECS, strict=True):
        assert spec.scale == pytest.approx(want.scale, rel=1e-7)
        assert spec.leak == pytest.approx(want.leak, rel=1e-6)
        assert (found.bits, found.rounding) == (bits, "even")
        assert (found.out_scale, found.out_zero) == (constants[f"{name}_scale"], constants[f"{name}_zero_point"])


def test_the_layers_give_what_onnx_runtime_gives(models):
    import onnxruntime

    path = quantise(models, "ours", "QInt8", SOME)
    proto = onnx.load(path)
    pairs = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    kinds = onnx.TensorProto.INT8
    for node in pairs:
        proto.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], kinds, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [node.output[0] for node in pairs]
    got = dict(zip((node.input[0] for node in pairs), session.run(names, Batches().get_next()), strict=True))
    tensors = list(got)
    for name, (spec, setting) in read_onnx(path).items():
        before = got[tensors[tensors.index(name) - 1]]
        np.testing.assert_array_equal(integer(spec, setting).apply(before), got[name])


def test_the_command_writes_a_layer_for_each(models, tmp_path, capsys):
    path = quantise(models, "ours", "QInt8", ALL)
    assert main(["c", str(path), "--out", str(tmp_path / "a.h"), "--test", str(tmp_path / "b.h")]) == 0
    text, shown = (tmp_path / "a.h").read_text(), capsys.readouterr().out
    layers = read_onnx(path)
    assert len(layers) == len(SPECS)
    for name, (spec, setting) in layers.items():
        assert integer(spec, setting).c_struct(name) in text
        assert f"{name}: {spec}, int8" in shown


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("ours", None, "is not quantised: it has no QuantizeLinear"),
        ("gelu", "QInt8", "no member of the GEM family between DequantizeLinear and QuantizeLinear"),
        ("ours", "QUInt8", "is uint8, expected int8 or int16 for both"),
        ("text", None, "cannot be read as ONNX"),
        ("none", None, "cannot be read as ONNX"),
    ],
)
def test_a_file_that_cannot_serve_is_one_line_and_nothing_is_written(models, name, kind, message, tmp_path, capsys):
    (models / "text.onnx").write_text("no model")
    path = quantise(models, name, kind, ALL) if kind else models / f"{name}.onnx"
    assert main(["c", str(path), "--out", str(tmp_path / "a.h")]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_extra_is_named(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["c", str(models / "ours.onnx"), "--out", str(tmp_path / "a.h")]) == 2
    assert "onnx is not installed; run: pip install --upgrade 'gem-activations[onnx]'" in capsys.readouterr().err
