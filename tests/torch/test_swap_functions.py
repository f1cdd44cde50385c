"""Forwards that swap rewrites by torch.fx: what tracing must neither freeze, drop nor do to the model."""

import collections
import copy
import cProfile
import dataclasses
import functools
import io
import pickle
import random
import threading
import types
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import relu as renamed

from gem_activations.errors import ModelError
from gem_activations.torch import gem, swap
from gem_activations.torch.swapping.rewrite import held_modules


class Holds(nn.Module):
    """What the forwards below read and change."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("on", torch.tensor(True))
        self.saved, self.counts = [], {"calls": 0}
        self.scale, self.shape = 2.0, (3,)


class DropsByTorch(Holds):
    def forward(self, x):
        return x if self.training and torch.rand(1) < 0.5 else functional.relu(x)


class DropsByPython(Holds):
    def forward(self, x):
        return x if self.training and random.random() < 0.5 else functional.relu(x)


class DropsByNumpy(Holds):
    def forward(self, x):
        return x if self.training and np.random.rand() < 0.5 else functional.relu(x)


class AsksABuffer(Holds):
    def forward(self, x):
        return functional.relu(x) if self.on else x


class AddsToABuffer(Holds):
    def forward(self, x):
        self.calls += 1
        return functional.relu(x)


class Appends(Holds):
    def forward(self, x):
        self.saved.append(x)
        return functional.relu(x)


class Counts(Holds):
    def forward(self, x):
        self.counts["calls"] += 1
        return functional.relu(x)


class SetsAChild(Holds):
    def forward(self, x):
        self.inner.last = x
        return functional.relu(x)


def only_tensors(x):
    return x if isinstance(x, torch.Tensor) else x[0]


other_file = types.ModuleType("other_file")
other_file.only_tensors = only_tensors


class AsksElsewhere(Holds):
    def forward(self, x):
        return functional.relu(other_file.only_tensors(x))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (DropsByTorch, "makes a tensor"),
        (DropsByPython, "draws a random number"),
        (DropsByNumpy, "draws a random number"),
        (AsksABuffer, "cannot trace its forward"),
        (AddsToABuffer, "sets an attribute"),
        (Appends, r"sets an attribute \(saved\)"),
        (Counts, r"sets an attribute \(counts\)"),
        (SetsAChild, r"sets an attribute \(last\)"),
        (AsksElsewhere, "uses isinstance"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_forward_that_changes_from_call_to_call_is_left_as_it_was(kind, words):
    model = kind()
    attributes, inner = dict(vars(model)), dict(vars(model.inner))
    with pytest.raises(ModelError, match=words):
        swap(model, {functional.relu: "gem"})
    assert vars(model) == attributes
    assert vars(model.inner) == inner
    assert model.saved == []
    assert model.counts == {"calls": 0}
    assert model.calls.item() == 0


def test_what_a_forward_does_to_a_buffer_is_done_at_each_call_and_not_by_swap():
    class Averages(Holds):
        def forward(self, x):
            self.calls.mul_(0.5).add_(x.mean())
            return functional.relu(x) - self.calls

    model = Averages()
    swap(model, {functional.relu: "gem"})
    assert model.calls.item() == 0
    assert torch.equal(model(torch.ones(3)), torch.full((3,), -0.5))
    model(torch.ones(3))
    assert model.calls.item() == 1.5


class Scales(Holds):
    def forward(self, x):
        return (functional.relu(x) * self.scale).view(self.shape)


@pytest.mark.parametrize(("name", "value"), [("scale", 5.0), ("shape", (1, 3))])
def test_a_setting_that_is_changed_after_the_swap_is_not_ignored(name, value):
    model, x = Scales(), torch.ones(3)
    report = swap(model, {functional.relu: "gem"})
    assert torch.equal(model(x), 2 * gem(x))
    setattr(model, name, value)
    with pytest.raises(ModelError, match=rf"Scales.{name} was .* undo the swap, change {name}, and swap again"):
        model(x)
    report.undo()
    swap(model, {functional.relu: "gem"})
    assert torch.equal(model(x), (gem(x) * model.scale).view(model.shape))


def halve(x):
    return x / 2


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3)])
        self.sizes, self.options, self.kind = [1, -1], {"times": 2.0}, torch.float32
        self.last, self.squash = halve, torch.sin

    def forward(self, x):
        for layer in self.layers:
            x = self.squash(layer(x))
        return self.last(functional.relu(x).view(self.sizes).to(self.kind) * self.options["times"])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda model: model.layers.append(nn.Linear(3, 3)), "ModuleList._modules"),
        (lambda model: model.sizes.reverse(), "Lists.sizes"),
        (lambda model: model.options.update(times=3.0), "Lists.options"),
        (lambda model: setattr(model, "last", Scales), "Lists.last"),
        (lambda model: setattr(model, "squash", torch.cos), "Lists.squash"),
        (lambda model: setattr(model, "kind", torch.float64), "Lists.kind"),
    ],
    ids=["layers", "list", "dict", "function", "built-in function", "dtype"],
)
def test_what_a_forward_goes_through_is_not_frozen_unseen(change, name):
    model, x = Lists(), torch.ones(2, 3)
    swap(model, {functional.relu: "gem"})
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), gem(torch.sin(model.layers[0](x))).view(1, -1))
    assert torch.equal(torch.compile(twin, backend="aot_eager", fullgraph=True)(x), twin(x))
    change(model)
    with pytest.raises(ModelError, match=f"{name} was"):
        model(x)


def test_a_forward_with_settings_compiles_in_one_graph():
    model, x = Scales(), torch.ones(3)
    swap(model, {functional.relu: "gem"})
    assert torch.equal(torch.compile(model, backend="aot_eager", fullgraph=True)(x), model(x))


def test_a_forward_that_asks_for_none_is_not_run_as_if_there_were_a_tensor():
    class Masks(nn.Module):
        def forward(self, x, mask):
            if mask is None:
                return functional.relu(x), None
            return functional.relu(x * mask), mask

    class Passes(nn.Module):
        def forward(self, x, mask):
            return functional.relu(x), mask

    x, mask = torch.ones(3), torch.tensor([1.0, 0.0, 1.0])
    asks, passes = Masks(), Passes()
    for model in (asks, passes):
        swap(model, {functional.relu: "gem"})
    assert torch.equal(asks(x, mask)[0], gem(x * mask))
    for call in (lambda: asks(x, None), lambda: asks(x, mask=None)):
        with pytest.raises(ModelError, match=r"Masks.forward asks what is None"):
            call()
    assert passes(x, None)[1] is None


class Overwrites(nn.Module):
    def forward(self, x):
        x = x + 0
        x.relu_()
        return x


class OverwritesAndReads(nn.Module):
    def forward(self, x):
        x = x + 0
        return functional.relu(x, inplace=True) + x


@pytest.mark.parametrize("kind", [Overwrites, OverwritesAndReads])
def test_a_call_is_overwriting_where_the_forward_counts_on_it(kind):
    model, x = kind(), torch.linspace(-1, 2, 5)
    with pytest.raises(ModelError, match=r"reads what relu_? overwrites, and GELU overwrites nothing"):
        swap(model, {functional.relu: "gelu"})
    once = 1 + (kind is OverwritesAndReads)
    swap(model, {functional.relu: "gem"})
    assert torch.equal(model(x), once * gem(x))


def test_a_graph_module_of_torch_fx_is_rewritten():
    class Calls(nn.Module):
        def forward(self, x):
            return functional.relu(x)

    model = torch.fx.symbolic_trace(Calls())
    swap(model, {functional.relu: "gem"})
    x = torch.linspace(-1, 2, 5)
    assert torch.equal(model(x), gem(x))


class Out(collections.OrderedDict):
    """What is no plain dict, as the outputs of transformers are."""


@dataclasses.dataclass
class Doubles:
    value: torch.Tensor

    def __post_init__(self):
        self.value = self.value * 2


class Tally:
    calls = 0

    def add(self):
        self.calls += 1


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(functional.relu(x))


class Pair(NamedTuple):
    value: torch.Tensor
    number: int


class Named(Pair):
    """What is made in another way than a named tuple is."""

    def __new__(cls, value):
        return super().__new__(cls, value * 2, 1)


@dataclasses.dataclass
class Plain:
    value: torch.Tensor
    number: int = 3


@pytest.mark.parametrize("kind", [Out, Doubles, Named, collections.defaultdict])
def test_an_output_that_would_become_another_is_left(kind):
    made = {Out: lambda x: Out(x=x), collections.defaultdict: lambda x: collections.defaultdict(list, x=x)}
    with pytest.raises(ModelError, match=f"makes a {kind.__name__}"):
        swap(Gives(made.get(kind, kind)), {functional.relu: "gem"})


def test_outputs_keep_their_kinds():
    def make(x):
        return Plain(x), Pair(x, 1), [x], torch.Size([1, 2]), {"k": (x,)}, np.float64(0.5)

    model, x = Gives(make), torch.ones(2)
    kinds = [type(part) for part in model(x)]
    swap(model, {functional.relu: "gem"})
    got = model(x)
    assert [type(part) for part in got] == kinds
    assert torch.equal(got[0].value, gem(x))
    assert (got[0].number, got[3], got[5]) == (3, (1, 2), 0.5)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.drop = nn.Linear(4, 64), nn.Dropout(0.5)
        self.scale = 1.0

    def features(self, x):
        return functional.dropout(self.fc(x), 0.5, self.training) * self.scale


class Net(nn.Module):
    """A forward that calls a method of its part, whose training mode counts there."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()

    def forward(self, x):
        return functional.relu(self.backbone.features(x))


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_of_a_part_is_followed(training):
    model, x = Net().train(training), torch.ones(8, 4)
    swap(model, {functional.relu: "segem(leak=0.5)"})
    model.train()
    assert not torch.equal(model(x), model(x))
    assert (model(x) == 0).any()
    model.eval()
    assert torch.equal(model(x), model.relu_0(model.backbone.fc(x)))
    model.backbone.drop.train()  # Nothing reads it.
    model(x)
    model.backbone.train()
    with pytest.raises(ModelError, match="Net and its part backbone are not both in training or in evaluation"):
        model(x)
    model.eval()
    model.backbone.scale = 2.0
    with pytest.raises(ModelError, match=r"Backbone.scale was 1.0"):
        model(x)


