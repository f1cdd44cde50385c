"""Which modules are found to call a function, and whose call it is that is served; graphs of torch.fx."""

import copy
import functools
import operator
import pickle
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import relu as renamed

from gem_activations.errors import ModelError
from gem_activations.torch import GEM, gem, swap
from gem_activations.torch.swap.surgery import held_modules


def swapped(model, choices=None):
    report = swap(model, choices or {functional.relu: "gem"})
    assert not report.left
    return report.model


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


class Threads(nn.Module):
    def forward(self, x):
        with ThreadPoolExecutor(1) as pool:
            return functional.relu(x) + pool.submit(functional.relu, x).result()


class Encodes(nn.Module):
    def encode(self, x):
        return functional.relu(x)

    def forward(self, x):
        return self.encode(x)


class LooksUp(nn.Module):
    name = "relu"

    def forward(self, x):
        return getattr(functional, self.name)(x) + functional.silu(x)


def test_a_thread_that_a_forward_starts_calls_what_it_did():
    model, x = swapped(Threads()), torch.randn(9)
    assert torch.equal(model(x), gem(x) + functional.relu(x))


def test_a_method_that_is_called_from_outside_calls_what_it_did():
    model, x = swapped(Encodes()), torch.randn(9)
    assert torch.equal(model(x), gem(x))
    assert torch.equal(model.encode(x), functional.relu(x))


def test_a_function_that_is_looked_up_by_a_string_is_not_found():
    report = swap(LooksUp(), {functional.relu: "gem", functional.silu: "gem"})
    assert [change.old for change in report.changes] == ["calls of silu"]
    assert "a key was of no use: no module holds or calls relu" in report.notes[0]
    x = torch.randn(9)
    assert torch.equal(report.model(x), functional.relu(x) + gem(x))


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
