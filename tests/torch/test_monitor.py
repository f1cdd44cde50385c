"""The monitor finds planted dead units and only these, in training as people do it, and leaves the model alone."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gem_activations.torch import GEM, make_activation
from gem_activations.torch.monitor import DeadUnitMonitor

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
    """Return units a bias that puts them to sleep, and cut others off from what comes behind them."""
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


@pytest.mark.filterwarnings("ignore:.*the scale a = 1 is:RuntimeWarning")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("activation", ["relu", "gem", "gem(n=2)", "egem(eps=1e-4)", "relu6", "hardswish", "smelu"])
def test_planted_dead_units_are_found_and_only_these(name, activation):
    planted, layers = train_planted(name, activation)
    for place, layer in layers.items():
        assert layer.activation == activation
        assert (layer.passes, layer.backward_passes, layer.skipped) == (6, 6, 0)
        assert layer.never_active == (ASLEEP if place in planted else ())
        assert layer.zero_gradient == (tuple(sorted(ASLEEP + CUT)) if place in planted else ())


@pytest.mark.filterwarnings("ignore:.*the scale a = 1 is:RuntimeWarning")
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


@pytest.mark.filterwarnings("ignore:.*the scale a = 1 is:RuntimeWarning")
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