def test_a_part_in_another_mode_at_the_swap_is_said():
    model = Net().eval()
    model.backbone.train()
    with pytest.raises(ModelError, match="reads the training mode of backbone, which is not its own now"):
        swap(model, {functional.relu: "gem"})


def test_a_forward_that_reads_its_part_compiles_in_one_graph():
    model, x = Net().eval(), torch.ones(2, 4)
    swap(model, {functional.relu: "gem"})
    assert torch.equal(torch.compile(model, backend="aot_eager", fullgraph=True)(x), model(x))


class TwoModes(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        h = self.one(x)
        if self.training:
            return functional.relu(h) + h
        return functional.relu(h, inplace=True)


class MoreInTraining(TwoModes):
    def forward(self, x):
        if self.training:
            x = x + functional.relu(self.one(x))
        return functional.relu(self.two(x))


class OneInEach(TwoModes):
    def forward(self, x):
        return functional.relu(self.one(x)) if self.training else functional.relu(self.two(x))


def test_a_call_in_place_in_one_mode_alone_has_a_child_of_its_own():
    model, x = TwoModes(), torch.randn(5, 3)
    swap(model, {functional.relu: "gem"})
    h = model.one(x)
    assert torch.equal(model.train()(x), gem(h) + h)
    assert torch.equal(model.eval()(x), gem(h))
    assert [model.relu_0.inplace, model.relu_1.inplace] == [True, False]


@pytest.mark.parametrize("kind", [TwoModes, MoreInTraining, OneInEach])
def test_calls_that_differ_by_mode_share_no_learnt_slope(kind):
    with pytest.raises(ModelError, match="calls of relu differ between training and evaluation, and PReLU has"):
        swap(kind(), {functional.relu: "prelu"})
    if kind is not TwoModes:
        model, x = kind(), torch.randn(5, 3)
        swap(model, {functional.relu: "gem"})
        assert torch.equal(model.eval()(x), gem(model.two(x)))


class Keeps(nn.Module):
    def __init__(self, place, put):
        super().__init__()
        self.place, self.put = place, put

    def forward(self, x):
        y = functional.relu(x)
        getattr(self.place, self.put)(y)
        return y


class Meter(Tally):
    def update(self, value):
        self.last, self.calls = value, self.calls + 1


@pytest.mark.parametrize(
    ("place", "put"),
    [(collections.deque(), "append"), (set(), "add"), (Meter(), "update"), (collections.Counter(), "update")],
    ids=lambda value: type(value).__name__,
)
def test_what_a_forward_keeps_goes_on_being_kept(place, put):
    model = nn.Sequential(Keeps(place, put))
    before = pickle.dumps(place)
    with pytest.raises(ModelError):
        swap(model, {functional.relu: "gem"})
    assert model[0].place is place
    assert pickle.dumps(place) == before


class Draws(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(0)

    def forward(self, x):
        return x if self.generator.random() < 2 else functional.relu(x)


def test_a_generator_of_the_module_is_not_frozen_nor_moved():
    model = Draws()
    with pytest.raises(ModelError, match=r"its forward (draws a random number|.*\(generator\))"):
        swap(model, {functional.relu: "gem"})
    assert model.generator.random() == np.random.default_rng(0).random()


class Ordinary(nn.Module):
    """What tracing must not be afraid of."""

    def __init__(self):
        super().__init__()
        self.fc, self.bn, self.shortcut = nn.Linear(3, 3), nn.BatchNorm1d(3), None
        self.lock, self.file, self.config = threading.Lock(), io.StringIO(), types.SimpleNamespace(scale=2.0)
        self.steps, self.width, self.fill = [self.fc, self.bn], np.float64(2.0), float("nan")

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        parts = [functional.relu(getattr(self, name)(x)) for name in ("fc", "bn")]
        if self.shortcut is not None:
            parts.append(self.shortcut(x))
        x = torch.cat(parts, 1).view(x.size(0), -1) * self.config.scale / self.width
        return {"x": x.masked_fill(x > 1e9, self.fill), "shape": x.shape}


def test_ordinary_forwards_are_rewritten():
    model, x = Ordinary().eval(), torch.randn(4, 3)
    lock, profiler = model.lock, cProfile.Profile()
    with torch.no_grad():
        h = model.bn(model.fc(x))
        wanted = torch.cat([gem(model.fc(h)), gem(model.bn(h))], 1) * 2.0 / 2.0
        report = profiler.runcall(swap, model, {functional.relu: "gem"})
        assert len(report.changes) == 2
        assert torch.equal(model(x)["x"], wanted)
    assert model.lock is lock
    assert model(x)["shape"] == (4, 6)
    assert profiler.getstats()


def test_a_setting_that_is_nan_stays_the_same_setting():
    class Fills(nn.Module):
        def __init__(self):
            super().__init__()
            self.fill, self.pair = float("nan"), (float("nan"), 1)

        def forward(self, x):
            return functional.relu(x).masked_fill(x > 5, self.fill) * self.pair[1]

    model = Fills()
    swap(model, {functional.relu: "gem"})
    model.fill, model.pair = float("nan"), (float("nan"), 1)
    assert torch.equal(model(torch.ones(2)), gem(torch.ones(2)))
    model.pair = (1.0, 1)
    with pytest.raises(ModelError, match=r"Fills.pair was \(nan, 1\)"):
        model(torch.ones(2))


class Renamed(nn.Module):
    def forward(self, x):
        return renamed(x)


class OfTheClass(nn.Module):
    act = staticmethod(functional.relu)

    def forward(self, x):
        return self.act(x)


class InADict(nn.Module):
    def __init__(self):
        super().__init__()
        self.acts = {"first": [functools.partial(functional.relu, inplace=False)]}

    def forward(self, x):
        return self.acts["first"][0](x)


def closing_over(act):
    class Encloses(nn.Module):
        def forward(self, x):
            return act(x)

    return Encloses()


@pytest.mark.parametrize("make", [Renamed, OfTheClass, InADict, lambda: closing_over(functional.relu)], ids=range(4))
def test_a_function_under_another_name_is_found(make):
    model, x = nn.Sequential(make(), Renamed()), torch.randn(9)
    report = swap(model, {functional.relu: "gem"})
    assert [change.name for change in report.changes] == ["0.relu_0", "1.relu_0"]
    assert torch.equal(model[0](x), gem(x))


def test_a_function_under_another_name_that_cannot_be_changed_is_said():
    class Optional(InADict):
        def forward(self, x, times=1):
            return super().forward(x) * times

    report = swap(nn.Sequential(Optional(), Renamed()), {functional.relu: "gem"})
    assert [left.name for left in report.left] == ["0"]
    assert "optional argument 'times'" in report.left[0].reason


class HoldsAndCalls(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.other = functional.gelu, functools.partial(functional.elu, alpha=0.5)

    def forward(self, x):
        return functional.relu(self.act(x)) + self.other(x)


def test_a_function_that_is_held_and_replaced_is_the_one_a_rewritten_forward_calls():
    model, x = HoldsAndCalls(), torch.randn(9)
    report = swap(model, {functional.gelu: "gem(n=2)", functional.relu: "segem(leak=0.5)"})
    assert [change.name for change in report.changes] == ["act", "relu_0"]
    assert torch.equal(model(x), model.relu_0(gem(x, n=2)) + functional.elu(x, alpha=0.5))
    later = swap(model, {functional.elu: "gem"})
    assert torch.equal(model(x), model.relu_0(gem(x, n=2)) + gem(x))
    later.undo()
    report.undo()
    assert torch.equal(model(x), type(model).forward(model, x))
    assert model.act is functional.gelu


def test_modules_that_torch_does_not_know_of_are_told():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model.steps = [model[0], {"act": model[1]}]
    assert list(held_modules(model)) == [("steps", model[0]), ("steps", model[1])]
    assert list(held_modules(nn.Sequential(nn.ReLU()))) == []
