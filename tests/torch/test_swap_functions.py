"""Functions that forwards call are served while forward runs, whatever it does, in place or not."""

import collections
import contextlib
import copy
import dataclasses
import functools
import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gem_activations.torch import gem, segem, swap


def swapped(model, choices=None):
    report = swap(model, choices or {functional.relu: "gem"})
    assert not report.left
    return report.model


class Calls(nn.Module):
    """A module whose forward is a function of (module, x)."""

    def __init__(self, run=None):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.scale, self.saved, self.counts = 2.0, [], {"calls": 0}
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("on", torch.tensor(True))
        self.run = run


# What was silently another value or another dtype when forwards were rewritten.


def test_a_swap_of_gelu_by_gelu_changes_nothing_beside_an_operation_in_place():
    class Doubles(nn.Module):
        def forward(self, x):
            y = x
            y *= 2
            return functional.gelu(y) + x

    model, x = Doubles(), torch.randn(7)
    given = x.clone()
    wanted = model(x.clone())
    swapped(model, {functional.gelu: "gelu"})
    assert torch.equal(model(given), wanted)
    assert torch.equal(given, 2 * x)  # The caller's tensor is changed, as it was before.


def test_a_view_of_the_output_may_be_changed_as_before():
    class Views(nn.Module):
        def forward(self, x):
            h = functional.relu(x)
            first = h[:, :1]
            first -= 1
            return h

    model, x = Views(), torch.randn(4, 3)
    wanted = model(x)
    assert torch.equal(swapped(model, {functional.relu: "relu"})(x), wanted)


def test_autocast_and_an_addition_in_place_keep_their_dtype():
    class Adds(Calls):
        def forward(self, x):
            h = functional.gelu(self.fc(x))
            h += x
            return h

    model, x = Adds(), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        before = model(x).dtype
        assert swapped(model, {functional.gelu: "gem"})(x).dtype == before == torch.bfloat16


def test_residuals_in_place_and_skips_in_a_list_keep_their_values():
    class Residual(Calls):
        def forward(self, x):
            skips = []
            for _ in range(3):
                x = x * 1
                skips.append(x)
                x += functional.gelu(x)
            return x, [skip * 2 for skip in skips]

    model, x = Residual(), torch.randn(4, 3)
    wanted = model(x)
    got = swapped(model, {functional.gelu: "gelu"})(x)
    assert torch.equal(got[0], wanted[0])
    assert all(map(torch.equal, got[1], wanted[1]))


# Forwards of every kind, compared with themselves where F.relu is another function altogether.


class Optional(Calls):
    def forward(self, x, mask=None, *, times=1.0):
        return functional.relu(x if mask is None else x * mask) * times


class Isinstance(Calls):
    def forward(self, x):
        return functional.relu(x if isinstance(x, torch.Tensor) else x[0])


class Branch(Calls):
    def forward(self, x):
        return functional.relu(x) if x.sum() > 0 else functional.relu(-x) * 3


class While(Calls):
    def forward(self, x):
        while x.abs().sum() > 6:
            x = functional.relu(x - 0.25) if self.on else x
        return x


class Makes(Calls):
    def forward(self, x):
        return functional.relu(x) + torch.arange(3.0)


class Keeps(Calls):
    def forward(self, x):
        self.last = functional.relu(x)
        self.saved.append(self.last)
        self.counts["calls"] += 1
        self.calls += 1
        return self.last + self.calls


class Decorated(Calls):
    @torch.no_grad()
    def forward(self, x):
        return functional.relu(self.fc(x))


class Context(Calls):
    def forward(self, x):
        with torch.no_grad(), contextlib.suppress(ValueError):
            return functional.relu(x)


class Tries(Calls):
    def forward(self, x):
        try:
            return functional.relu(x.tensors)
        except AttributeError:
            return functional.relu(x)
        finally:
            self.scale = 3.0


class DropsByTorch(Calls):
    def forward(self, x):
        return x if torch.rand(1) < 0.5 else functional.relu(x)


