"""The catalog: one complete table, whose references equal the literature's definitions in mpmath."""

import math

import mpmath as mp
import numpy as np
import pytest

from gem_activations import GemSpec, catalog
from gem_activations.errors import ActivationNameError, GemError, SpecError
from gem_activations.spec import MEMBERS

mp.mp.dps = 40

SELU_ALPHA, SELU_SCALE = mp.mpf("1.6732632423543772848170429916717"), mp.mpf("1.0507009873554804934193349852946")


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def softplus(x):
    return mp.log1p(mp.exp(x))


def gem_definition(n, eps, leak):
    return lambda x: x * (leak + (1 - leak) * x ** (2 * n) / (x ** (2 * n) + eps)) if x > 0 else leak * x


DEFINITIONS = {
    "gem": gem_definition(1, 1, 0),
    "egem": gem_definition(1, mp.mpf("1e-4"), 0),
    "segem": gem_definition(1, mp.mpf("1e-4"), mp.mpf("0.01")),
    "relu": lambda x: max(x, 0),
    "leaky_relu": lambda x: max(x, 0) + mp.mpf("0.01") * min(x, 0),
    "gelu": lambda x: x * mp.ncdf(x),
    "gelu_tanh": lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))),
    "silu": lambda x: x * sigmoid(x),
    "mish": lambda x: x * mp.tanh(softplus(x)),
    "elu": lambda x: x if x > 0 else mp.expm1(x),
    "celu": lambda x: max(x, 0) + min(0, mp.expm1(x)),
    "selu": lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * mp.expm1(x)),
    "prelu": lambda x: max(x, 0) + x / 4 * (x < 0),
    "rrelu": lambda x: x if x > 0 else x * 11 / 48,
    "relu6": lambda x: min(max(x, 0), 6),
    "hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "hardsigmoid": lambda x: min(max(x / 6 + mp.mpf(1) / 2, 0), 1),
    "hardtanh": lambda x: min(max(x, -1), 1),
    "hardshrink": lambda x: x if abs(x) > 0.5 else 0,
    "softshrink": lambda x: x - 0.5 if x > 0.5 else x + 0.5 if x < -0.5 else 0,
    "tanhshrink": lambda x: x - mp.tanh(x),
    "softplus": softplus,
    "softsign": lambda x: x / (1 + abs(x)),
    "sigmoid": sigmoid,
    "logsigmoid": lambda x: mp.log(sigmoid(x)),
    "tanh": mp.tanh,
    "squareplus": lambda x: (x + mp.sqrt(x**2 + 4)) / 2,
    "smelu": lambda x: 0 if x < -1 else x if x > 1 else (x + 1) ** 2 / 4,
    "relu2": lambda x: max(x, 0) ** 2,
    "telu": lambda x: x * mp.tanh(mp.exp(x)),
    "golu": lambda x: x * mp.exp(-mp.exp(-x)),
    "isrlu": lambda x: x if x >= 0 else x / mp.sqrt(1 + x**2),
}

# Lee, arXiv:2305.12073: the twenty activations compared there.
LEE = """elu hardshrink hardsigmoid hardtanh hardswish leaky_relu logsigmoid prelu relu relu6 rrelu selu celu gelu
sigmoid softplus softshrink softsign tanh tanhshrink"""


def test_the_catalog_is_complete():
    assert set(DEFINITIONS) == set(catalog.ENTRIES)
    assert set(catalog.ENTRIES).issuperset(LEE.split())
    assert len(set(LEE.split())) == 20
    assert list(MEMBERS) == [name for name, entry in catalog.ENTRIES.items() if entry.group == "family"]


@pytest.mark.parametrize("entry", catalog.ENTRIES.values(), ids=lambda entry: entry.name)
def test_every_row_is_filled_in(entry):
    assert all([entry.name, entry.title, entry.formula, entry.citation, entry.torch])
    assert entry.group in {"family", "baseline", "lee", "relative"}
    assert all(parameter in entry.formula or entry.name in MEMBERS for parameter in entry.defaults)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_reference_equals_the_definition(name):
    activation = catalog.parse(name)
    x = np.concatenate([np.linspace(-12, 12, 97), [-30.0, -1e-3, 1e-3, 30.0, 0.5, -0.5]])
    for point, value in zip(x, activation(x), strict=True):
        exact = float(DEFINITIONS[name](mp.mpf(float(point))))
        # 1e-16 absolute: x - tanh(x) near 0 and the like cancel in float64 by their nature.
        assert value == pytest.approx(exact, rel=2e-14, abs=1e-16), point


@pytest.mark.parametrize("name", DEFINITIONS)
def test_reference_keeps_nan_and_makes_none(name):
    activation = catalog.parse(name)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isnan(activation(np.array([math.nan]))).all()
        assert not np.isnan(activation(np.array([-1e300, -1e30, -800.0, -0.0, 0.0, 800.0, 1e30]))).any()


INF = math.inf
# The limits at -inf and at inf, with the default parameters.
LIMITS = {
    **dict.fromkeys(["gem", "egem", "relu", "gelu", "gelu_tanh", "silu", "mish", "hardswish"], (0, INF)),
    **dict.fromkeys(["softplus", "squareplus", "smelu", "relu2", "telu", "golu"], (0, INF)),
    **dict.fromkeys(["segem", "leaky_relu", "prelu", "rrelu"], (-INF, INF)),
    **dict.fromkeys(["hardshrink", "softshrink", "tanhshrink"], (-INF, INF)),
    **dict.fromkeys(["elu", "celu", "isrlu"], (-1, INF)),
    **dict.fromkeys(["hardtanh", "softsign", "tanh"], (-1, 1)),
    **dict.fromkeys(["hardsigmoid", "sigmoid"], (0, 1)),
    "selu": (-1.7580993408473766, INF),
    "relu6": (0, 6),
    "logsigmoid": (-INF, 0),
}


def test_every_entry_has_its_limits():
    assert set(LIMITS) == set(catalog.ENTRIES)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        *LIMITS.items(),
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
        ("leakyrelu", ActivationNameError, "leaky_relu"),
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


@pytest.mark.parametrize("name", [name for name, entry in catalog.ENTRIES.items() if entry.defaults])
def test_bad_parameters_are_refused_in_one_line(name):
    for arguments, words in REFUSED[name]:
        with pytest.raises(GemError, match=words) as caught:
            catalog.parse(f"{name}({arguments})")
        assert "\n" not in str(caught.value)


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
    f = DEFINITIONS[name]
    with mp.workdps(20):
        second_moment = mp.quad(lambda x: f(x) ** 2 * mp.npdf(x), [-12, 0, 12])
        slope_moment = mp.quad(lambda x: mp.diff(f, x) ** 2 * mp.npdf(x), [-12, 0, 12])
    assert float(second_moment**-0.5) == pytest.approx(gain, abs=5.1e-4)
    assert float(slope_moment / second_moment) == pytest.approx(chi, abs=5.1e-4)
