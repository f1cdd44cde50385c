"""What a key of a swap takes for an activation, and what it refuses; what is said of an activation in place."""

import gc
from functools import partial

import pytest
import torch
from torch import nn
from torch.ao.nn import quantized
from torch.nn import functional
from torch.nn.utils import parametrize

from gem_activations.errors import ModelError
from gem_activations.torch import GEM, gem, swap
from gem_activations.torch.swap import Change

from .known_warnings import tracing


class Slope(nn.Module):
    """An activation with learnt numbers."""

    def __init__(self, size):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(size))
        self.inner = nn.PReLU()

    def forward(self, x):
        return self.inner(x) * self.slope


class Funnel(nn.Module):
    """An activation of many elements: it has a layer inside."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, affine=False)

    def forward(self, x):
        return torch.maximum(x, self.norm(x))


class Widened(nn.ReLU):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return super().forward(self.fc(x))


def assert_refused(model, key, words):
    names = list(model.state_dict())
    before = repr(model)
    with pytest.raises(ModelError, match=words) as caught:
        swap(model, {key: "gem"})
    assert "\n" not in str(caught.value)
    assert repr(model) == before
    assert list(model.state_dict()) == names


NO_ACTIVATIONS = [nn.Dropout(), nn.Flatten(), nn.MaxPool1d(1), nn.Softmax(-1), nn.GLU(), nn.Sequential()]


@pytest.mark.parametrize("other", NO_ACTIVATIONS, ids=lambda value: type(value).__name__)
def test_a_module_of_torch_that_is_no_activation_is_for_predicates_alone(other):
    for key in (type(other), "1"):
        assert_refused(
            nn.Sequential(nn.Linear(2, 2), other), key, rf"'1' is chosen, a {type(other).__name__}, which is no act"
        )
    model = nn.Sequential(nn.Linear(2, 2), other)
    assert [change.name for change in swap(model, {lambda name, _: name == "1": "gem"}).changes] == ["1"]


@pytest.mark.parametrize("key", [nn.Identity, "1"], ids=["class", "name"])
def test_a_place_that_is_held_free_is_taken(key):
    model = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    assert swap(model, {key: "gem"}).changes == (Change("1", "Identity", "GEM(n=1, save='input')"),)


@pytest.mark.parametrize("key", [nn.BatchNorm1d, "1", lambda name, _: name == "1"], ids=["class", "name", "predicate"])
def test_buffers_are_parts(key):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False))
    assert_refused(model, key, "'1' is chosen, a BatchNorm1d with parts of its own, which is no activation")


def test_a_pattern_that_meets_no_activation_says_what_it_meets():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.BatchNorm1d(3, affine=False)), nn.ReLU())
    assert_refused(
        model, "1*", r"the pattern '1\*'; it matches '1', a Sequential, which is not known to be one; its activations"
    )


@pytest.mark.parametrize(
    ("make", "layer"), [(Funnel, r"'norm' \(BatchNorm1d\)"), (Widened, r"'fc' \(Linear\)")], ids=["own", "subclass"]
)
def test_an_activation_with_a_layer_inside_is_refused(make, layer):
    for key in (make, "1", lambda name, _: name == "1"):
        assert_refused(
            nn.Sequential(nn.Linear(3, 3), make()), key, f"'1' is chosen, a {make.__name__} with the layer {layer}"
        )


def test_a_pattern_does_not_drop_a_layer_either():
    assert_refused(nn.Sequential(nn.ReLU(), Widened()), "*", r"'1' is chosen, a Widened with the layer 'fc' \(Linear\)")


def test_what_is_learnt_in_a_class_of_the_users_own_goes_and_is_said():
    model = nn.Sequential(nn.Linear(3, 3), Slope(1), Slope(3))
    report = swap(model, {Slope: "gem"})
    assert [change.old for change in report.changes] == ["Slope", "Slope with its weights slope"]
    assert "Slope with its weights slope -> GEM(n=1, save='input'): 2" in str(report)
    assert isinstance(model[2], GEM)
    report.undo()
    assert "2.slope" in model.state_dict()


def test_parameters_in_lists_and_under_parametrizations_are_no_layers():
    class Powers(nn.Module):
        def __init__(self):
            super().__init__()
            self.factors = nn.ParameterList(torch.ones(1) for _ in range(2))

        def forward(self, x):
            return self.factors[0] * x + self.factors[1] * x**2

    scaled = nn.utils.parametrize.register_parametrization(Slope(2), "slope", nn.Softplus())
    report = swap(nn.Sequential(Powers(), scaled), {Powers: "gem", type(scaled): "gem"})
    assert [change.name for change in report.changes] == ["0", "1"]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (functional.softmax, r"softmax is no activation function of torch, .* on '0', a Linear: AttributeError"),
        (functional.glu, "glu is no activation function of torch"),
        (functional.normalize, "normalize is no activation function of torch"),
        (torch.log_softmax, "log_softmax is no activation function of torch"),
        (
            lambda _, module: module.inplace,
            r"fails as a predicate .* on '0', a Linear: AttributeError: 'Linear' object",
        ),
        (lambda *_: torch.ones(2), "fails as a predicate .* RuntimeError: Boolean value of Tensor"),
        (lambda *_: [][1], "fails as a predicate .* IndexError"),
        (nn.ReLU(), "the key ReLU is one module; give the class ReLU or a name"),
        (None, "None is no key"),
    ],
    ids=["softmax", "glu", "normalize", "log_softmax", "attribute", "many", "index", "instance", "None"],
)
def test_a_key_that_cannot_be_asked_is_one_clear_error(key, words):
    assert_refused(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), key, words)


class Statement(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential()
        self.block.act = nn.ReLU(inplace=True)
        self.last = nn.ReLU(inplace=True)

    def forward(self, x):
        x = x * 1
        self.rectify(x)
        return self.last(x)

    @torch.autocast("cpu", enabled=False)
    def rectify(self, x):
        self.block.act(x)

    def warm(self):
        self(torch.zeros(1))


def test_an_activation_that_is_called_for_what_it_overwrites_is_left_where_the_new_one_overwrites_nothing():
    model, x = Statement(), torch.linspace(-1, 2, 5)
    report = swap(model, {nn.ReLU: "gelu"})
    assert report.changes == (Change("last", "ReLU(inplace=True)", "GELU, not in place"),)
    assert [place.name for place in report.left] == ["block.act"]
    assert "calls it for what it overwrites, and GELU overwrites nothing" in report.left[0].reason
    assert torch.equal(model(x), functional.gelu(functional.relu(x)))
    assert str(report).startswith("1 x ReLU(inplace=True) -> GELU, not in place: last\n1 x left: a forward calls it")


def test_an_activation_that_overwrites_as_well_takes_the_place():
    model, x = Statement(), torch.linspace(-1, 2, 5)
    report = swap(model, {nn.ReLU: "gem(n=2)"})
    assert [change.new for change in report.changes] == ["GEM(n=2, inplace=True)"] * 2
    assert torch.equal(model(x), gem(gem(x, n=2), n=2))


@pytest.mark.parametrize("held", [functional.relu_, partial(functional.relu, inplace=True)], ids=["relu_", "partial"])
def test_a_held_function_that_overwrites_is_followed_by_an_activation_that_does(held):
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = held

        def forward(self, x):
            self.act(x)
            return x

    model, x = Holds(), torch.linspace(-1, 2, 5)
    report = swap(model, {functional.relu: "gem"})
    assert torch.equal(model(x.clone()), gem(x))
    report.undo()
    assert swap(model, {functional.relu: "gelu"}).changes[0].new == "GELU, not in place"


def test_a_replaced_module_in_a_plain_list_is_named():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = nn.Linear(2, 2), nn.ReLU()
            self.steps = [self.fc, self.act]
            self.by_name = {"act": self.act}

    model = nn.Sequential(Steps(), nn.ReLU())
    left = {each.name: each.reason for each in swap(model, {nn.ReLU: "gem"}).left}
    assert left.keys() == {"0.steps", "0.by_name"}
    assert all("nn.ModuleList" in reason for reason in left.values())


def test_the_options_of_a_printed_module_hold_for_every_place():
    model = nn.Sequential(nn.ReLU(), nn.ReLU(inplace=True))
    swap(model, {nn.ReLU: repr(GEM(2, save="input"))})
    assert [repr(module) for module in model] == ["GEM(n=2, save='input')"] * 2


# What is left although a key asks for it, and what undo gives back after a model was used in between.


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
    assert [(change.name, change.new) for change in report.changes] == [("1", "GEM(n=1, save='input')")]
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
