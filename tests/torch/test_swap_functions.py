"""Functions that forwards call: served while forward runs, whatever it does; each module has the word over its own."""

import collections
import contextlib
import copy
import dataclasses
import functools
import operator
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
from gem_activations.torch import GEM, gem, segem, swap
from gem_activations.torch.swap.surgery import held_modules


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


# Whose call it is.


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(x) + self.act(-x)


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return functional.relu(self.inner(functional.relu(x)) - 1)


def test_a_module_of_torch_within_keeps_its_own_function():
    model, x = Outer(Inner()), torch.randn(9)
    report = swap(model, {functional.relu: "gem"})
    assert [change.name for change in report.changes] == ["relu"]
    assert torch.equal(model(x), gem(functional.relu(gem(x)) + functional.relu(-gem(x)) - 1))
    report.undo()
    assert type(model.inner.act) is nn.ReLU
    assert type(model.inner) is Inner
    assert "_functions_served" not in vars(model.inner.act)


def test_a_child_that_was_left_keeps_its_own_calls():
    class Pieces(nn.Module):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(functional.relu, x, use_reentrant=False)

    model, x = Outer(Pieces()), torch.randn(9)
    report = swap(model, {functional.relu: "gem"})
    assert [left.name for left in report.left] == ["inner"]
    assert torch.equal(model(x), gem(functional.relu(gem(x)) - 1))


def test_a_child_has_a_new_activation_of_its_own():
    model, x = Outer(Outer(nn.Identity())), torch.randn(9)
    report = swap(model, {functional.relu: "prelu"})
    assert [change.name for change in report.changes] == ["relu", "inner.relu"]
    nn.init.constant_(model.relu.weight, 0.5)
    nn.init.constant_(model.inner.relu.weight, 0.75)

    def leaky(slope, x):
        return functional.leaky_relu(x, slope)

    inner = leaky(0.75, leaky(0.75, leaky(0.5, x)) - 1)
    assert torch.allclose(model(x), leaky(0.5, inner - 1))
    model(x).sum().backward()
    assert model.relu.weight.grad is not None
    assert any("share what is learnt: relu, inner.relu" in note for note in report.notes)


def test_a_child_that_names_no_function_is_left_alone_with_what_it_looks_up():
    class LooksUp(nn.Module):
        def forward(self, x):
            return getattr(functional, "re" + "lu")(x)

    model, x = Outer(LooksUp()), torch.randn(9)
    assert torch.equal(swapped(model)(x), gem(functional.relu(gem(x)) - 1))


def test_modules_in_plain_lists_keep_their_own_functions():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = [Inner(), {"act": nn.ReLU()}]

        def forward(self, x):
            return functional.relu(self.steps[1]["act"](self.steps[0](x)) - 1)

    x = torch.randn(9)
    assert torch.equal(swapped(Steps())(x), gem(Inner()(x) - 1))


