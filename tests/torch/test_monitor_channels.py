"""Units are the channels of what ran before an activation, also where its class does not tell their layout."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gem_activations.errors import ModelError
from gem_activations.torch.monitor import DeadUnitMonitor


def channels_last_block():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear, self.act = nn.Conv2d(3, 5, 1), nn.Linear(5, 7), nn.ReLU()

        def forward(self, x):
            return self.act(self.linear(self.conv(x).permute(0, 2, 3, 1)))

    return Block()


@pytest.mark.parametrize(("model", "shape", "options", "units"), [
    (nn.Sequential(nn.Linear(4, 5), nn.ReLU()), (2, 6, 4), {}, 5),
    (nn.Sequential(nn.Linear(4, 5), nn.ReLU()), (4,), {}, 5),
    (nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU()), (2, 3, 4, 6), {}, 5),
    (nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU()), (3, 4, 6), {}, 5),
    (nn.Sequential(nn.Conv1d(3, 5, 1), nn.ReLU()), (2, 3, 6), {}, 5),
    (nn.Sequential(nn.Conv3d(3, 5, 1), nn.ReLU()), (2, 3, 4, 6, 2), {}, 5),
    (nn.Sequential(nn.Conv1d(3, 5, 1), nn.BatchNorm1d(5), nn.ReLU()), (2, 3, 6), {}, 5),
    (nn.Sequential(nn.Conv2d(3, 5, 1), nn.GroupNorm(1, 5), nn.ReLU()), (2, 3, 4, 6), {}, 5),
    (nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(), nn.ReLU()), (2, 3, 4, 6), {}, 120),
    (nn.Sequential(nn.ReLU()), (2, 3, 4, 6), {}, 3),
    (nn.Sequential(nn.ReLU()), (2, 4, 6), {}, 6),
    (nn.Sequential(nn.ReLU()), (), {}, 1),
    (channels_last_block(), (2, 3, 4, 6), {}, 7),
    (nn.Sequential(nn.Linear(4, 5), nn.ReLU()), (2, 6, 4), {"channel_dim": 1}, 6),
    (nn.Sequential(nn.Linear(4, 5), nn.ReLU()), (2, 6, 4), {"channel_dim": {"?": -3}}, 2),
], ids=str)  # fmt: skip
def test_units_are_counted_along_the_channels_of_what_ran_before(model, shape, options, units):
    with DeadUnitMonitor(model, **options) as monitor:
        model(torch.randn(shape)).sum()
        monitor.step()
        assert monitor.report().windows[0].layers[0].units == units


class Bottleneck(nn.Module):
    """One activation in three places of different widths, as in torchvision's ResNet."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 9)

    def forward(self, x):
        for layer in (self.first, self.second, self.third):
            x = self.act(layer(x))
        return x


def test_a_module_that_is_used_in_several_places_is_counted_in_each():
    torch.manual_seed(1)
    model = Bottleneck()
    with torch.no_grad():
        model.second.bias[3] = -100
        for layer in (model.first, model.third):
            layer.bias.fill_(5.0)
        model.second.weight[0].abs_()
    monitor = DeadUnitMonitor(model, interval=1)
    for _ in range(3):
        for _ in range(2):  # Two passes a step, as where gradients are accumulated.
            model(torch.randn(64, 4)).sum().backward()
        monitor.step()
    (window,) = monitor.report().windows
    assert [window.label(layer) for layer in window.layers] == [f"act after {x}" for x in ("first", "second", "third")]
    assert [layer.units for layer in window.layers] == [6, 6, 9]
    assert [layer.passes for layer in window.layers] == [6, 6, 6]
    assert [layer.never_active for layer in window.layers] == [(), (3,), ()]


