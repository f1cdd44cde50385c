"""What swap leaves although a key asks for it, and what undo gives back after a model was used in between."""

import collections
import contextlib
import copy
import datetime
import functools
import gc
import io
import operator
import pickle
import random
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.nn import quantized
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint as saves_memory
from torch.utils.checkpoint import checkpoint_sequential as saves_more

from gem_activations.errors import ModelError
from gem_activations.torch import GEM, gem, swap

from .known_warnings import tracing


def pair(activation):
    return nn.Sequential(nn.Linear(2, 2), activation)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_swaps_of_two_layers_of_an_encoder_are_undone_in_order():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=nn.ReLU(), batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(2, 4, 8), torch.tensor([[False] * 4, [False] * 2 + [True] * 2])
    with torch.no_grad():
        before = model(x, src_key_padding_mask=padding)
        first = swap(model, {"layers.0.activation": "gem(n=2)"})
        second = swap(model, {"layers.1.activation": "gem(n=2)"})
        # The first layer alone would make a nested tensor, which the second could not take.
        with pytest.raises(ModelError, match="undo the later change first"):
            first.undo()
        assert model(x, src_key_padding_mask=padding).shape == x.shape
        second.undo()
        first.undo()
        assert torch.equal(model(x, src_key_padding_mask=padding), before)


def test_undo_keeps_the_training_mode_and_the_hooks_of_now():
    model, calls = pair(nn.RReLU()).train(), []
    report = swap(model, {nn.RReLU: "gem"})
    model.eval()
    model[1].register_full_backward_hook(lambda *_: calls.append("backward"))
    report.undo()
    assert not model[1].training
    model(torch.ones(1, 2)).sum().backward()
    assert calls == ["backward"]


def test_an_activation_with_a_hook_that_is_bound_to_it_is_left():
    model, calls = nn.Sequential(nn.GELU(), nn.GELU()), []
    model[1].register_load_state_dict_pre_hook(lambda module, *_: calls.append(type(module)))
    left = swap(model, {nn.GELU: "gem"}).left
    assert [(place.name, place.reason) for place in left] == [("1", "a hook for load_state_dict is bound to it")]
    gc.collect()
    model.load_state_dict(model.state_dict())
    assert calls == [nn.GELU]


@pytest.mark.parametrize("key", ["*", nn.Softplus, lambda _, module: isinstance(module, nn.Softplus)])
def test_an_activation_that_computes_a_weight_is_left(key):
    model = nn.Sequential(nn.Linear(2, 2), nn.Softplus())
    parametrize.register_parametrization(model[0], "weight", nn.Softplus())
    weight = model[0].weight.detach().clone()
    report = swap(model, {key: "gem"})
    assert [change.name for change in report.changes] == ["1"]
    assert [place.name for place in report.left] == ["0.parametrizations.weight.0"]
    assert torch.equal(model[0].weight, weight)


def test_functions_inside_what_is_replaced_are_no_changes_of_their_own():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = functional.gelu

        def forward(self, x):
            return functional.relu(self.act(x))

    model = pair(Own())
    report = swap(model, {functional.gelu: "egem", functional.relu: "egem", Own: "gem"})
    assert [(change.name, change.new) for change in report.changes] == [("1", "GEM(n=1)")]
    report.undo()
    shared = nn.Sequential(model, nn.Sequential(model[1]))
    assert len(swap(shared, {functional.gelu: "egem", functional.relu: "egem", Own: "gem"}).changes) == 1
    assert isinstance(shared[1][0], GEM)


@tracing
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_scripted_part_is_left():
    with pytest.raises(ModelError, match=r"1: it is scripted; swap before torch.jit.script"):
        swap(pair(torch.jit.script(nn.GELU())), {"1": "gem"})


def test_an_activation_of_quantised_tensors_is_not_taken_by_a_pattern():
    model = nn.Sequential(quantized.ReLU6(), nn.ReLU6())
    assert [change.name for change in swap(model, {"*": "gem"}).changes] == ["1"]


def test_a_pattern_that_meets_functions_only_names_them():
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 1, 4, activation="gelu", batch_first=True))
    with pytest.raises(ModelError, match=r"'\*.activation'.* functions it holds: torch.nn.functional.gelu"):
        swap(model, {"*.activation": "gem"})