class DropsByPython(Calls):
    def forward(self, x):
        return x if random.random() < 0.5 else functional.relu(x)


class DropsByNumpy(Calls):
    def forward(self, x):
        return x if np.random.rand() < 0.5 else functional.relu(x)


class Matches(Calls):
    def forward(self, x):
        match x:
            case torch.Tensor():
                return functional.relu(x)
            case _:
                return x[0]


class Out(collections.OrderedDict):
    """What is no plain dict, as the outputs of transformers are."""


@dataclasses.dataclass
class Doubles:
    value: torch.Tensor

    def __post_init__(self):
        self.value = self.value * 2


class Pair(NamedTuple):
    value: torch.Tensor
    number: int


class Gives(Calls):
    def forward(self, x):
        y = functional.relu(x)
        return Out(y=y), Doubles(y), Pair(y, 1), [y], torch.Size([1, 2]), {"k": (y,)}, np.float64(0.5)


class Nested(Calls):
    def forward(self, x):
        def inner(y):
            return functional.relu(y) * self.scale

        return sum(map(inner, [x, -x, self.fc(x)])) + (lambda y: functional.relu(y))(x)


class Reverses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # noqa: ARG004 -- given by torch
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):  # noqa: ARG004 -- given by torch
        return -gradient


class OwnBackward(Calls):
    def forward(self, x):
        return functional.relu(Reverses.apply(self.fc(x)))


@functools.singledispatch
def first(x):
    return functional.relu(x[0])


@first.register
def _(x: torch.Tensor):
    return functional.relu(x)


class Dispatches(Calls):
    def forward(self, x):
        return first(x) + functional.relu(x)


class InAMethod(Calls):
    def forward(self, x):
        return self.inner(x) + 1

    @torch.no_grad()
    def inner(self, x):
        return functional.relu(x)


class OfABase(Calls):
    def forward(self, x):
        return functional.relu(x)


class BySuper(OfABase):
    def forward(self, x):
        return super().forward(x) * 2


class FromAProperty(Calls):
    @property
    def rectified(self):
        return lambda x: functional.relu(x)

    def forward(self, x):
        return self.rectified(x)


class OfAPart(Calls):
    """A forward that calls a method of its part."""

    def __init__(self):
        super().__init__()
        self.part = InAMethod()

    def forward(self, x):
        return functional.dropout(self.part.inner(x), 0.5, self.part.training)


class ImportsInside(Calls):
    def forward(self, x):
        from torch.nn.functional import relu

        return relu(x)


def values(given):
    if isinstance(given, torch.Tensor):
        return [given]
    if isinstance(given, dict):
        return values(list(given.values()))
    if dataclasses.is_dataclass(given):
        return values(list(vars(given).values()))
    return [value for part in given for value in values(part)] if isinstance(given, (list, tuple)) else [given]


FORWARDS = [
    *(Optional, Isinstance, Branch, While, Makes, Keeps, Decorated, Context, Tries, Matches, Gives, Nested),
    *(DropsByTorch, DropsByPython, DropsByNumpy, OwnBackward, Dispatches, InAMethod, BySuper, FromAProperty, OfAPart),
    ImportsInside,
]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", FORWARDS, ids=lambda kind: kind.__name__)
def test_a_forward_of_any_kind_is_itself_with_another_function(kind, training, monkeypatch):
    model = kind().train(training)
    other, x = copy.deepcopy(model), torch.randn(2, 3)
    assert swap(model, {functional.relu: "segem(leak=0.5)"}).changes[0].name == "relu"

    def run(model):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        return [model(given) for given in (x, x - 5, x + 5, x) for _ in range(2)]

    got = run(model)
    monkeypatch.setattr(functional, "relu", lambda x: segem(x, leak=0.5))
    wanted = run(other)
    assert [type(value) for value in values(got)] == [type(value) for value in values(wanted)]
    for one, two in zip(values(got), values(wanted), strict=True):
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
    assert model.counts == other.counts
    assert model.scale == other.scale


