"""TorchAO's int8 on a network with GEM: the activation is left alone, and the loss is that of GELU's network."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from gem_activations.torch import init_, make_activation

from ..tolerances import INT8_LOGITS, INT8_OVER_GELU, RUNTIME
from ..torch.known_warnings import exporting

quantization = pytest.importorskip("torchao.quantization")
pytestmark = exporting

CONFIGURATIONS = {
    "weights": quantization.Int8WeightOnlyConfig,
    "weights and activations": quantization.Int8DynamicActivationInt8WeightConfig,
}


def network(activation):
    torch.manual_seed(0)
    layers = [nn.Linear(32, 64), make_activation(activation), nn.Linear(64, 64), make_activation(activation)]
    model = nn.Sequential(*layers, nn.Linear(64, 10)).eval()
    init_(model, activation)
    return model.requires_grad_(False)


def quantise(model, name):
    model = deepcopy(model)
    quantization.quantize_(model, CONFIGURATIONS[name]())
    return model


def relative_error(got, want):
    return float((got - want).square().mean().sqrt() / want.std())


def given():
    return torch.randn(256, 32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", list(CONFIGURATIONS))
@pytest.mark.parametrize("activation", ["gem(n=2)", "egem(n=2, eps=1e-4)", "segem(n=2, eps=0.1)"])
def test_outputs_are_kept_within_the_error_of_int8(activation, name):
    model, gelu = network(activation), network("gelu")
    x = given()
    error = relative_error(quantise(model, name)(x), model(x))
    assert 0 < error < INT8_LOGITS
    assert error < INT8_OVER_GELU * relative_error(quantise(gelu, name)(x), gelu(x))


def test_only_the_weights_change():
    model, x = network("gem(n=2)"), given()
    quantised = quantise(model, "weights")
    for own, other in zip(model, quantised, strict=True):
        if isinstance(own, nn.Linear):
            own.weight = nn.Parameter(other.weight.dequantize(), requires_grad=False)
    want = model(x)
    torch.testing.assert_close(quantised(x), want, rtol=0, atol=RUNTIME * float(want.abs().max()))


@pytest.mark.parametrize("name", list(CONFIGURATIONS))
def test_a_quantised_network_is_exported(name):
    quantised, x = quantise(network("gem(n=2)"), name), given()
    program = torch.export.export(quantised, (x[:4],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    want = quantised(x)
    torch.testing.assert_close(program.module()(x), want, rtol=0, atol=RUNTIME * float(want.abs().max()))
