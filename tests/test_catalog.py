"""The catalog: one complete table, whose references equal the literature's definitions in mpmath."""

import math

import mpmath as mp
import numpy as np
import pytest

from gem_activations import GemSpec, catalog
from gem_activations.errors import ActivationNameError, GemError, SpecError
from gem_activations.spec import MEMBERS

from .definitions import DEFINITIONS, INF

# Lee, arXiv:2305.12073: the twenty activations compared there.
LEE = """elu hardshrink hardsigmoid hardtanh hardswish leaky_relu logsigmoid prelu relu relu6 rrelu selu celu gelu
sigmoid softplus softshrink softsign tanh tanhshrink"""


def test_the_catalog_is_complete():
    assert {catalog.parse(text).name for text in DEFINITIONS} == set(catalog.ENTRIES)
    assert [str(catalog.parse(text)) for text in DEFINITIONS] == list(DEFINITIONS)
    assert set(catalog.ENTRIES).issuperset(LEE.split())
    assert len(set(LEE.split())) == 20
    assert list(MEMBERS) == [name for name, entry in catalog.ENTRIES.items() if entry.group == "family"]


@pytest.mark.parametrize("entry", catalog.ENTRIES.values(), ids=lambda entry: entry.name)
def test_every_row_is_filled_in(entry):
    assert all([entry.name, entry.title, entry.formula, entry.citation, entry.torch])
    assert entry.group in {"family", "baseline", "lee", "other"}
    assert all(parameter in entry.formula or entry.name in MEMBERS for parameter in entry.defaults)


@pytest.mark.parametrize("text", DEFINITIONS)
def test_reference_equals_the_definition(text):
    activation = catalog.parse(text)
    x = np.concatenate([np.linspace(-12, 12, 97), [-30.0, -1e-3, 1e-3, 30.0, 0.5, -0.5]])
    for point, value in zip(x, activation(x), strict=True):
        exact = float(DEFINITIONS[text].f(mp.mpf(float(point))))
        # 1e-16 absolute: x - tanh(x) near 0 and the like cancel in float64 by their nature.
        assert value == pytest.approx(exact, rel=2e-14, abs=1e-16), point


@pytest.mark.parametrize("text", DEFINITIONS)
def test_reference_keeps_nan_and_makes_none(text):
    activation = catalog.parse(text)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isnan(activation(np.array([math.nan]))).all()
        assert not np.isnan(activation(np.array([-1e300, -1e30, -800.0, -0.0, 0.0, 800.0, 1e30]))).any()


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        *((text, definition.limits) for text, definition in DEFINITIONS.items()),
        ("isrlu(alpha=4)", (-0.5, INF)),
        ("celu(alpha=0.25)", (-0.25, INF)),
        ("elu(alpha=2)", (-2, INF)),
        ("hardtanh(min_val=-2, max_val=3)", (-2, 3)),
        ("softplus(beta=2)", (0, INF)),
        ("squareplus(b=9)", (0, INF)),
        ("prelu(init=-0.5)", (INF, INF)),
    ],
)
def test_limits_at_infinity(text, limits):
    with np.errstate(all="ignore"):
        got = catalog.parse(text)(np.array([-INF, INF]))
    np.testing.assert_allclose(got, limits, rtol=1e-15)


def test_isrlu_nears_its_limit_where_the_square_overflows():
    np.testing.assert_allclose(catalog.parse("isrlu(alpha=4)")([-1e20, -1e200, -1e308]), -0.5, rtol=1e-15)


@pytest.mark.parametrize(
    "text", ["gem", "gem(n=2)", "egem(eps=1e-4)", "segem(n=2, eps=1e-4, leak=0.01)", "gelu", "celu(alpha=0.075)"]
)
def test_canonical_strings_are_printed_as_they_were_read(text):
    assert str(catalog.parse(text)) == text


@pytest.mark.parametrize("entry", catalog.ENTRIES.values(), ids=lambda entry: entry.name)
def test_parse_and_print_round_trip(entry):
    activation = catalog.parse(entry.name)
    assert catalog.parse(str(activation)) == activation
    values = {key: "5/4" if key == "max_val" else "3/4" for key in entry.defaults if key != "n"}
    changed = f"{entry.name}({', '.join(f'{key}={value}' for key, value in values.items())})"
    assert catalog.parse(str(catalog.parse(changed))) == catalog.parse(changed)


def test_equal_spellings_are_one_activation():
    assert catalog.parse("egem") == catalog.parse("egem(n=1, eps=0.0001)") == catalog.parse("egem(eps=1/10000)")
    assert len({catalog.parse("gelu"), catalog.parse(" gelu() ")}) == 1


