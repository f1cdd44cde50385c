"""Forwards that swap rewrites by torch.fx: what tracing must neither freeze, drop nor do to the model."""

import random
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gem_activations.errors import ModelError
from gem_activations.torch import gem, swap


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
