"""Gains against the proved ones and mpmath, and the statistics of weights drawn by them."""

import math
import re
from fractions import Fraction
from pathlib import Path

import mpmath as mp
import pytest
import torch
from torch import nn

from gem_activations import GemSpec, catalog
from gem_activations.errors import ActivationNameError, ModelError, SettingError, SpecError
from gem_activations.torch import calculate_gain, init_, make_activation
from gem_activations.torch.init import GAIN_ERROR

from ..definitions import DEFINITIONS, celu, clip, family, isrlu, shrink, smelu, softplus, squareplus

PAGES = Path(__file__).parents[2] / "docs" / "properties"


def proved_gains():
    """Return (activation, lowest gain, highest gain) of each committed certificate, None if its row is open."""
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text()
        name = re.search(r"^# .*: `(.*)`", text)
        row = re.search(r"^\| Gain, [^|]*\|(.*?)\|", text, re.MULTILINE)
        if name is None or row is None:
            continue
        interval = re.search(r"\[(\S+), (\S+)\]", row[1])
        if "not closed" in row[1]:
            yield name[1], None, None
        elif interval:
            yield name[1], float(interval[1]), float(interval[2])
        else:  # A closed form is followed by ten digits.
            gain = float(row[1].rpartition("=")[2])
            yield name[1], gain * (1 - 1e-9), gain * (1 + 1e-9)


PROVED = {name: bounds for name, *bounds in proved_gains()}


@pytest.mark.parametrize("activation", [name for name, bounds in PROVED.items() if bounds[0] is not None])
def test_gains_lie_in_their_proved_intervals(activation):
    low, high = PROVED[activation]
    assert low * (1 - 1e-13) <= calculate_gain(activation) <= high * (1 + 1e-13)


@pytest.mark.parametrize("activation", [name for name in DEFINITIONS if PROVED.get(name, [None])[0] is None])
def test_gains_that_are_not_proved_are_within_the_stated_error_of_mpmath(activation):
    f, joints, _ = DEFINITIONS[activation]
    with mp.workdps(30):
        square = mp.quad(lambda x: f(x) ** 2 * mp.npdf(x), sorted({-38, -9, -2, *joints, 0, 2, 9, 38}))
    assert calculate_gain(activation) == pytest.approx(float(1 / mp.sqrt(square)), rel=GAIN_ERROR)


# Hard cases, and the points where mpmath splits the integral: steep, narrow, kinked, far out.
CASES = {
    "egem(eps=10)": (family(1, 10), [0, 1, 3]),
    "egem(n=8, eps=1e-30)": (family(8, Fraction(1, 10**30)), [0, 0.005, 0.013, 0.03, 0.2]),
    "gem(n=64)": (family(64), [0, 0.9, 0.95, 1, 1.05, 1.1]),
    "segem(n=3, eps=0.001, leak=0.3)": (family(3, Fraction(1, 1000), Fraction(3, 10)), [0, 0.2, 0.3, 0.5]),
    "softplus(beta=50)": (softplus(50), [-0.2, 0, 0.2]),
    "squareplus(b=1e-8)": (squareplus(mp.mpf("1e-8")), [-0.01, -1e-4, 0, 1e-4, 0.01]),
    "hardtanh(min_val=-0.3, max_val=0.7)": (lambda x: clip(x, -0.3, 0.7), [-0.3, 0.7]),
    "hardshrink(lambd=6)": (shrink(6), [-6, 6]),
    # Just beyond the end of a panel, before its first node.
    "hardtanh(min_val=-0.501, max_val=0.501)": (lambda x: clip(x, -0.501, 0.501), [-0.501, 0.501]),
    "hardshrink(lambd=1.001)": (shrink(1.001), [-1.001, 1.001]),
    "hardshrink(lambd=2.0005)": (shrink(2.0005), [-2.0005, 2.0005]),
    "softshrink(lambd=1.001)": (shrink(1.001, soft=True), [-1.001, 1.001]),
    "celu(alpha=0.01)": (celu(0.01), [-0.1, -0.01, 0]),
    "smelu(beta=0.001)": (smelu(0.001), [-0.001, 0.001]),
    "isrlu(alpha=1e6)": (isrlu(10**6), [-0.1, -0.001, 0]),
}


@pytest.mark.parametrize("text", list(CASES))
def test_gains_of_other_parameters_equal_mpmath(text):
    f, near = CASES[text]
    with mp.workdps(25):
        edges = sorted({-38, -9, -2, *near, 2, 9, 38})
        square = mp.quad(lambda x: f(mp.mpf(x)) ** 2 * mp.npdf(x), edges)
        assert calculate_gain(text) == pytest.approx(float(1 / mp.sqrt(square)), rel=GAIN_ERROR)