def test_optional_and_keyword_arguments_are_taken_as_before():
    model, x, mask = swapped(Optional()), torch.ones(3), torch.tensor([1.0, 0.0, 1.0])
    assert torch.equal(model(x, mask, times=2.0), 2 * gem(x * mask))
    assert torch.equal(model(mask=mask, x=x), gem(x * mask))
    with pytest.raises(TypeError, match="unexpected keyword argument 'maks'"):
        model(x, maks=mask)


def halve(x):
    return x / 2


class Settings(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3)])
        self.sizes, self.kind, self.last = [1, -1], torch.float32, halve

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.last(functional.relu(x).view(self.sizes).to(self.kind))


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.layers.append(nn.Linear(3, 3)),
        lambda model: model.sizes.reverse(),
        lambda model: setattr(model, "last", torch.sin),
        lambda model: setattr(model, "kind", torch.float64),
    ],
    ids=["layers", "list", "function", "dtype"],
)
def test_a_setting_that_is_changed_after_the_swap_is_followed(change, monkeypatch):
    model, x = Settings(), torch.ones(2, 3)
    other = copy.deepcopy(model)
    swap(model, {functional.relu: "gem"})
    torch.manual_seed(1)
    change(model)
    torch.manual_seed(1)
    change(other)
    got = model(x)
    monkeypatch.setattr(functional, "relu", gem)
    assert torch.equal(got, other(x))
    assert got.dtype == other(x).dtype


# In place.


def ways_in_place():
    return {
        "relu_": functional.relu_,
        "torch.relu_": torch.relu_,
        "Tensor.relu_": torch.Tensor.relu_,
        "inplace": functools.partial(functional.relu, inplace=True),
        "second argument": lambda x: functional.relu(x, True),
    }


@pytest.mark.parametrize("new", ["gem", "egem(n=2)", "gelu", "tanh", "prelu"])
@pytest.mark.parametrize("way", ways_in_place())
def test_a_call_in_place_writes_through(way, new):
    relu = ways_in_place()[way]

    class Overwrites(nn.Module):
        def forward(self, x):
            h = x * 1
            view = h[1:]
            y = relu(h)
            return y, h, view

    model, x = Overwrites(), torch.randn(6, dtype=torch.float64, requires_grad=True)
    act = swapped(model, {functional.relu: new}).relu.double()
    wanted = act(x * 1)
    y, h, view = model(x)
    assert y is h
    assert torch.equal(h, wanted)
    assert torch.equal(view, wanted[1:])
    assert torch.autograd.gradcheck(lambda x: sum(model(x)[:2]), x)
    given = x.detach().clone()
    model(given)
    assert torch.equal(given, x)


def test_the_callers_tensor_is_overwritten_if_it_was_before():
    class Rectifies(nn.Module):
        def forward(self, x):
            return functional.relu_(x)

    x = torch.randn(5)
    wanted = gem(x)
    assert swapped(Rectifies())(x) is x
    assert torch.equal(x, wanted)


def test_calls_in_place_and_not_in_one_forward_are_what_they_are():
    class Both(nn.Module):
        def forward(self, x):
            h = torch.relu(x)
            k = x + 1
            functional.leaky_relu(k, 0.1, True)
            return h + functional.relu_(k), x

    model, x = Both(), torch.randn(5)
    before = x.clone()
    y, given = swapped(model, {functional.relu: "gem", functional.leaky_relu: "gelu"})(x)
    assert torch.equal(y, gem(before) + gem(functional.gelu(before + 1)))
    assert torch.equal(given, before)


def test_an_output_argument_is_filled():
    class Fills(nn.Module):
        def forward(self, x):
            y = torch.empty(0)
            assert torch.tanh(x, out=y) is y
            return y

    x = torch.randn(5)
    assert torch.equal(swapped(Fills(), {torch.tanh: "gem"})(x), gem(x))
