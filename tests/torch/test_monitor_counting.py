"""What the monitor counts at one activation: where it is flat, its gate, and the distribution of what comes in."""

import numpy as np
import pytest
import torch
from torch import nn

from gem_activations import GemSpec, catalog
from gem_activations.torch import GEM, make_activation
from gem_activations.torch.monitor import EDGES, DeadUnitMonitor
from gem_activations.torch.monitor.counting import reduce_units
from gem_activations.torch.monitor.dead import read_activation, recognise


@pytest.mark.parametrize(("activation", "asleep", "awake"), [
    ("sigmoid", [-30.0, 30.0, 14.0], [13.0, -13.0, 0.0]),
    ("hardtanh", [-1.5, 2.0, 1.0], [0.9, -0.9, 0.0]),
    ("logsigmoid", [20.0, 30.0, 14.0], [13.0, -50.0, 0.0]),
    ("hardshrink", [0.4, -0.4, 0.0], [0.6, -0.6, 5.0]),
    ("softplus", [-20.0, -30.0, -14.0], [-13.0, 50.0, 0.0]),
    ("leaky_relu(negative_slope=0)", [-1.0, -9.0, 0.0], [1e-6, 1.0, 5.0]),
])  # fmt: skip
def test_units_are_asleep_at_either_end(activation, asleep, awake):
    model = nn.Sequential(make_activation(activation))
    monitor = DeadUnitMonitor(model)
    model(torch.tensor([asleep + awake, asleep + awake[::-1]]))
    monitor.step()
    assert monitor.report().windows[0].layers[0].never_active == (0, 1, 2)
    # A unit that jumps from one flat piece to the other is asleep too; one that is awake once is not.
    monitor.close()
    if activation in ("sigmoid", "hardtanh"):
        monitor = DeadUnitMonitor(model)
        model(torch.tensor([[30.0, 30.0], [-30.0, 0.5]]))
        monitor.step()
        assert monitor.report().windows[0].layers[0].never_active == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_units_are_awake_just_inside_the_bounds(dtype):
    model = nn.Sequential(make_activation("relu6"))
    with DeadUnitMonitor(model) as monitor:
        x = torch.tensor([[1e-9, 3e-3, 0.0, 6.0, torch.nan]], dtype=dtype, requires_grad=True)
        model(x).sum().backward()
        monitor.step()
        layer = monitor.report().windows[0].layers[0]
    assert layer.never_active == (2, 3)
    assert layer.zero_gradient == (2, 3)


@pytest.mark.parametrize("name", catalog.ENTRIES)
def test_flat_pieces_are_where_the_slope_of_the_module_says(name):
    module = make_activation(name).double().eval()
    flat = read_activation(module).flat
    assert flat == catalog.parse(name).flat
    bounds = [bound for bound in (flat.low, flat.high) if np.isfinite(bound)]
    near = [[bound * (1 + d), bound + d] for bound in bounds for d in (-1e-2, 1e-2)]
    grid = np.concatenate([*near, [-40, -1, 1, 40]])
    x = torch.tensor(grid, dtype=torch.float64, requires_grad=True)
    module(x).sum().backward()
    dead = {
        "below": grid <= flat.low,
        "above": grid >= flat.high,
        "outside": (grid <= flat.low) | (grid >= flat.high),
        "inside": (grid >= flat.low) & (grid <= flat.high),
        "nowhere": np.zeros(len(grid), bool),
    }[flat.kind]
    slopes = x.grad.abs().numpy()
    assert ((slopes <= catalog.FLAT_SLOPE) == dead).all(), list(zip(grid, slopes, dead, strict=True))


@pytest.mark.parametrize("name", catalog.ENTRIES)
def test_modules_of_the_catalog_are_recognised(name):
    assert recognise(make_activation(name)) == catalog.parse(name)


def test_other_modules_are_not_taken_for_one_of_the_catalog():
    assert recognise(nn.Threshold(0.1, 20)) is None
    assert recognise(nn.ELU(alpha=-1.0)) is None
    model = nn.Sequential(nn.Linear(2, 3), nn.Threshold(0.1, 20))
    monitor = DeadUnitMonitor(model)
    model(torch.randn(4, 2)).sum().backward()
    monitor.step()
    layer = monitor.report().windows[0].layers[0]
    assert (layer.never_active, layer.activation) == (None, "Threshold(threshold=0.1, value=20)")
    assert layer.zero_gradient is not None


def test_the_distribution_is_in_units_of_the_scale_and_the_gate_is_read_from_it():
    spec = GemSpec(n=2, eps=1e-4)  # The scale is 0.1.
    model = nn.Sequential(make_activation(str(spec)))
    monitor = DeadUnitMonitor(model)
    gates = [0.005, 0.02, 0.5, 0.98, 0.995]
    x = [spec.scale * (gate / (1 - gate)) ** (1 / 4) for gate in gates]
    model(torch.tensor([[*x, -1.1, -0.06, 0.0, torch.inf, torch.nan]], dtype=torch.float64))
    monitor.step()
    layer = monitor.report().windows[0].layers[0]
    assert layer.scale == pytest.approx(0.1)
    assert layer.unit == "a"
    assert (layer.values, layer.not_finite) == (10, 2)
    assert layer.gate_closed == 4 / 8
    assert layer.gate_open == 1 / 8
    assert layer.rms is None
    bins = np.searchsorted(EDGES, [*np.divide([*x, -1.1, -0.06, 0.0], spec.scale), np.inf])
    assert list(layer.histogram) == np.bincount(bins, minlength=len(EDGES) + 1).tolist()
    # NaN and infinity are no sleep.
    assert layer.never_active == (5, 6, 7)