def test_a_gain_is_the_same_however_the_activation_is_written():
    assert calculate_gain("egem(n=2, eps=1e-4)") == calculate_gain(GemSpec(2, 1e-4))
    assert calculate_gain(catalog.parse("gem")) == calculate_gain("egem(eps=1)")


def test_a_gain_is_invariant_under_the_scaling_law():
    # f_eps(z) = a f_1(z / a): a wide transition sees z from near, where f is z^3.
    assert calculate_gain("egem(eps=1e20)") == pytest.approx(1e20 / math.sqrt(15 / 2), rel=1e-9)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("gme", ActivationNameError, "did you mean"),
        ("hardshrink(lambd=60)", SpecError, "no gain"),
        ("prelu(init=1e300)", SpecError, "mean square of f is inf"),
    ],
)
def test_no_gain_is_one_clear_error(text, error, words):
    with pytest.raises(error, match=words):
        calculate_gain(text)


@pytest.mark.parametrize("name", list(catalog.ENTRIES))
def test_pre_activations_keep_their_mean_square(name):
    activation = make_activation(name).eval()
    layers = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(2)))
    init_(layers, name)
    with torch.no_grad():
        first = layers[0](torch.randn(256, 1024))
        second = layers[1](activation(first / first.square().mean().sqrt()))
    # The spread over draws of a mean over 1024 correlated units; a wrong gain is off by much more.
    assert second.square().mean().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (nn.Linear(300, 200), 300, 200),
        (nn.Conv1d(32, 64, 5), 160, 320),
        (nn.Conv2d(32, 64, 3, groups=4), 72, 144),
        (nn.Conv3d(8, 16, 3), 216, 432),
        (nn.Conv2d(64, 64, 7, groups=64), 49, 49),
        (nn.ConvTranspose2d(32, 64, 3), 288, 576),
        (nn.ConvTranspose1d(32, 64, 4, groups=2), 64, 128),
    ],
    ids=lambda value: str(value).split("(")[0],
)
@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_the_deviation_is_the_gain_over_the_root_of_the_fan(layer, fan_in, fan_out, law):
    for mode, fan in (("fan_in", fan_in), ("fan_out", fan_out)):
        nn.init.ones_(layer.bias)
        report = init_(layer, "gem(n=2)", mode=mode, law=law)
        assert report.drawn == ("",)
        wanted = calculate_gain("gem(n=2)") / math.sqrt(fan)
        assert layer.weight.std().item() == pytest.approx(wanted, rel=4 / math.sqrt(layer.weight.numel()))
        assert torch.count_nonzero(layer.bias) == 0
        if law == "uniform":
            assert layer.weight.abs().max().item() <= wanted * math.sqrt(3) * (1 + 1e-6)


def test_the_fan_in_is_what_one_output_sums():
    # One number everywhere: away from the edge, an output is that number times the number of terms.
    for layer, fan in ((nn.Conv2d(6, 4, 3, groups=2), 27), (nn.ConvTranspose1d(6, 4, 3, groups=2), 9)):
        size = (1, 6, 9, 9) if isinstance(layer, nn.Conv2d) else (1, 6, 9)
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
        assert layer(torch.ones(size)).max().item() == fan


STRIDED = {
    "transposed": (nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1), "fan_in"),
    "kernel of the stride": (nn.ConvTranspose1d(64, 64, 2, stride=2), "fan_in"),
    "uneven": (nn.ConvTranspose2d(32, 32, 3, stride=(1, 2), groups=2), "fan_in"),
    "convolution": (nn.Conv2d(64, 64, 4, stride=2, padding=1), "fan_out"),
    "pooling": (nn.Conv2d(64, 64, 2, stride=2), "fan_out"),
}


@pytest.mark.parametrize("name", list(STRIDED))
def test_a_stride_counts_in_the_fan(name):
    layer, mode = STRIDED[name]
    torch.manual_seed(0)
    init_(layer, "relu", mode=mode)
    size = (8, layer.in_channels) + (24,) * len(layer.kernel_size)
    x = torch.randn(size, requires_grad=True)
    y = layer(torch.relu(x) if mode == "fan_in" else x)
    # The gain of ReLU is sqrt(2), which its own factor of 1/2 on each gradient takes back.
    got, wanted = (y, 1) if mode == "fan_in" else (torch.autograd.grad(y, x, torch.randn_like(y))[0], 2)
    inside = (slice(None), slice(None)) + (slice(4, -4),) * len(layer.kernel_size)
    assert got[inside].square().mean().item() == pytest.approx(wanted, rel=0.1)


