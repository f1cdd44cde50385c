"""The monitor finds planted dead units and only these, in training as people do it, and leaves the model alone."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gem_activations import GemSpec, catalog
from gem_activations.errors import ModelError, SettingError
from gem_activations.torch import GEM, GEMGLU, make_activation, swap
from gem_activations.torch.monitor import EDGES, DeadUnitMonitor
from gem_activations.torch.monitor.counting import reduce_units
from gem_activations.torch.monitor.flatness import FLAT_SLOPE, find_flat, read_activation, recognise

ASLEEP, CUT = (1, 4), (2, 6)


def cnn(activation, **options):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        make_activation(activation, **options),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        make_activation(activation, **options),
        nn.Flatten(),
        nn.Linear(8 * 36, 10),
        make_activation(activation, **options),
        nn.Linear(10, 3),
    )


def mlp(activation, **options):
    layers = [nn.Linear(36, 8), make_activation(activation, **options), nn.Linear(8, 8), nn.LayerNorm(8)]
    return nn.Sequential(nn.Flatten(), *layers, make_activation(activation, **options), nn.Linear(8, 3))


# Model, and for each activation that is planted: its name, the module before it, the module behind it.
MODELS = {"cnn": (cnn, [("1", "0", "2"), ("7", "6", "8")]), "mlp": (mlp, [("2", "1", "3"), ("5", "4", "6")])}


def plant(model, places, bias):
    """Give units a bias that puts them to sleep, and cut others off from what comes behind them."""
    for _, before, behind in places:
        with torch.no_grad():
            model.get_submodule(before).bias.fill_(1.0)[list(ASLEEP)] = bias
            weight = model.get_submodule(behind).weight
            weight[:, list(CUT)] = 0
        # The gradient of a cut connection is not 0: it would grow again.
        weight.register_hook(lambda gradient: gradient.index_fill(1, torch.tensor(CUT), 0))


def train(model, monitor, steps=12):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    draw = torch.Generator().manual_seed(7)
    for _ in range(steps):
        x, y = 4 * torch.randn(16, 1, 6, 6, generator=draw), torch.randint(3, (16,), generator=draw)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        monitor.step()


def train_planted(name, activation, bias=-100.0, **options):
    torch.manual_seed(3)
    make, places = MODELS[name]
    model = make(activation, **options)
    plant(model, places, bias)
    with DeadUnitMonitor(model, interval=2, window=6) as monitor:
        train(model, monitor)
    (window,) = monitor.windows
    assert (window.first_step, window.last_step, window.samples, window.unseen) == (0, 11, 6, ())
    planted = {place for place, _, _ in places}
    return planted, {layer.name: layer for layer in window.layers}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("activation", ["relu", "gem", "gem(n=2)", "egem(eps=1e-4)", "relu6", "hardswish", "smelu"])
def test_planted_dead_units_are_found_and_only_these(name, activation):
    planted, layers = train_planted(name, activation)
    for place, layer in layers.items():
        assert layer.activation == activation
        assert (layer.passes, layer.backward_passes, layer.skipped) == (6, 6, 0)
        assert layer.never_active == (ASLEEP if place in planted else ())
        assert layer.zero_gradient == (tuple(sorted(ASLEEP + CUT)) if place in planted else ())


@pytest.mark.parametrize("activation", ["relu", "gem(n=2)", "egem(eps=1e-4)"])
def test_activations_that_work_in_place_are_seen_before_they_overwrite(activation):
    planted, layers = train_planted("cnn", activation, inplace=True)
    for place in planted:
        assert layers[place].never_active == ASLEEP
        assert layers[place].zero_gradient == tuple(sorted(ASLEEP + CUT))
        assert layers[place].gate_closed > 0.2


def test_units_that_die_by_themselves_are_those_that_a_plain_loop_finds():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 200), nn.ReLU(), nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 2))
    inputs = {1: [], 3: []}
    for place, kept in inputs.items():
        model[place].register_forward_pre_hook(lambda _, x, kept=kept: x[0].retain_grad() or kept.append(x[0]))
    with DeadUnitMonitor(model, interval=1) as monitor:
        for _ in range(3):
            model(torch.randn(4, 3)).relu().sum().backward()
            monitor.step()
    for layer in monitor.report().windows[0].layers:
        active = torch.cat([x > 0 for x in inputs[int(layer.name)]]).any(0)
        moved = torch.cat([x.grad != 0 for x in inputs[int(layer.name)]]).any(0)
        assert 0 < len(layer.never_active) < 60
        assert layer.never_active == tuple(unit for unit, flag in enumerate(active.tolist()) if not flag)
        assert layer.zero_gradient == tuple(unit for unit, flag in enumerate(moved.tolist()) if not flag)


@pytest.mark.parametrize("activation", ["segem", "leaky_relu"])
def test_a_function_that_is_nowhere_flat_has_no_dead_units(activation):
    planted, layers = train_planted("mlp", activation)
    for place, layer in layers.items():
        assert layer.never_active == ()
        assert layer.zero_gradient == (CUT if place in planted else ())


@pytest.mark.parametrize("activation", ["gelu", "silu", "mish", "elu"])
def test_a_smooth_unit_counts_as_asleep_only_where_it_is_saturated(activation):
    planted, layers = train_planted("mlp", activation, bias=-2.0)
    for place, layer in layers.items():
        assert layer.never_active == ()
        assert layer.zero_gradient == (CUT if place in planted else ())
    planted, layers = train_planted("mlp", activation)
    assert {place: layer.never_active for place, layer in layers.items()} == dict.fromkeys(planted, ASLEEP)


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
    assert flat == find_flat(catalog.parse(name))
    bounds = [bound for bound in (flat.low, flat.high) if np.isfinite(bound)]
    near = [[bound * (1 + d), bound + d] for bound in bounds for d in (-1e-2, 1e-2)]
    grid = np.concatenate([*near, [-40, -1, 1, 40]])
    x = torch.tensor(grid, dtype=torch.float64, requires_grad=True)
    module(x).sum().backward()
    asleep = {
        "below": grid <= flat.low,
        "above": grid >= flat.high,
        "outside": (grid <= flat.low) | (grid >= flat.high),
        "inside": (grid >= flat.low) & (grid <= flat.high),
        "nowhere": np.zeros(len(grid), bool),
    }[flat.where]
    slopes = x.grad.abs().numpy()
    assert ((slopes <= FLAT_SLOPE) == asleep).all(), list(zip(grid, slopes, asleep, strict=True))


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


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_pass_that_checkpointing_repeats_is_counted_once(reentrant):
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), GEM(n=2))
    with torch.no_grad():
        inner[2].bias.fill_(1.0)
        inner[0].bias[2], inner[2].bias[5] = -100, -100
    outer = nn.Linear(6, 1)
    with torch.no_grad():
        outer.weight[0, 1] = 0
    model = nn.ModuleList([inner, outer])
    monitor = DeadUnitMonitor(model, interval=1)
    for _ in range(4):
        x = torch.randn(32, 4, requires_grad=True)
        outer(checkpoint(inner, x, use_reentrant=reentrant)).sum().backward()
        monitor.step()
    first, second = monitor.report().windows[0].layers
    assert (first.passes, first.backward_passes, second.passes, second.backward_passes) == (4, 4, 4, 4)
    assert (first.never_active, second.never_active) == ((2,), (5,))
    assert (first.zero_gradient, second.zero_gradient) == ((2,), (1, 5))
    assert first.values == 4 * 32 * 6


@pytest.mark.parametrize("activation", ["gem", "gelu"])
def test_autocast_and_half_precision(activation):
    torch.manual_seed(0)
    model = mlp(activation)
    plant(model, MODELS["mlp"][1][:1], -100.0)
    torch.nn.init.ones_(model[4].bias)
    for cast in (model, copy.deepcopy(model).bfloat16()):
        with DeadUnitMonitor(cast, interval=1) as monitor:
            for _ in range(4):
                x = 4 * torch.randn(16, 1, 6, 6, dtype=cast[1].weight.dtype)
                with torch.autocast("cpu", torch.bfloat16, enabled=cast is model):
                    loss = cast(x).square().mean()
                loss.backward()
                monitor.step()
        first, second = monitor.report().windows[0].layers
        assert (first.never_active, first.zero_gradient) == (ASLEEP, tuple(sorted(ASLEEP + CUT)))
        assert (second.never_active, second.zero_gradient) == ((), ())
        assert first.histogram[0] == 0 or activation == "gem"


@pytest.mark.parametrize("inplace", [False, True])
def test_a_watched_model_trains_to_the_same_bits(inplace):
    weights = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = cnn("gem", inplace=inplace)
        monitor = DeadUnitMonitor(model if watched else nn.Sequential(nn.ReLU()), interval=1)
        train(model, monitor, steps=3)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_nothing_is_kept_of_a_step():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    monitor = DeadUnitMonitor(model, interval=1)
    kept = []
    model[1].register_forward_pre_hook(lambda _, arguments: kept.append(weakref.ref(arguments[0])))
    model(torch.randn(2, 4)).sum().backward()
    model(torch.randn(2, 4))  # A graph that nobody goes back through.
    monitor.step()
    gc.collect()
    assert [reference() for reference in kept] == [None, None]
    leaf = torch.randn(2, 4, requires_grad=True)
    alone = nn.Sequential(nn.Tanh())
    with DeadUnitMonitor(alone, interval=1) as monitor:
        for _ in range(3):  # A leaf that is used again has one hook at a time.
            alone(leaf).sum().backward()
            monitor.step()
        assert monitor.report().windows[0].layers[0].backward_passes == 3
    assert not leaf._backward_hooks


def hooks(model):
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_close_removes_every_hook_also_after_an_error():
    model = cnn("relu")
    monitor = DeadUnitMonitor(model)
    assert hooks(model) == 9  # The model, three activations, and five modules with weights.
    model(torch.randn(2, 1, 6, 6))
    monitor.step()
    assert not monitor.looks
    monitor.close()
    monitor.close()
    assert hooks(model) == 0
    assert len(monitor.report().windows[0].layers) == 3
    with pytest.raises(ModelError, match="closed"):
        monitor.step()
    with pytest.raises(RuntimeError), DeadUnitMonitor(model):
        model(torch.randn(2, 1, 5, 5))
    assert hooks(model) == 0


def test_only_training_passes_of_sampled_steps_count_and_windows_are_bounded():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    ended = []
    monitor = DeadUnitMonitor(model, interval=3, window=2, keep=2, on_window=ended.append)
    for step in range(21):
        assert monitor.looks == (step % 3 == 0)
        model.train()
        model(torch.randn(5, 4)).sum().backward()
        model.eval()
        model(torch.randn(5, 4))
        monitor.step()
    assert [(window.first_step, window.last_step) for window in ended] == [(0, 5), (6, 11), (12, 17)]
    assert monitor.windows == tuple(ended[1:])
    report = monitor.report()
    assert report.windows[:2] == monitor.windows
    assert (report.windows[2].first_step, report.windows[2].last_step, report.windows[2].samples) == (18, 20, 1)
    assert [layer.passes for window in report.windows for layer in window.layers] == [2, 2, 1]
    assert report.windows[0].layers[0].values == 2 * 15


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


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
def test_compiled_code_is_left_alone_and_said_not_to_be_seen():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 3), GEM(), nn.Linear(3, 2), nn.ReLU())
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with DeadUnitMonitor(model, interval=2) as monitor:
        for _ in range(5):
            x = torch.randn(6, 4)
            compiled(x).sum().backward()
            monitor.step()
    assert len(graphs) == 1
    (window,) = monitor.report().windows
    assert (window.layers, window.unseen) == ((), ("1", "3"))
    assert "not seen: 1, 3" in str(monitor.report())


def test_transforms_tracers_and_odd_inputs_pass_by():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    monitor = DeadUnitMonitor(model)
    weights = dict(model.named_parameters())

    def loss(parameters, row):
        return torch.func.functional_call(model, parameters, (row,)).sum()

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, torch.randn(5, 4))
    assert gradients["0.weight"].shape == (5, 3, 4)
    assert len(torch.fx.symbolic_trace(model).graph.nodes) == 4
    with torch.inference_mode():
        model(torch.randn(2, 4))
    model(torch.randn(0, 4))
    model[1](torch.tensor([1, -1]))
    model[1](input=torch.tensor([1, -1]))
    monitor.step()
    assert monitor.report().windows[0].layers == ()
    exported = torch.export.export(model, (torch.randn(2, 4),))
    assert exported.module()(torch.ones(2, 4)).shape == (2, 3)


def test_a_pass_with_another_number_of_units_is_left_out_and_counted():
    model = nn.Sequential(nn.ReLU())
    monitor = DeadUnitMonitor(model)
    for width in (3, 5, 3):
        model(-torch.ones(2, width))
    monitor.step()
    layer = monitor.report().windows[0].layers[0]
    assert (layer.units, layer.passes, layer.skipped, layer.never_active) == (3, 2, 1, (0, 1, 2))
    assert layer.zero_gradient is None


def test_copies_and_pickles_are_not_watched():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    monitor = DeadUnitMonitor(model, interval=1)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for twin in copies:
        twin(torch.randn(2, 4)).sum().backward()
        DeadUnitMonitor(twin).close()
    monitor.step()
    assert monitor.report().windows[0].layers == ()


def test_one_monitor_at_a_time():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    monitor = DeadUnitMonitor(model)
    with pytest.raises(ModelError, match="'1' is watched by another DeadUnitMonitor"):
        DeadUnitMonitor(model)
    with pytest.raises(ModelError, match="watched"):
        DeadUnitMonitor(nn.Sequential(model, nn.ReLU()))
    monitor.close()
    DeadUnitMonitor(model).close()


@pytest.mark.parametrize(("model", "options", "error", "message"), [
    (nn.Linear(2, 2), {}, ModelError, "nothing to watch: it has no module that is known to be an activation"),
    (nn.Sequential(GEMGLU(2, 2)), {}, ModelError, "nothing to watch"),
    ("relu", {}, ModelError, "expected a torch.nn.Module to watch, got str"),
    (nn.Sequential(nn.ReLU()), {"interval": 0}, SettingError, "interval=0: expected a whole number from 1 up"),
    (nn.Sequential(nn.ReLU()), {"interval": 2.5}, SettingError, "interval=2.5"),
    (nn.Sequential(nn.ReLU()), {"window": -1}, SettingError, "window=-1"),
    (nn.Sequential(nn.ReLU()), {"keep": True}, SettingError, "keep=True"),
    (nn.Sequential(nn.ReLU()), {"channel_dim": "1"}, SettingError, "channel_dim='1'"),
    (nn.Sequential(nn.ReLU()), {"channel_dim": {"act": 1}}, ModelError, "matches 'act'; one is called '0'"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_bad_input_is_one_clear_error(model, options, error, message):
    with pytest.raises(error, match=message) as caught:
        DeadUnitMonitor(model, **options)
    assert "\n" not in str(caught.value)
    if isinstance(model, nn.Module):
        assert hooks(model) == 0


def test_a_channel_dimension_that_the_input_does_not_have_is_an_error():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with DeadUnitMonitor(model, channel_dim=2), pytest.raises(ModelError, match="channel_dim=2 for '1'"):
        model(torch.randn(2, 4))


def test_functions_of_a_forward_are_seen_once_swap_has_made_modules_of_them():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return nn.functional.gelu(self.linear(x))

    model = Plain()
    with pytest.raises(ModelError, match="swap"):
        DeadUnitMonitor(model)
    swap(model, {nn.functional.gelu: "gem"})
    with DeadUnitMonitor(model) as monitor:
        model(torch.randn(2, 4)).sum().backward()
        monitor.step()
    assert [layer.activation for layer in monitor.report().windows[0].layers] == ["gem"]
