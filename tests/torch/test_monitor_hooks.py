"""The monitor leaves nothing behind on a model, and code that it does not see alone."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gem_activations.errors import ModelError, SettingError
from gem_activations.torch import GEM, GEMGLU, swap
from gem_activations.torch.monitor import DeadUnitMonitor


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


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 36, 10), nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


def hooks(model):
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_close_removes_every_hook_also_after_an_error():
    model = cnn()
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


def test_hooks_are_on_the_model_only_in_steps_that_are_looked_at():
    model = cnn()
    with DeadUnitMonitor(model, interval=3) as monitor:
        for step in range(7):
            assert hooks(model) == (9 if step % 3 == 0 else 0)
            model(torch.randn(2, 1, 6, 6)).sum().backward()
            monitor.step()
        assert [layer.passes for layer in monitor.report().windows[0].layers] == [3, 3, 3]
        assert hooks(model) == 0


def test_a_monitor_that_is_dropped_takes_its_hooks_off_and_blocks_no_other():
    model = cnn()
    for steps in (0, 2):
        monitor = DeadUnitMonitor(model, interval=2)
        for _ in range(steps):
            model(torch.randn(2, 1, 6, 6)).sum().backward()
            monitor.step()
        del monitor
        gc.collect()
        assert hooks(model) == 0
    DeadUnitMonitor(model).close()


def test_a_monitor_that_is_not_closed_keeps_no_weights():
    model = cnn()
    weight = weakref.ref(model[0])
    monitor = DeadUnitMonitor(model)
    model(torch.randn(2, 1, 6, 6)).sum().backward()
    monitor.step()
    del model
    gc.collect()
    assert weight() is None
    monitor.step()


def test_passes_without_a_step_leave_no_handles():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    leaf = torch.randn(2, 3, requires_grad=True)

    def handles():
        gc.collect()
        return sum(type(thing) is RemovableHandle for thing in gc.get_objects())

    with DeadUnitMonitor(model) as monitor:
        before = handles()
        for _ in range(20):
            model(torch.randn(2, 4)).sum().backward()
            model[1](leaf).sum().backward()
        assert handles() == before
        monitor.step()
        (layer,) = monitor.report().windows[0].layers
    assert (layer.passes, layer.backward_passes) == (40, 40)


def test_a_gradient_that_comes_after_its_step_is_not_counted():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with DeadUnitMonitor(model, interval=1) as monitor:
        late = model(torch.randn(2, 4)).sum()
        monitor.step()
        late.backward()
        assert monitor.report().windows[0].layers[0].backward_passes == 0


@pytest.mark.parametrize("looks", [True, False])
def test_an_activation_that_is_swapped_while_it_is_watched_is_counted_anew(looks):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with torch.no_grad():
        model[0].bias[1] = -100
    monitor = DeadUnitMonitor(model, interval=2)

    def train(steps):
        for _ in range(steps):
            model(torch.randn(8, 4)).sum().backward()
            monitor.step()

    train(2 if looks else 1)
    assert monitor.looks == looks
    assert monitor.report().windows[0].layers[0].never_active == (1,)
    swap(model, {nn.ReLU: "segem(eps=1e-4, leak=0.5)"})
    with pytest.raises(ModelError, match="'1' is watched by another"):
        DeadUnitMonitor(model)
    train(3)
    (layer,) = monitor.report().windows[0].layers
    assert (layer.activation, layer.never_active, layer.zero_gradient) == ("segem(eps=1e-4, leak=0.5)", (), ())
    assert layer.passes == (2 if looks else 1)
    monitor.close()
    assert hooks(model) == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
def test_a_compiled_part_beside_parts_that_are_not_is_compiled_once():
    torch._dynamo.reset()
    part = nn.Sequential(nn.Linear(4, 4), nn.GELU())
    model = nn.ModuleList([part, nn.Linear(4, 3), nn.ReLU()])
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(part, backend=backend, fullgraph=True)
    with DeadUnitMonitor(model, interval=2) as monitor:
        for _ in range(6):
            model[2](model[1](compiled(torch.randn(6, 4)))).sum().backward()
            monitor.step()
        (window,) = monitor.report().windows
    assert len(graphs) == 1
    assert [(layer.name, layer.passes) for layer in window.layers] == [("2", 3)]
    assert window.unseen == ("0.1",)


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
    (nn.Sequential(nn.ReLU()), {"channel_dim": {1: 1}}, SettingError, "channel_dim has the key 1: expected a pattern"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_bad_input_is_one_clear_error(model, options, error, message):
    with pytest.raises(error, match=message) as caught:
        DeadUnitMonitor(model, **options)
    assert "\n" not in str(caught.value)
    if isinstance(model, nn.Module):
        assert hooks(model) == 0


@pytest.mark.filterwarnings("ignore:.*the scale a = 1 is:RuntimeWarning")
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
