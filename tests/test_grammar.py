"""The string grammar: what is read, what is written, what is refused."""

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gem_activations import GemSpec, catalog
from gem_activations.errors import ActivationNameError, GemError
from gem_activations.grammar import format_call, format_number, parse_call, to_exact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gem", ("gem", {})),
        ("gem()", ("gem", {})),
        ("  gem ( n = 2 ) ", ("gem", {"n": 2})),
        ("egem(eps=1e-4)", ("egem", {"eps": Fraction(1, 10000)})),
        ("egem(eps=1/10000)", ("egem", {"eps": Fraction(1, 10000)})),
        ("segem(n=2, eps=1E-4, leak=.01)", ("segem", {"n": 2, "eps": Fraction(1, 10000), "leak": Fraction(1, 100)})),
        ("hardtanh(min_val=-2, max_val=+2.5)", ("hardtanh", {"min_val": -2, "max_val": Fraction(5, 2)})),
        ("gem(n=2.0)", ("gem", {"n": 2})),
    ],
)
def test_reads(text, expected):
    assert parse_call(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "GEM", "gem(", "gem)", "gem(n)", "gem(n=)", "gem(=2)", "gem(2)", "gem(n=2,)", "gem(n=2 eps=1)",
        "gem(n=two)", "gem(n=1/0)", "gem(n=nan)", "gem(n=inf)", "gem(n=1e9999)", "gem(n=0x10)", "gem(n=1_0)",
        "gem(n=1,n=2)", "gem(n=2)(n=3)", "gem(n=(2))", "gem n=2", "__import__('os')", "gem(n=1+1)", None, 3,
    ],
)  # fmt: skip
def test_refuses_in_one_line(text):
    with pytest.raises(ActivationNameError) as caught:
        parse_call(text)
    assert "\n" not in str(caught.value)
    assert str(text) in str(caught.value)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("1e400", "too large"),
        ("-1e999", "too large"),
        ("1e-400", "too small"),
        (f"1/{10**37}", None),
        ("0e999", None),
        ("1" * 41, "too many digits"),
        ("9" * 5000, "too many digits"),
        ("0." + "3" * 30, "too many digits"),  # Its exact ratio, as it would be written back, is twice as long.
        ("7" * 5000 + "x", "not a finite number"),
    ],
)
def test_numbers_beyond_float64_and_long_ones_are_refused_briefly(number, words):
    text = f"gem(n={number})"
    if words is None:
        _, arguments = parse_call(text)
        assert parse_call(format_call("gem", arguments))[1] == arguments
        return
    with pytest.raises(ActivationNameError, match=words) as caught:
        parse_call(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"), (1.0, "1"), (0, "0"), (-2, "-2"), (0.01, "0.01"), (1e-4, "1e-4"), (1e-12, "1e-12"), (1e6, "1e6"),
        (0.25, "0.25"), (2.5e-7, "2.5e-7"), (Fraction(1, 3), "1/3"),
        (-0.5, "-0.5"), (123456, "123456"), (1e300, "1e300"),
    ],
)  # fmt: skip
def test_writes_the_shortest_spelling(value, text):
    assert format_number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.fractions())
def test_numbers_round_trip_exactly(value):
    if abs(value) != 0 and not 1e-300 < abs(value) < 1e300:
        value = 0
    assume(len(format_number(value)) <= 40)
    name, arguments = parse_call(format_call("gem", {"n": value}))
    assert name == "gem"
    assert arguments == {"n": to_exact(value)}
    if isinstance(value, float):
        assert float(arguments["n"]) == value


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("egem(scale=0.1)", "egem(eps=0.01)"),
        ("segem(n=2, scale=0.01)", "segem(n=2, eps=1e-8, leak=0.01)"),
        ("segem(scale=1/2, leak=0.2, n=3)", "segem(n=3, eps=0.015625, leak=0.2)"),
        ("egem(scale=1)", "egem(eps=1)"),
    ],
)
def test_scale_is_another_spelling_of_eps(text, canonical):
    assert str(catalog.parse(text)) == canonical
    assert catalog.parse(text) == catalog.parse(canonical)
    assert GemSpec.parse(text) == GemSpec.parse(canonical)


@pytest.mark.parametrize("n", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("scale", ["0.0123", "1/3", "7.25", "1e-2"])
def test_a_scale_without_a_short_eps_round_trips(n, scale):
    activation = catalog.parse(f"egem(n={n}, scale={scale})")
    assert catalog.parse(str(activation)) == activation
    assert activation.spec.scale == pytest.approx(float(Fraction(scale)), rel=1e-15)
    assert activation.spec == GemSpec.parse(str(activation))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("egem(eps=1, scale=1)", "give eps or scale, not both"),
        ("egem(scale=0)", "scale must be above 0"),
        ("egem(scale=-0.1)", "scale must be above 0"),
        ("egem(n=64, scale=1e-30)", "leaves the range of float64"),
        ("gem(scale=0.1)", "gem takes n"),
        ("egem(n=0, scale=0.1)", "n=0"),
        ("egem(n=1.5, scale=0.1)", r"n=(3/2|1\.5)"),
    ],
)
def test_a_scale_that_cannot_be_is_one_clear_error(text, message):
    for read in (catalog.parse, GemSpec.parse):
        with pytest.raises(GemError, match=message):
            read(text)
