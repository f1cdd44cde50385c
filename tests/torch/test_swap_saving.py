"""What the new activation keeps for the backward pass: a model that trains before a swap trains after it."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional

from gem_activations.errors import ModelError
from gem_activations.torch import EGEM, GEM, GoLU, act_layer, swap
from gem_activations.torch.swap.functions import FAMILY_OF
from gem_activations.torch.swap.surgery import keeps_output

CLASSES = [
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid),
    *(nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Softshrink),
    *(nn.Softsign, nn.Tanh, nn.Tanhshrink),
]
WITH_INPLACE = [kind for kind in CLASSES if "inplace" in inspect.signature(kind).parameters]


def trains_where_the_output_is_changed(act):
    x = torch.randn(20, requires_grad=True)
    y = act(x * 1)
    y += 1
    try:
        y.sum().backward()
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        return False
    return True


EVERY = [*((kind, {}) for kind in CLASSES), *((kind, {"inplace": True}) for kind in WITH_INPLACE)]


@pytest.mark.parametrize(("kind", "options"), EVERY, ids=str)
def test_what_an_activation_of_torch_keeps_is_what_torch_does(kind, options):
    act = kind(**options)
    assert keeps_output(act) is not trains_where_the_output_is_changed(act)


@pytest.mark.parametrize(("kind", "options"), EVERY, ids=str)
def test_a_module_whose_output_may_be_changed_is_followed_by_such_a_one(kind, options):
    act = kind(**options)
    model = nn.Sequential(act, nn.Dropout(0.5, inplace=True))
    report = swap(model, {kind: "gem(n=2)"})
    if keeps_output(act):
        assert model[0].save == "auto"
        assert model[0].inplace is bool(options)
        assert "1 keep the output for the backward pass, or may, as ReLU does" in report.notes[0]
    else:
        assert model[0].save == "input"
        assert report.notes == ()
        assert ("not in place" in report.changes[0].new) is bool(options)
        assert trains_where_the_output_is_changed(model)


@pytest.mark.parametrize(
    "spelling", FAMILY_OF, ids=lambda function: f"{function.__name__} {type(function).__name__[:3]}"
)
def test_a_function_whose_output_may_be_changed_is_followed_by_such_a_one(spelling):
    class Calls(nn.Module):
        def forward(self, x):
            return spelling(x, torch.ones(1)) if FAMILY_OF[spelling] == "prelu" else spelling(x)

    model = Calls()
    before = trains_where_the_output_is_changed(model)
    report = swap(model, {spelling: "gem"})
    if before:
        assert trains_where_the_output_is_changed(model)
    assert bool(report.notes) is not before


@pytest.mark.parametrize("name", ["silu", "hardswish", "mish"])
def test_a_function_that_keeps_its_input_in_place_too(name):
    class Calls(nn.Module):
        def forward(self, x):
            return functional.relu(x) if name is None else self.act(x)

        def act(self, x):
            if name == "silu":
                return functional.silu(x, inplace=True)
            return functional.hardswish(x, True) if name == "hardswish" else functional.mish(x, inplace=True)

    model = Calls()
    swap(model, {getattr(functional, name): "gem"})
    assert trains_where_the_output_is_changed(model)
    x = torch.randn(5)
    assert model(x) is x


class MobileNet(nn.Module):
    """The end of torchvision's MobileNetV3."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 8), nn.Hardswish(inplace=True))
        self.classifier = nn.Sequential(nn.Linear(8, 8), nn.Hardswish(inplace=True), nn.Dropout(0.2, inplace=True))

    def forward(self, x):
        return self.classifier(self.features(x))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(4, 4), nn.GELU()

    def forward(self, x):
        h = self.act(self.fc(x))
        h += x
        return h


@pytest.mark.parametrize(
    ("make", "key"), [(MobileNet, nn.Hardswish), (Residual, nn.GELU)], ids=["MobileNetV3", "residual"]
)
def test_models_that_change_the_output_in_place_train_on(make, key):
    model, x = make(), torch.randn(6, 4)
    report = swap(model, {key: "egem(n=2)"})
    assert report.notes == ()
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_keeps_its_output_for_want_of_another_way_is_said():
    report = swap(nn.Sequential(nn.GELU(), nn.Tanh()), {nn.GELU: "relu", nn.Tanh: "gelu"})
    assert report.notes[0].startswith("1 keep the output for the backward pass")
    assert report.notes[0].endswith("in place: 0")


def test_modules_factories_and_classes_are_values():
    def model():
        return nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.GELU())

    given = EGEM(n=2, save="output")
    one = model()
    swap(one, {nn.GELU: given})
    assert [act.save for act in one[1:]] == ["output", "output"]
    assert one[1] is not one[2]
    assert one[1] is not given
    two = model()
    made = []
    swap(two, {nn.GELU: lambda: made.append(GEM(save="auto")) or made[-1]})
    assert list(two[1:]) == made
    assert made[0].save == "auto"
    three = model()
    assert swap(three, {"1": GEM, "2": GoLU}).changes[0].new == "GEM(n=1, save='input')"
    assert type(three[2]) is GoLU
    four = model()
    swap(four, {nn.GELU: act_layer("gem(n=2)")})
    assert repr(four[1]) == "GEM(n=2)"
    five = nn.Sequential(nn.ReLU(inplace=True), nn.ReLU(inplace=True))
    report = swap(five, {"0": nn.PReLU(3), "1": nn.LeakyReLU})
    assert [change.new for change in report.changes] == [
        "PReLU(num_parameters=3), not in place",
        "LeakyReLU(negative_slope=0.01, inplace=True)",
    ]


def test_a_learnt_slope_that_is_given_is_kept_and_not_shared():
    slope = nn.PReLU(init=0.5)
    model = nn.Sequential(nn.Linear(2, 2, dtype=torch.float64), nn.ReLU(), nn.ReLU())
    swap(model, {nn.ReLU: slope})
    assert model[1].weight is not model[2].weight
    assert [act.weight.item() for act in model[1:]] == [0.5, 0.5]
    assert model[1].weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (nn.Linear, "cannot be made without arguments .*; give a factory"),
        (lambda: torch.relu, "was called for a new activation, and gave a builtin_function_or_method"),
        (dict, "was called for a new activation, and gave a dict"),
    ],
    ids=["class", "function", "other class"],
)
def test_a_value_that_makes_no_module_is_one_clear_error(value, words):
    model = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    with pytest.raises(ModelError, match=words) as caught:
        swap(model, {nn.GELU: value})
    assert "\n" not in str(caught.value)
    assert type(model[1]) is nn.GELU


def test_a_key_that_matches_nothing_is_named_beside_one_that_does():
    layer = nn.TransformerEncoderLayer(4, 1, 4, activation="gelu", batch_first=True)
    report = swap(layer, {functional.gelu: "gem", nn.GELU: "gem", "*.act": "gem", lambda *_: False: "gem"})
    assert [change.name for change in report.changes] == ["activation"]
    assert [note.partition(": ")[0] for note in report.notes] == ["a key was of no use"] * 3
    assert "no module is of the class GELU" in report.notes[0]
    assert "note: a key was of no use: no activation has a name that matches the pattern '*.act'" in str(report)
    again = swap(nn.Sequential(nn.GELU()), {nn.GELU: "gem", functional.gelu: "gem"})
    assert again.notes == ("a key was of no use: no module holds or calls gelu; its activations are 1 GELU",)