def test_other_activations_have_their_distribution_in_units_of_the_root_mean_square():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    monitor = DeadUnitMonitor(model, interval=1)
    reports = []
    for factor in (1.0, 1000.0):
        torch.manual_seed(0)
        model[0].weight.data.normal_().mul_(factor)
        model[0].bias.data.zero_()
        model(torch.randn(500, 4))
        monitor.step()
        reports.append(monitor.report().windows[0].layers[0])
    assert reports[0].histogram == tuple(count // 2 for count in reports[1].histogram)
    assert reports[0].unit == "rms"
    assert reports[0].gate_closed is None
    assert 0.7 < reports[0].quantile(0.84) < 1.2  # Of a normal law 1; the sample has 256.


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_places_that_are_sampled_are_spread_over_channels_and_examples(layout):
    channel = torch.arange(16.0).sub(7.5).reshape(1, 16, 1, 1)
    example = torch.arange(8.0).sub(3.5).reshape(8, 1, 1, 1)
    for steps in (channel, example):
        model = nn.Sequential(nn.ReLU())
        with DeadUnitMonitor(model) as monitor:
            model(steps.expand(8, 16, 9, 9).contiguous(memory_format=layout))
            monitor.step()
        layer = monitor.report().windows[0].layers[0]
        assert layer.values == 256
        assert layer.gate_open == pytest.approx(0.5, abs=0.02)
        # Of 256 places about 256 / 16 are in each channel: the largest value is in the sample.
        assert layer.quantile(1) * layer.rms >= float(steps.max())


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5), (4, 5, 2, 3), (4, 70, 2, 3), (2, 3, 70), (3, 5, 2, 1, 4), (5,)])
def test_units_are_reduced_as_torch_reduces_in_every_layout(shape):
    x = torch.randn(shape)
    layouts = [x, x.transpose(0, -1).contiguous().transpose(0, -1), x[::2], x.expand(2, *shape)[1]]
    if len(shape) == 4:
        layouts.append(x.to(memory_format=torch.channels_last))
    for laid in layouts:
        for dim in range(laid.dim()):
            others = [axis for axis in range(laid.dim()) if axis != dim]
            for reduce in (torch.amax, torch.amin):
                expected = reduce(laid, others) if others else laid
                assert torch.equal(reduce_units(laid, dim, reduce), expected)


def test_a_pass_with_another_number_of_units_is_left_out_and_counted():
    model = nn.Sequential(nn.ReLU())
    monitor = DeadUnitMonitor(model)
    for width in (3, 5, 3):
        model(-torch.ones(2, width))
    monitor.step()
    layer = monitor.report().windows[0].layers[0]
    assert (layer.units, layer.passes, layer.skipped, layer.never_active) == (3, 2, 1, (0, 1, 2))
    assert layer.zero_gradient is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_gradient_is_missing_only_where_it_is_0(dtype):
    least = torch.tensor(float(torch.finfo(dtype).smallest_normal), dtype=dtype)
    columns = [[0.0, -0.0], [0.0, least], [-least, 0.0], [torch.nan, 0.0], [0.0, -torch.inf], [1.0, -1.0]]
    gradient = torch.tensor([[float(value) for value in column] for column in columns], dtype=dtype).T
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    with DeadUnitMonitor(model) as monitor:
        model(torch.ones_like(gradient).requires_grad_()).backward(gradient)
        monitor.step()
        (layer,) = monitor.report().windows[0].layers
    assert (layer.never_active, layer.zero_gradient) == ((), (0,))


def test_flags_of_all_passes_are_put_together():
    model = nn.Sequential(nn.ReLU())
    rows = [[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]]
    expected = [(1, 2), (2,), (2,), (), ()]
    with DeadUnitMonitor(model, interval=1) as monitor:
        for row, units in zip(rows, expected, strict=True):
            model(torch.tensor([row], requires_grad=True)).sum().backward()
            monitor.step()
            (layer,) = monitor.report().windows[0].layers
            assert (layer.never_active, layer.zero_gradient) == (units, units)


def test_samples_of_many_passes_of_several_sizes_and_types_are_counted():
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(GEM())
    drawn = []
    with DeadUnitMonitor(model) as monitor:
        for number in range(600):
            dtype = torch.bfloat16 if number % 3 else torch.float32
            drawn.append(torch.randn(3 if number % 7 else 2, 5, generator=draw).to(dtype))
            model(drawn[-1])
        monitor.step()
        (layer,) = monitor.report().windows[0].layers
    values = np.concatenate([x.double().numpy().ravel() for x in drawn])
    bins = np.searchsorted(EDGES, values / GemSpec().scale)
    assert layer.passes == 600
    assert layer.values == len(values)
    assert list(layer.histogram) == np.bincount(bins, minlength=len(EDGES) + 1).tolist()
    squares = [float(x.double().square().mean()) for x in drawn]
    assert layer.rms == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-12)


@pytest.mark.parametrize("name", ["gem(n=2)", "relu", "gelu_tanh"])
def test_a_class_of_another_package_whose_function_was_replaced_is_not_what_it_was(name):
    """A GELU as in transformers, which calls what it holds; then a function, and a module, in its place."""

    class GELUActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.functional.gelu

        def forward(self, x):
            return self.act(x)

    GELUActivation.__module__ = "transformers.activations"
    module = GELUActivation()
    assert recognise(module) == catalog.parse("gelu")
    module.act = nn.functional.celu
    assert recognise(module) is None
    del module.act
    module.act = make_activation(name)
    assert recognise(module) == catalog.parse(name)
    module.act = nn.LogSoftmax(-1)
    reading = read_activation(module)
    assert (reading.flat, reading.activation) == (None, "GELUActivation(LogSoftmax(dim=-1))")