def test_passes_of_a_step_begin_without_what_ran_in_the_one_before():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Dropout(0.0), nn.ReLU(), nn.Linear(4, 2), nn.Flatten(), nn.ReLU())
    model[0].weight = None  # What is left of it looks up in a buffer: no module with weights runs before the first.
    model[0].forward = lambda ids: torch.ones(*ids.shape, 4)
    model[3].eval()  # A frozen layer still says where its units are.
    with DeadUnitMonitor(model, interval=1) as monitor:
        for _ in range(3):
            model(torch.arange(3).reshape(3, 1))
        monitor.step()
    layers = monitor.report().windows[0].layers
    assert [(layer.name, layer.source, layer.passes) for layer in layers] == [("2", "", 3), ("5", "3", 3)]


def test_a_channel_dimension_that_the_input_does_not_have_is_an_error():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with DeadUnitMonitor(model, channel_dim=2), pytest.raises(ModelError, match="channel_dim=2 for '1'"):
        model(torch.randn(2, 4))


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


class Kernel(nn.Module):
    """A linear map whose weights have names of its own."""

    def __init__(self, kernel, **others):
        super().__init__()
        self.kernel = nn.Parameter(kernel)
        for name, value in others.items():
            setattr(self, name, value)

    def forward(self, x):
        return x @ self.kernel


class Behind(nn.Module):
    """A convolution, then a part that takes and gives (batch, length, channels), then an activation."""

    def __init__(self, part, run=lambda part, x: part(x)):
        super().__init__()
        self.conv, self.part, self.run, self.act = nn.Conv1d(3, 4, 3, padding=1), part, run, nn.ReLU()

    def forward(self, x):
        return self.act(self.run(self.part, self.conv(x).transpose(1, 2)))


def first(part, x):
    return part(x)[0]


@pytest.mark.parametrize(("model", "units"), [
    (Behind(nn.LSTM(4, 6, batch_first=True), first), 6),
    (Behind(nn.GRU(4, 6, batch_first=True), first), 6),
    (Behind(nn.MultiheadAttention(4, 2, batch_first=True), lambda part, x: part(x, x, x)[0]), 4),
    (Behind(Kernel(torch.randn(4, 6))), 6),
    (Behind(Kernel(torch.randn(4, 6), drop=nn.Dropout(0.1), bias=nn.Parameter(torch.zeros(6)))), 6),
], ids=["LSTM", "GRU", "attention", "kernel", "kernel with a part"])  # fmt: skip
def test_units_behind_a_module_whose_weights_have_other_names_are_the_last_dimension(model, units):
    with DeadUnitMonitor(model, interval=1) as monitor:
        model(torch.randn(5, 3, 9)).sum().backward()
        monitor.step()
        (layer,) = monitor.report().windows[0].layers
    assert (layer.units, layer.source) == (units, "part")


def test_a_planted_dead_unit_of_an_lstm_is_found():
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 6, batch_first=True)
    with torch.no_grad():  # Of unit 2 the output gate is open, and the cell is driven below 0.
        for weight in (lstm.weight_ih_l0, lstm.weight_hh_l0):
            weight.view(4, 6, -1)[:, 2] = 0
        lstm.bias_ih_l0.view(4, 6)[:, 2] = torch.tensor([10.0, 0.0, -10.0, 10.0])
    model = Behind(lstm, first)
    with DeadUnitMonitor(model, interval=1) as monitor:
        for _ in range(3):
            model(3 * torch.randn(64, 3, 9)).sum().backward()
            monitor.step()
        (layer,) = monitor.report().windows[0].layers
    assert (layer.never_active, layer.zero_gradient) == ((2,), (2,))


class Scaled(nn.Module):
    """A block that begins with an activation and scales what it gives by weights of its own."""

    def __init__(self, scale):
        super().__init__()
        self.act, self.conv, self.scale = nn.ReLU(), nn.Conv2d(5, 5, 1), nn.Parameter(scale)

    def forward(self, x):
        return self.conv(self.act(x)) * self.scale