def test_the_linear_layer_of_gpt2_is_drawn_by_its_own_order_of_dimensions():
    layers = pytest.importorskip("transformers.pytorch_utils")
    model = nn.Sequential(layers.Conv1D(256, 64), nn.ReLU(), layers.Conv1D(64, 256))
    nn.init.ones_(model[0].bias)
    assert init_(model, "relu").drawn == ("0", "2")
    assert [layer.weight.std().item() for layer in (model[0], model[2])] == pytest.approx(
        [math.sqrt(2 / 64), math.sqrt(2 / 256)], rel=0.05
    )
    assert torch.count_nonzero(model[0].bias) == 0
    init_(model[0], "relu", mode="fan_out")
    assert model[0].weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.05)


def test_a_bias_that_is_computed_stays():
    class Same(nn.Module):
        def forward(self, x):
            return x * 1

    layer = nn.Linear(4, 4)
    nn.utils.parametrize.register_parametrization(layer, "bias", Same())
    bias = layer.bias.detach().clone()
    assert init_(layer, "gem").drawn == ("",)
    assert torch.equal(layer.bias, bias)


def test_a_model_is_drawn_and_what_was_skipped_is_said():
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(10, 16),
            "tied": nn.Linear(16, 10, bias=False),
            "one": nn.Linear(16, 16),
            "same": nn.Linear(16, 16),
            "frozen": nn.Linear(16, 16).requires_grad_(False),
            "norm": nn.LayerNorm(16),
            "lazy": nn.LazyLinear(4),
            "scaled": nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)),
            "act": make_activation("prelu"),
        }
    )
    model["tied"].weight = model["embed"].weight
    model["same"].weight = model["one"].weight
    before = {name: value.clone() for name, value in model.state_dict().items() if "lazy" not in name}
    report = init_(model, "gelu")
    assert report.drawn == ("one", "same")
    assert dict(report.skipped) == {
        "embed": "Embedding is not a linear or convolutional layer",
        "tied": "its weight is shared with a layer of the class Embedding",
        "frozen": "its weight is frozen",
        "norm": "LayerNorm is not a linear or convolutional layer",
        "lazy": "its weight has no shape before the first batch",
        "scaled": "its weight is computed from other tensors",
        "scaled.parametrizations.weight": "ParametrizationList is not a linear or convolutional layer",
        "act": "PReLU is not a linear or convolutional layer",
    }
    changed = {name for name, value in before.items() if not torch.equal(value, model.state_dict()[name])}
    assert changed == {"one.weight", "one.bias", "same.weight", "same.bias"}
    text = str(report)
    assert text.startswith("2 weights drawn with the gain 1.53353 of gelu\n")
    assert "skipped 1: frozen: its weight is frozen" in text


def test_a_generator_fixes_the_draw():
    draws = []
    for _ in range(2):
        layer = nn.Linear(8, 8)
        init_(layer, "relu", generator=torch.Generator().manual_seed(3))
        draws.append(layer.weight.detach().clone())
    assert torch.equal(*draws)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op:UserWarning")
def test_an_empty_weight_and_a_frozen_bias_stay():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(0, 4), nn.Conv2d(4, 4, (0, 1)))
    model[0].bias.requires_grad_(False)
    bias = model[0].bias.clone()
    report = init_(model, "gem")
    assert report.drawn == ("0",)
    assert report.skipped == (("1", "its weight has no elements"), ("2", "its weight has no elements"))
    assert torch.equal(model[0].bias, bias)


@pytest.mark.parametrize(
    ("make", "activation", "options", "error", "words"),
    [
        (lambda: nn.LayerNorm(4), "gem", {}, ModelError, "can be drawn; the module: LayerNorm is not"),
        (lambda: nn.ReLU(), "gem", {}, ModelError, "there is none"),
        (lambda: nn.Linear(2, 2), "gme", {}, ActivationNameError, "did you mean"),
        (lambda: nn.Linear(2, 2), "gem", {"mode": "fan_avg"}, SettingError, "'fan_in' or 'fan_out'"),
        (lambda: nn.Linear(2, 2), "gem", {"law": "gauss"}, SettingError, "'normal' or 'uniform'"),
        (lambda: nn.Linear(2, 2), "gem", {"generator": 3}, SettingError, "generator: expected a torch.Generator"),
    ],
)
def test_bad_input_is_one_clear_error_and_draws_nothing(make, activation, options, error, words):
    module = make()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(error, match=words) as caught:
        init_(module, activation, **options)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("module", [None, torch.ones(2, 2), nn.Linear], ids=["None", "Tensor", "class"])
def test_what_is_no_module_is_one_clear_error(module):
    with pytest.raises(ModelError, match=r"expected a torch.nn.Module, got (NoneType|Tensor|type)"):
        init_(module, "gem")
