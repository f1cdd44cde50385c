"""GEM, EGEM, SEGEM: arguments, defaults, what they print, and what make_activation makes of a string."""

import pytest
import torch

from gem_activations import GemError, GemSpec
from gem_activations.errors import ActivationNameError, SpecError
from gem_activations.torch import EGEM, GEM, SEGEM, activate, egem, gem, make_activation, segem

CASES = [
    (GEM(), GemSpec(1, 1.0, 0.0), "GEM(n=1)"),
    (GEM(3), GemSpec(3, 1.0, 0.0), "GEM(n=3)"),
    (GEM(n=2, inplace=True), GemSpec(2), "GEM(n=2, inplace=True)"),
    (EGEM(), GemSpec(1, 1e-4), "EGEM(n=1, eps=1e-4)"),
    (EGEM(2, 10), GemSpec(2, 10.0), "EGEM(n=2, eps=10)"),
    (SEGEM(), GemSpec(1, 1e-4, 0.01), "SEGEM(n=1, eps=1e-4, leak=0.01)"),
    (SEGEM(2, 1e-6, 0.0), GemSpec(2, 1e-6), "SEGEM(n=2, eps=1e-6, leak=0)"),
    (SEGEM(n=4, eps=0.5, leak=0.25), GemSpec(4, 0.5, 0.25), "SEGEM(n=4, eps=0.5, leak=0.25)"),
    (GEM(save="output"), GemSpec(), "GEM(n=1, save='output')"),
    (EGEM(backend="plain"), GemSpec(1, 1e-4), "EGEM(n=1, eps=1e-4, backend='plain')"),
]


@pytest.mark.parametrize(("module", "spec", "text"), CASES, ids=[text for *_, text in CASES])
def test_parameters_and_repr(module, spec, text):
    assert module.spec == spec
    assert repr(module) == text
    twin = eval(text, {"GEM": GEM, "EGEM": EGEM, "SEGEM": SEGEM})
    assert (twin.spec, twin.inplace, repr(twin)) == (module.spec, module.inplace, text)
    x = torch.linspace(-2, 3, 101)
    assert torch.equal(module(x.clone()), activate(x, spec, save=module.save, backend=module.backend))


def test_functions_have_the_defaults_of_the_papers_members():
    x = torch.linspace(-2, 3, 101)
    assert torch.equal(gem(x), activate(x, GemSpec(1, 1.0, 0.0)))
    assert torch.equal(egem(x), activate(x, GemSpec(1, 1e-4, 0.0)))
    assert torch.equal(segem(x), activate(x, GemSpec(1, 1e-4, 0.01)))
    assert torch.equal(gem(x, n=3), activate(x, GemSpec(3)))
    assert torch.equal(egem(x, n=2, eps=0.1), activate(x, GemSpec(2, 0.1)))
    assert torch.equal(segem(x, n=2, eps=0.1, leak=0.3), activate(x, GemSpec(2, 0.1, 0.3)))


@pytest.mark.parametrize("function", [gem, egem, segem])
def test_everything_after_the_order_is_keyword_only(function):
    assert torch.equal(function(torch.ones(2), 2), function(torch.ones(2), n=2))
    with pytest.raises(TypeError, match="positional"):
        function(torch.ones(2), 2, 0.1)


def test_the_members_differ_and_reach_their_limits():
    x = torch.linspace(-2, 3, 101, dtype=torch.float64)
    assert not torch.allclose(gem(x), egem(x))
    torch.testing.assert_close(egem(x, eps=1.0), gem(x), rtol=0, atol=0)
    torch.testing.assert_close(segem(x, leak=0.0), egem(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("text", "kind", "text_of_module"),
    [
        ("gem", GEM, "GEM(n=1)"),
        ("gem(n=2)", GEM, "GEM(n=2)"),
        ("egem(eps=1e-4)", EGEM, "EGEM(n=1, eps=1e-4)"),
        ("egem(n=3, eps=1/1000)", EGEM, "EGEM(n=3, eps=1e-3)"),
        ("segem(n=2, eps=1e-4, leak=0.01)", SEGEM, "SEGEM(n=2, eps=1e-4, leak=0.01)"),
        ("gelu", torch.nn.GELU, "GELU(approximate='none')"),
        ("gelu_tanh", torch.nn.GELU, "GELU(approximate='tanh')"),
        ("celu(alpha=0.075)", torch.nn.CELU, "CELU(alpha=0.075)"),
    ],
)
def test_make_activation_from_a_string(text, kind, text_of_module):
    module = make_activation(text)
    assert type(module) is kind
    assert repr(module) == text_of_module
    assert make_activation(text) is not module


@pytest.mark.parametrize(
    "module",
    [GEM(2, save="input"), EGEM(inplace=True), SEGEM(backend="plain"), EGEM(scale=0.1, trainable=True, channels=3)],
    ids=repr,
)
def test_make_activation_reads_a_printed_module(module):
    assert repr(make_activation(repr(module))) == repr(module)


def test_make_activation_passes_options_on():
    assert make_activation("egem", inplace=True).inplace
    assert make_activation("relu", inplace=True).inplace
    assert make_activation("gem", save="output").save == "output"
    with pytest.raises(TypeError):
        make_activation("gelu", inplace=True)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("gelv", ActivationNameError, "gelu"),
        ("egm", ActivationNameError, "egem"),
        ("quite unlike", ActivationNameError, "expected name"),
        ("gem(", ActivationNameError, "expected name"),
        ("gem(n)", ActivationNameError, "cannot read"),
        ("gem(2)", ActivationNameError, "cannot read"),
        ("gem(eps=1)", ActivationNameError, "gem takes n, not 'eps'"),
        ("gelu(alpha=1)", ActivationNameError, "takes no arguments"),
        ("egem(n=2, n=3)", ActivationNameError, "twice"),
        ("egem(eps=nan)", ActivationNameError, "finite number"),
        ("", ActivationNameError, "expected name"),
        ("gem(n=0)", SpecError, "n=0"),
        ("gem(n=1.5)", SpecError, "n=3/2|n=1.5"),
        ("egem(eps=0)", SpecError, "eps=0"),
        ("segem(leak=1)", SpecError, "leak=1"),
    ],
)
def test_make_activation_refuses_what_it_cannot_read(text, error, message):
    with pytest.raises(error, match=message) as caught:
        make_activation(text)
    assert isinstance(caught.value, GemError)