class LayerScale(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return x * self.gamma[:, None, None]


@pytest.mark.parametrize(("model", "shape", "units"), [
    (nn.Sequential(nn.Conv2d(3, 5, 1), nn.LayerNorm([5, 4, 6]), nn.ReLU()), (2, 3, 4, 6), 5),
    (nn.Sequential(nn.Linear(3, 5), nn.LayerNorm([7, 5]), nn.ReLU()), (2, 7, 3), 5),
    (nn.Sequential(nn.Conv2d(3, 5, 1), nn.InstanceNorm2d(5, affine=True), nn.ReLU()), (3, 4, 6), 5),
    (nn.Sequential(nn.Conv2d(3, 5, 1), nn.InstanceNorm2d(5, affine=True), nn.ReLU()), (2, 3, 4, 6), 5),
    (nn.Sequential(nn.Conv1d(3, 5, 1), nn.InstanceNorm1d(5, affine=True), nn.ReLU()), (3, 6), 5),
    (nn.Sequential(nn.Conv2d(3, 5, 1), LayerScale(5), nn.ReLU()), (2, 3, 4, 6), 5),
    (nn.Sequential(nn.Conv2d(3, 5, 1), Scaled(torch.ones(5, 1, 1))), (2, 3, 4, 6), 5),
    (nn.Sequential(nn.Conv2d(3, 5, 1), Scaled(torch.zeros(1))), (2, 3, 4, 6), 5),
    (nn.Sequential(nn.Conv2d(3, 5, 1), Scaled(torch.zeros(()))), (2, 3, 4, 6), 5),
], ids=["layer norm of an image", "layer norm of a sequence", "instance norm of one image", "instance norm",
        "instance norm, one sequence", "scale", "scaled block", "block with a number", "a scalar"])  # fmt: skip
def test_units_stay_where_they_were_behind_what_does_not_move_them(model, shape, units):
    with DeadUnitMonitor(model, interval=1) as monitor:
        model(torch.randn(shape)).sum().backward()
        monitor.step()
        (layer,) = monitor.report().windows[0].layers
    assert layer.units == units


class Recomputed(nn.Module):
    """Blocks that begin with an activation, each of them recomputed in the backward pass."""

    def __init__(self, stem, blocks, head):
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.ModuleList(blocks), head

    def forward(self, x, reentrant):
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=reentrant)
        return self.head(x.mean((2, 3)) if x.dim() == 4 else x)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("stem", "layer", "shape"), [
    (nn.Linear(3, 6), lambda: nn.Linear(6, 6), (16, 3)),
    (nn.Conv2d(3, 6, 3, padding=1), lambda: nn.Conv2d(6, 6, 1), (4, 3, 6, 6)),  # Channels are as many as columns.
], ids=["linear", "convolution"])  # fmt: skip
def test_gradients_of_a_recomputed_segment_that_begins_with_an_activation(stem, layer, shape, reentrant):
    torch.manual_seed(0)
    stem = copy.deepcopy(stem)
    with torch.no_grad():
        stem.bias.fill_(1.0)[2] = -100
    model = Recomputed(stem, [nn.Sequential(nn.ReLU(), layer()) for _ in range(2)], nn.Linear(6, 1))
    with DeadUnitMonitor(model, interval=1) as monitor:
        for _ in range(3):
            model(torch.randn(shape), reentrant).sum().backward()
            monitor.step()
        layers = monitor.report().windows[0].layers
    assert [(layer.name, layer.source) for layer in layers] == [("blocks.0.0", "stem"), ("blocks.1.0", "blocks.0.1")]
    assert [(layer.units, layer.passes, layer.backward_passes) for layer in layers] == [(6, 3, 3), (6, 3, 3)]
    assert (layers[0].never_active, layers[0].zero_gradient) == ((2,), (2,))


def test_an_activation_on_parts_of_what_one_module_gives_is_counted_as_one():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.act = nn.Linear(4, 6), nn.ReLU()

        def forward(self, x):
            left, right = self.linear(x).chunk(2, -1)
            return self.act(left) + self.act(right)

    model = Halves()
    with torch.no_grad():
        model.linear.bias.fill_(100.0)[[1, 2, 5]] = -100
    with DeadUnitMonitor(model) as monitor:
        model(torch.randn(8, 4)).sum().backward()
        monitor.step()
        (layer,) = monitor.report().windows[0].layers
    assert (layer.units, layer.passes, layer.never_active) == (3, 2, (2,))