class Reverses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # noqa: ARG004 -- given by torch
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):  # noqa: ARG004 -- given by torch
        return -gradient


class Out(collections.OrderedDict):
    """What is no plain dict, as the outputs of transformers are."""


AMP, NO_GRAD, DRAWS, CACHE = torch.autocast("cpu", torch.bfloat16), torch.no_grad(), np.random.default_rng(0), {}
is_one = isinstance


class Tally:
    calls = 0

    def add(self):
        self.calls += 1


TALLY = Tally()


@functools.singledispatch
def first(x):
    return x[0]


@first.register
def _(x: torch.Tensor):
    return x


@torch.no_grad()
def without_gradient(x):
    return x * 2


@contextlib.contextmanager
def nothing():
    yield


@nothing()
def in_a_context(x):
    return x * 2


def by_class(x):
    match x:
        case torch.Tensor():
            return x
        case _:
            return x[0]


def tries(x):
    try:
        return x.tensors
    except AttributeError:
        return x


def under(context, x):
    with context:
        return x * 2


def notes(x):
    CACHE["last"] = x
    return x


def counts(x):
    TALLY.add()
    return x


def counts_in_a_class(x):
    Tally.calls += 1
    return x


def counts_in_itself(x):
    counts_in_itself.calls = x
    return x


class CallsTwice(nn.Module):
    """What torch.fx would do before the call of the child, and the child again within it."""

    def __call__(self, x):
        return super().__call__(x * 2)

    def forward(self, x):
        return x + 1


def says(x):
    print("a call")
    return x


def enclosing():
    seen, calls = [], 0

    def appends(x):
        seen.append(x)
        return x

    def adds(x):
        nonlocal calls
        calls += 1
        return x

    return appends, adds


appends, adds = enclosing()


class Runs(nn.Module):
    """ReLU of a step, which nothing in this class names."""

    def __init__(self, step):
        super().__init__()
        self.step, self.inner = step, nn.Linear(3, 3)

    def forward(self, x):
        return functional.relu(self.step(x))


STEPS = {
    "gradient": (lambda x: Reverses.apply(x), "backward pass of its own"),
    "global autocast": (lambda x: under(AMP, x), "uses autocast"),
    "global no_grad": (lambda x: under(NO_GRAD, x), "sets whether gradients are recorded"),
    "own context": (lambda x: under(nothing(), x), "has a with statement"),
    "decorated": (without_gradient, "sets whether gradients are recorded"),
    "decorated by a context": (in_a_context, "works in a context"),
    "set_grad": (lambda x: x * bool(operator.methodcaller("set_grad_enabled", True)(torch)), "gradients"),
    "checkpoint": (lambda x: saves_memory(torch.tanh, x, use_reentrant=False), "its forward "),
    "checkpoint_sequential": (lambda x: saves_more([torch.tanh], 1, x, use_reentrant=False), "uses checkpoint"),
    "isinstance": (lambda x: x if isinstance(x, torch.Tensor) else x[0], "uses isinstance"),
    "isinstance renamed": (lambda x: x if is_one(x, torch.Tensor) else x[0], "uses isinstance"),
    "hasattr": (lambda x: x.tensors if hasattr(x, "tensors") else x, "uses hasattr"),
    "getattr": (lambda x: x if getattr(x, "tensors", None) is None else x.tensors, "asks for the attribute"),
    "callable": (lambda x: x() if callable(x) else x, "uses callable"),
    "__class__": (lambda x: x if x.__class__ is torch.Tensor else x[0], "uses __class__"),
    "is": (lambda x: x + 1 if x is AMP else x, "asks which object"),
    "singledispatch": (first, "uses functools.singledispatch"),
    "match": (by_class, "has a match statement"),
    "try": (tries, "has a try statement"),
    "clock": (lambda x: x * time.time(), "reads a clock"),
    "calendar": (lambda x: x * datetime.datetime.now(tz=datetime.UTC).hour, "reads a clock"),
    "random": (lambda x: x * random.Random(1).uniform(1, 2), "draws a random number"),
    "numpy": (lambda x: x * float(DRAWS.uniform()), r"sets an attribute \(DRAWS\)|draws a random number"),
    "cache": (notes, r"sets an attribute \(CACHE\)"),
    "meter": (counts, "its forward "),
    "class": (counts_in_a_class, r"sets an attribute \(Tally\)"),
    "function": (counts_in_itself, r"sets an attribute \(counts_in_itself\)"),
    "call": (CallsTwice(), "calls a CallsTwice, whose class has a __call__ of its own"),
    "copy": (copy.deepcopy, "it copies a tensor by copy.deepcopy"),
    "seed": (lambda x: torch.manual_seed(0) and x, "its forward (uses manual_seed|runs what torch keeps)"),
    "enclosed list": (appends, "its forward "),
    "enclosed number": (adds, "sets the name calls outside itself"),
    "print": (says, "uses print"),
    "dict": (lambda x: {"a": Out(x=x)}["a"] and x.view(Out(x=x)), "makes a Out"),
    "thread": (lambda x: threading.Thread(target=print).start() or x, "starts a thread"),
}


