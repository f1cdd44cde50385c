"""Units behind normalisations of other packages, which scale channels in a layout that their class does not tell."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from gem_activations.torch.monitor import DeadUnitMonitor


class FrozenNorm(nn.Module):
    """Scale and shift channels by buffers, as the frozen batch norms of torchvision and transformers do."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))

    def forward(self, x):
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class LayerNorm2d(nn.LayerNorm):
    """Normalise dimension 1 of images, as the classes of that name in torchvision and timm do."""

    def forward(self, x):
        x = functional.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)


@pytest.mark.parametrize(("norm", "shape"), [
    (FrozenNorm(5), (2, 3, 4, 6)),
    (FrozenNorm(5), (2, 3, 4, 5)),  # As wide as there are channels.
    (FrozenNorm(5), (3, 4, 6)),
    (LayerNorm2d(5), (2, 3, 4, 6)),
], ids=str)  # fmt: skip
def test_units_are_the_channels_that_a_foreign_normalisation_scales(norm, shape):
    model = nn.Sequential(nn.Conv2d(3, 5, 1), norm, nn.ReLU())
    with DeadUnitMonitor(model) as monitor:
        model(torch.randn(shape))
        monitor.step()
        units = monitor.report().windows[0].layers[0].units
    assert units == 5


def test_a_channel_that_a_frozen_norm_shuts_is_dead_and_only_it():
    norm = FrozenNorm(5)
    norm.weight[2], norm.bias[2] = 0.0, -1.0
    model = nn.Sequential(nn.Conv2d(3, 5, 1), norm, nn.ReLU())
    with DeadUnitMonitor(model) as monitor:
        model(torch.randn(4, 3, 8, 8)).sum().backward()
        monitor.step()
        layer = monitor.report().windows[0].layers[0]
    assert (layer.never_active, layer.zero_gradient) == ((2,), (2,))


def test_units_behind_a_flattened_foreign_normalisation_are_the_last_dimension():
    model = nn.Sequential(nn.Conv2d(3, 5, 1), FrozenNorm(5), nn.Flatten(), nn.ReLU())
    with DeadUnitMonitor(model) as monitor:
        model(torch.randn(2, 3, 4, 6))
        monitor.step()
        assert monitor.report().windows[0].layers[0].units == 120


def test_a_foreign_module_may_wait_for_its_first_pass_to_get_its_weight():
    norm = nn.Module()
    norm.weight = nn.UninitializedParameter()
    with DeadUnitMonitor(nn.Sequential(norm, nn.ReLU())) as monitor:
        assert monitor.steps == 0
