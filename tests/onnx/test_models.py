"""Whole models through the exporter: as they are made, after swap(), with a free batch, and what is refused."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from gem_activations import GemSpec
from gem_activations.torch import EGEM, GEM, GEMGLU, SEGEM, exported, gem, swap

from ..tolerances import HALF_RUNTIME, RUNTIME
from ..torch.known_warnings import exporting
from .running import assert_standard, export, run, start

pytestmark = exporting


def convolutional(activation: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), activation(), nn.Conv2d(8, 4, 3), activation(), nn.Flatten()
    )


def attentive(activation: nn.Module) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True)


def with_calls_swapped() -> nn.Module:
    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(nn.functional.gelu(self.up(x)))

    return swap(Calls().eval(), {nn.functional.gelu: "egem(n=2, eps=0.1)"}, inplace=False).model


def with_modules_swapped() -> nn.Module:
    model = convolutional(nn.ReLU).eval()
    swap(model, {nn.ReLU: "segem(n=2)"})
    return model


# Model, and the shape of its input without the batch.
MODELS = {
    "convolutional": (lambda: convolutional(lambda: GEM(2)), (3, 8, 8)),
    "in place": (lambda: convolutional(lambda: EGEM(1, 0.1, inplace=True)), (3, 8, 8)),
    "gated": (lambda: nn.Sequential(GEMGLU(6, 12, n=2, eps=0.5), GEM(save="output"), nn.Linear(12, 3)), (6,)),
    "attentive": (lambda: attentive(SEGEM(2, 0.1)), (5, 8)),
    "modules swapped": (with_modules_swapped, (3, 8, 8)),
    "calls swapped": (with_calls_swapped, (6,)),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_models_compute_the_same_for_every_batch(name, tmp_path):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().eval()
    proto = export(model, torch.randn(2, *shape), dynamic=({0: torch.export.Dim("batch")},))
    assert_standard(proto)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    onnx.save(proto, tmp_path / "model.onnx")
    session = start(onnx.load(tmp_path / "model.onnx"))
    for batch in (1, 2, 9):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            want = model(x.clone()).numpy()
        np.testing.assert_allclose(run(session, x)[0], want, rtol=0, atol=RUNTIME * np.abs(want).max())


def test_the_functions_export_inside_a_forward():
    class Calls(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return gem(x, n=3)

    x = torch.linspace(-3, 3, 30)
    np.testing.assert_array_equal(run(start(export(Calls(), x)), x)[0], exported.value(x, GemSpec(3)).numpy())


def test_a_model_in_half_precision():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), EGEM(2, 0.1), nn.Linear(12, 3)).half().eval()
    x = torch.randn(4, 6).half()
    proto = export(model, x)
    assert_standard(proto)
    assert proto.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    with torch.no_grad():
        want = model(x).numpy()
    np.testing.assert_allclose(run(start(proto), x)[0], want, rtol=0, atol=HALF_RUNTIME * np.abs(want).max())


def test_a_kernel_forced_by_name_cannot_be_exported():
    with pytest.raises(Exception, match="use backend='auto' or 'plain'"):
        export(GEM(backend="cpu"), torch.ones(3))