def test_defaults_of_the_family():
    assert catalog.parse("gem").spec == GemSpec(1, 1.0, 0.0)
    assert catalog.parse("egem").spec == GemSpec(1, 1e-4, 0.0)
    assert catalog.parse("segem").spec == GemSpec(1, 1e-4, 0.01)
    assert catalog.parse("relu").spec is None


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("gellu", ActivationNameError, "gelu"),
        ("leakyrelo", ActivationNameError, "leaky_relu"),
        ("qqqqq", ActivationNameError, "gem-act list"),
        ("relu(n=1)", ActivationNameError, "no arguments"),
        ("gem(eps=1)", ActivationNameError, "takes n"),
        ("gem(n=0)", SpecError, "n=0"),
        ("gem(n=1.5)", SpecError, "1.5"),
        ("egem(eps=0)", SpecError, "eps=0"),
        ("egem(eps=-1)", SpecError, "eps=-1"),
        ("segem(leak=1)", SpecError, "leak=1"),
        ("segem(leak=-0.1)", SpecError, "leak=-0.1"),
    ],
)
def test_bad_strings_are_refused_with_a_hint(text, error, hint):
    with pytest.raises(error, match=hint):
        catalog.parse(text)


# Arguments that each entry with parameters refuses, and what the message says of them.
REFUSED = {
    "gem": [("n=65", "n=65"), ("n=-1", "n=-1")],
    "egem": [("eps=-1e-4", "above 0")],
    "segem": [("leak=2", "from 0 up to, not including, 1")],
    "leaky_relu": [("negative_slope=1e400", "too large")],
    "prelu": [("init=1e400", "too large"), ("init=-1e400", "too large")],
    "rrelu": [("lower=1, upper=0", "lower must be at most upper"), ("lower=1/2", "lower must be at most upper")],
    "elu": [("alpha=0", "above 0"), ("alpha=-1", "above 0")],
    "celu": [("alpha=0", r"celu\(alpha=0\): alpha must be a finite number above 0"), ("alpha=-0.5", "above 0")],
    "hardtanh": [
        ("min_val=2, max_val=1", r"hardtanh\(min_val=2, max_val=1\): min_val must be below max_val"),
        ("min_val=1", "min_val must be below max_val"),
    ],
    "hardshrink": [("lambd=-1/2", "from 0 up")],
    "softshrink": [("lambd=-1", "from 0 up")],
    "softplus": [("beta=0", "above 0"), ("beta=1e-400", "too small")],
    "squareplus": [("b=0", "above 0"), ("b=-1", "above 0")],
    "smelu": [("beta=0", "above 0"), ("beta=-1", "above 0")],
    "isrlu": [("alpha=0", "above 0"), ("alpha=-1", "above 0")],
}
# Values at the edge of what each takes; hard cases of the same parameters as above.
TAKEN = [
    "hardshrink(lambd=0)", "softshrink(lambd=0)", "rrelu(lower=0.5, upper=0.5)", "prelu(init=-1e300)",
    "leaky_relu(negative_slope=0)", "celu(alpha=1e-300)", "softplus(beta=1e30)", "squareplus(b=1e-300)",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_parameters_are_refused_in_one_line(name):
    for arguments, words in REFUSED[name]:
        with pytest.raises(GemError, match=words) as caught:
            catalog.parse(f"{name}({arguments})")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", catalog.ENTRIES.values(), ids=lambda entry: entry.name)
def test_no_parameter_may_be_infinite_or_text(entry):
    for key in entry.defaults:
        for value in ("1e400", "inf", "x"):
            with pytest.raises(GemError):
                catalog.parse(f"{entry.name}({key}={value})")


# The inputs at which each is flat, by hand; what is not here is flat nowhere.
FLAT = {
    **dict.fromkeys(["gem", "egem", "relu", "relu2", "starrelu", "leaky_relu(negative_slope=0)"], ("below", 0)),
    "smelu(beta=2)": ("below", -2), "hardswish": ("below", -3), "relu6": ("outside", 0, 6),
    "hardsigmoid": ("outside", -3, 3), "hardtanh(min_val=-2, max_val=0.5)": ("outside", -2, 0.5),
    "hardshrink(lambd=0.2)": ("inside", -0.2, 0.2), "softshrink": ("inside", -0.5, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("text", FLAT)
def test_a_constant_piece_is_flat(text):
    flat = catalog.parse(text).flat
    assert (flat.kind, *(bound for bound in flat[1:] if math.isfinite(bound))) == FLAT[text]


@pytest.mark.parametrize("text", DEFINITIONS)
def test_a_flat_tail_begins_at_the_slope_of_a_millionth(text):
    activation, (f, joints, _) = catalog.parse(text), DEFINITIONS[text]
    flat = activation.flat
    for bound in (flat.low, flat.high):
        if math.isfinite(bound) and bound not in joints:
            assert float(abs(mp.diff(f, mp.mpf(bound)))) == pytest.approx(catalog.FLAT_SLOPE, rel=1e-3)


@pytest.mark.parametrize("text", [*DEFINITIONS, "leaky_relu(negative_slope=0.2)", "segem(n=3, eps=10, leak=0.3)"])
def test_a_gate_opens_where_it_has_risen_by_a_share_of_its_range(text):
    activation = catalog.parse(text)
    if activation.gate_bounds is None:
        assert activation.entry.gate is None
        return
    if activation.entry.gate == "step":
        assert activation.gate_bounds == (0, 0)
        return
    gate = activation.spec.gate if activation.spec else lambda x: activation(x) / np.float64(x)
    floor, ceiling = activation.spec.leak if activation.spec else 0.0, gate(1e3)
    for bound, share in zip(activation.gate_bounds, (0.01, 0.99), strict=True):
        assert (gate(bound) - floor) / (ceiling - floor) == pytest.approx(share, rel=1e-4)
    x = np.linspace(-20, 20, 4001) + 1e-6
    assert (np.diff([gate(point) for point in x]) > -1e-12).all()


@pytest.mark.parametrize("text", TAKEN)
def test_parameters_at_the_edge_are_taken(text):
    activation = catalog.parse(text)
    assert str(activation) == text
    with np.errstate(all="ignore"):
        assert not np.isnan(activation([-1.0, 0.0, 1.0])).any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "1", None])
def test_check_refuses_what_is_no_number_above_zero(value):
    with pytest.raises(SpecError, match="b must be a finite number above 0"):
        catalog.check("squareplus", {"b": value})


def test_large_whole_parameters_become_floats():
    assert isinstance(catalog.parse("elu(alpha=1e30)").parameters["alpha"], float)
    assert isinstance(catalog.parse("gem(n=2)").parameters["n"], int)


def test_a_long_string_is_not_echoed_whole():
    for text in ["g" * 5000, f"relu({'k' * 5000}=1)"]:
        with pytest.raises(ActivationNameError) as caught:
            catalog.parse(text)
        assert len(str(caught.value)) < 300


# (gain, chi) as quoted for z ~ N(0, 1). The design notes cut SiLU's gain to 1.676; it is 1.67653.
PROPAGATION = {"relu": (1.4142, 1.000), "gelu": (1.534, 1.072), "silu": (1.677, 1.067), "mish": (1.487, 1.059)}


@pytest.mark.parametrize("name", PROPAGATION)
def test_gain_and_chi_of_the_rivals(name):
    gain, chi = PROPAGATION[name]
    f = DEFINITIONS[name].f
    with mp.workdps(20):
        second_moment = mp.quad(lambda x: f(x) ** 2 * mp.npdf(x), [-12, 0, 12])
        slope_moment = mp.quad(lambda x: mp.diff(f, x) ** 2 * mp.npdf(x), [-12, 0, 12])
    assert float(second_moment**-0.5) == pytest.approx(gain, abs=5.1e-4)
    assert float(slope_moment / second_moment) == pytest.approx(chi, abs=5.1e-4)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("GELU", "gelu"),
        ("Swish", "silu"),
        ("lrelu(negative_slope=0.1)", "leaky_relu(negative_slope=0.1)"),
        ("LeakyReLU", "leaky_relu"),
        ("hard_swish", "hardswish"),
        ("log_sigmoid", "logsigmoid"),
        ("gelu-tanh", "gelu_tanh"),
        ("SE-GEM(eps=1e-3)", "segem(eps=1e-3, leak=0.01)"),
        ("GEM(n=2)", "gem(n=2)"),
        ("SEGEM(n=1, eps=1e-4, leak=0.01)", "segem(eps=1e-4, leak=0.01)"),
    ],
)
def test_names_are_read_in_any_case_and_by_their_aliases(text, canonical):
    assert str(catalog.parse(text)) == canonical