@pytest.mark.parametrize("step", STEPS)
def test_what_runs_out_of_sight_is_watched(step):
    run, words = STEPS[step]
    model = Runs(run)
    with pytest.raises(ModelError, match=words) as caught:
        swap(model, {functional.relu: "gem"})
    assert "\n" not in str(caught.value)
    assert "forward" not in vars(model)
    assert CACHE == {}
    assert TALLY.calls == Tally.calls == 0
    assert not hasattr(counts_in_itself, "calls")
    assert appends.__closure__[0].cell_contents == []
    assert sys.getprofile() is None
    assert "__getattribute__" not in vars(nn.Module)


class Activates(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return functional.relu(self.fc(x)) + functional.relu(x)


def test_a_rewritten_forward_is_copied_but_not_pickled_as_what_it_was():
    model, x = Activates(), torch.randn(9, 3)
    report = swap(model, {functional.relu: "segem(leak=0.5)"})
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    for save in (pickle.dumps, lambda whole: torch.save(whole, io.BytesIO())):
        with pytest.raises(pickle.PicklingError, match=r"swap rewrote the forward of this Activates.* undo the swap"):
            save(model)
    report.undo()
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


def test_copies_of_a_graph_module_keep_the_swap():
    model, x = torch.fx.symbolic_trace(Activates()), torch.randn(9, 3)
    before = model(x)
    report = swap(model, {functional.relu: "segem(leak=0.5)"})
    after = model(x)
    assert not torch.equal(after, before)
    twin = copy.deepcopy(copy.deepcopy(model))
    assert torch.equal(twin(x), after)
    assert torch.equal(pickle.loads(pickle.dumps(twin))(x), after)
    with pytest.raises(pickle.PicklingError, match="save the state_dict, or undo the swap first"):
        pickle.dumps(model)
    nn.init.zeros_(twin.fc.weight)
    assert torch.equal(model(x), after)
    report.undo()
    assert torch.equal(model(x), before)
    assert torch.equal(copy.deepcopy(model)(x), before)
    assert torch.equal(swap(model, {functional.relu: "gem"}, inplace=False).model(x), gem(model.fc(x)) + gem(x))


def test_a_graph_that_is_changed_after_the_swap_is_not_ignored():
    model = torch.fx.symbolic_trace(Activates())
    swap(model, {functional.relu: "gem"})
    model.graph.erase_node(next(node for node in model.graph.nodes if node.op == "output"))
    model.recompile()
    with pytest.raises(ModelError, match="the graph of this GraphModule was changed after the swap"):
        model(torch.ones(3))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_rewritten_forwards_are_compiled_apart():
    """torch.compile gives up on one code object after a few modules that share it."""
    model, x = nn.Sequential(*(Activates() for _ in range(3))), torch.ones(2, 3)
    swap(model, {functional.relu: "gem"})
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=1):
        wanted = model(x)
        for block in model:
            block.compile(backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(model(x), wanted)


def test_what_others_do_when_garbage_is_collected_is_not_the_forwards():
    class Calls(nn.Module):
        def forward(self, x):
            return functional.relu(x)

    def note(*_):
        time.perf_counter()  # As Hypothesis and JAX do.

    before = gc.get_threshold()
    gc.callbacks.append(note)
    gc.set_threshold(1, 1, 1)
    try:
        assert len(swap(Calls(), {functional.relu: "gem"}).changes) == 1
    finally:
        gc.callbacks.remove(note)
        gc.set_threshold(*before)
    assert gc.isenabled()