def test_the_new_activations_keep_their_own_functions():
    class Squashes(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return torch.tanh(self.act(x))

    one, two, x = Squashes(), Squashes(), torch.randn(9)
    swap(one, {torch.tanh: "gem", nn.ReLU: "telu"})
    swap(two, {torch.tanh: "gem"})
    second = swap(two, {nn.ReLU: "telu"})  # TeLU computes a tanh itself.
    wanted = gem(x * torch.tanh(torch.exp(x)))
    assert torch.equal(one(x), wanted)
    assert torch.equal(two(x), wanted)
    second.undo()
    assert torch.equal(two(x), gem(functional.relu(x)))


def test_other_modes_go_on_seeing_what_they_saw():
    seen = []

    class Sees(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            with Sees():
                y = self.inner(x)
            return functional.relu(y)

    model, x = swapped(Inside()), torch.randn(9)
    assert torch.equal(model(x), gem(Inner()(x)))
    assert seen.count(functional.relu) == 2
    with pytest.raises(TypeError):
        model(None)
    assert torch._C._len_torch_function_stack() == 0


def test_threads_do_not_see_each_others_modes():
    model, x = swapped(Outer(Inner())), torch.randn(9)
    wanted, got = model(x), []
    threads = [threading.Thread(target=lambda: got.extend(model(x) for _ in range(20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 80
    assert all(torch.equal(one, wanted) for one in got)


# Which modules are found to call a function.


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

    def forward(self, x, times=1):
        return self.acts["first"][0](x) * times


def closing_over(act):
    class Encloses(nn.Module):
        def forward(self, x):
            return act(x)

    return Encloses()


def without_source():
    scope = {"nn": nn, "F": functional, "torch": torch}
    exec(
        "class Alone(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Identity()\n"
        "    def forward(self, x):\n"
        "        return self.inner(self.fc(x))\n"
        "    def inner(self, x):\n"
        "        return [F.relu(y) for y in (x,)][0]\n",
        scope,
    )
    return scope["Alone"]()


@pytest.mark.parametrize(
    "make", [Renamed, OfTheClass, InADict, lambda: closing_over(functional.relu), without_source], ids=range(5)
)
def test_a_function_under_another_name_is_found(make):
    model, x = nn.Sequential(make(), Renamed()), torch.randn(9)
    report = swap(model, {functional.relu: "gem"})
    assert [change.name for change in report.changes] == ["0.relu", "1.relu"]
    assert torch.equal(model[0](x), gem(x))


class NamesItsOwn(nn.Module):
    """What has the name of a function and is none."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.block = nn.Sequential()
        self.block.relu = nn.ReLU()

    def forward(self, x):
        return self.block.relu(self.relu(torch.flatten(x)))


def test_a_child_with_the_name_of_a_function_is_no_call_of_it():
    with pytest.raises(ModelError, match=r"no module holds or calls relu; its activations are 2 ReLU"):
        swap(NamesItsOwn(), {functional.relu: "gem"})

    class Both(NamesItsOwn):
        def forward(self, x):
            return super().forward(functional.relu(x))

    model, x = Both(), torch.randn(9)
    assert [change.name for change in swap(model, {functional.relu: "gem"}).changes] == ["relu_1"]
    assert torch.equal(model(x), functional.relu(gem(x)))


class HoldsAndCalls(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.other = functional.gelu, functools.partial(functional.elu, alpha=0.5)

    def forward(self, x):
        return functional.relu(self.act(x)) + self.other(x)


def test_functions_that_are_held_and_that_are_called_are_changed_apart():
    model, x = HoldsAndCalls(), torch.randn(9)
    report = swap(model, {functional.gelu: "gem(n=2)", functional.relu: "segem(leak=0.5)"})
    assert [change.name for change in report.changes] == ["act", "relu"]
    assert torch.equal(model(x), model.relu(gem(x, n=2)) + functional.elu(x, alpha=0.5))
    later = swap(model, {functional.elu: "gem"})
    assert torch.equal(model(x), model.relu(gem(x, n=2)) + gem(x))
    later.undo()
    report.undo()
    assert torch.equal(model(x), HoldsAndCalls.forward(model, x))
    assert model.act is functional.gelu


def test_a_second_function_of_the_same_forward_is_added_and_taken_back():
    class Two(nn.Module):
        def forward(self, x):
            return torch.relu(x) + torch.tanh(x)

    model, x = Two(), torch.randn(9)
    first = swap(model, {torch.relu: "gem"})
    second = swap(model, {torch.tanh: "gem(n=2)"})
    assert torch.equal(model(x), gem(x) + gem(x, n=2))
    with pytest.raises(ModelError, match="undo the later change first"):
        first.undo()
    second.undo()
    assert torch.equal(model(x), gem(x) + torch.tanh(x))
    first.undo()
    assert type(model) is Two


def test_modules_that_torch_does_not_know_of_are_told():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model.steps = [model[0], {"act": model[1]}]
    assert list(held_modules(model)) == [("steps", model[0]), ("steps", model[1])]
    assert list(held_modules(nn.Sequential(nn.ReLU()))) == []


# The graphs of torch.fx are data, and are changed as such.


class Activates(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        h = self.fc(x)
        return functional.relu(h, inplace=True) + h.relu() + x


@pytest.mark.parametrize("new", ["segem(leak=0.5)", "gelu"])
def test_a_graph_module_of_torch_fx_is_changed_and_copied_and_pickled(new):
    model, x = torch.fx.symbolic_trace(Activates()), torch.randn(9, 3)
    before, other = model(x), swapped(Activates(), {functional.relu: new})
    report = swap(model, {functional.relu: new})
    assert [(change.name, change.old) for change in report.changes] == [("relu", "calls of relu")]
    other.load_state_dict(model.state_dict())
    after = model(x)
    assert torch.equal(after, other(x))
    twin = copy.deepcopy(copy.deepcopy(model))
    assert torch.equal(twin(x), after)
    assert torch.equal(pickle.loads(pickle.dumps(twin))(x), after)
    nn.init.zeros_(twin.fc.weight)
    assert torch.equal(model(x), after)
    report.undo()
    assert torch.equal(model(x), before)
    assert list(model._modules) == ["fc"]


def test_a_graph_module_within_a_model_is_changed():
    model, x = Outer(torch.fx.symbolic_trace(Activates())), torch.randn(9, 3)
    swap(model, {functional.relu: "gem"})
    assert isinstance(model.inner.relu, GEM)
    h = model.inner.fc(gem(x))
    assert torch.equal(model(x), gem(gem(h) + gem(gem(h)) + gem(x) - 1))


class Ordinary(nn.Module):
    """What a module may hold."""

    def __init__(self):
        super().__init__()
        self.fc, self.bn, self.shortcut = nn.Linear(3, 3), nn.BatchNorm1d(3), None
        self.lock, self.config = threading.Lock(), types.SimpleNamespace(scale=2.0)
        self.steps, self.width, self.fill = [self.fc, self.bn], np.float64(2.0), float("nan")
        self.pick = operator.itemgetter(0)

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        parts = [functional.relu(getattr(self, name)(x)) for name in ("fc", "bn")]
        x = torch.cat(parts, 1).view(x.size(0), -1) * self.config.scale / self.width
        return {"x": x.masked_fill(x > 1e9, self.fill), "shape": self.pick([x.shape])}


def test_a_module_that_holds_locks_and_more_is_swapped_as_it_is():
    model, x = Ordinary().eval(), torch.randn(4, 3)
    lock = model.lock
    with torch.no_grad():
        h = model.bn(model.fc(x))
        wanted = torch.cat([gem(model.fc(h)), gem(model.bn(h))], 1)
        assert torch.equal(swapped(model)(x)["x"], wanted)
    assert model.lock is lock
    assert model(x)["shape"] == (4, 6)