@pytest.mark.parametrize(
    ("printed", "canonical", "options"),
    [
        ("GEM(n=2, save='input')", "gem(n=2)", {"save": "input"}),
        ("EGEM(inplace=True, n=2, backend='plain')", "egem(n=2, eps=1e-4)", {"inplace": True, "backend": "plain"}),
        ("EGEM(n=1, eps=0.01, trainable=True, channels=8)", "egem(eps=0.01)", {"trainable": True, "channels": 8}),
        ("GELU(approximate='tanh')", "gelu_tanh", {}),
        ("GELU(approximate='none')", "gelu", {}),
        ("ReLU(inplace=True)", "relu", {"inplace": True}),
        (repr(GemSpec(2, 0.1)), "egem(n=2, eps=0.1)", {}),
        (repr(GemSpec()), "gem", {}),
        (repr(GemSpec(1, 1 / 3, 0.01)), "segem(eps=0.3333333333333333, leak=0.01)", {}),
    ],
)
def test_what_is_printed_is_read_back(printed, canonical, options):
    activation, read = catalog.parse_printed(printed)
    assert (str(activation), read) == (canonical, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("relu(save='input')", "relu has no option save"),
        ("gelu(approximate='tahn')", "gelu has no option approximate"),
        ("gem(inplace=True, inplace=False)", "given twice"),
        ("EGEM(n=1, eps=0.01, trainable=True)", "leave out trainable"),
        ("GemSpec(width=1)", "no activation is called"),
    ],
)
def test_an_option_that_cannot_be_is_refused(text, message):
    with pytest.raises(ActivationNameError, match=message):
        catalog.parse(text)


def test_an_alias_hides_no_name_and_stands_for_one():
    squashed = {name.replace("_", "") for name in catalog.ENTRIES}
    assert len(squashed) == len(catalog.ENTRIES)
    assert not squashed & {alias.replace("_", "") for alias in catalog.ALIASES}
    assert set(catalog.ALIASES.values()) <= catalog.ENTRIES.keys()
