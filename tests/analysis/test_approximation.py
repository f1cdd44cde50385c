"""Bounds on intervals and lines around f, as verifiers take them, against balls of the formula on dense points."""

import numpy as np
import pytest
from flint import arb

from gem_activations.analysis import CertificateError, relax
from gem_activations.analysis.balls import tape
from gem_activations.analysis.source import read
from gem_activations.catalog import parse

NAMES = ["relu", "gem", "gem(n=2)", "gem(n=8)", "segem(eps=1e-4, leak=0.01)", "gelu", "silu", "tanh", "hardswish",
         "hardshrink", "softplus", "elu", "relu2", "x*exp(-x^2)"]  # fmt: skip


def value(formula, x):
    piece = next(p for p in formula.pieces if not p.high.is_finite or x <= float(p.high))
    return tape(piece.expression)(arb(x))


def assert_sound(bounds, formula, lows, highs):
    for k, (low, high) in enumerate(zip(lows, highs, strict=True)):
        a, b = max(low, -1e300), min(high, 1e300)
        for share in np.linspace(0, 1, 41):
            x = float(min(max(a + (b / 2 - a / 2) * 2 * share, low), high))
            f = value(formula, x)
            assert not f < arb(bounds.minimum[k])
            assert not f > arb(bounds.maximum[k])
            for slope, offset, side in (
                (bounds.lower_slope[k], bounds.lower_offset[k], 1),
                (bounds.upper_slope[k], bounds.upper_offset[k], -1),
            ):
                if np.isfinite(offset):
                    assert not side * (f - arb(float(slope)) * arb(x) - arb(float(offset))) < 0, (low, high, x)


@pytest.mark.parametrize("name", NAMES)
def test_bounds_hold_on_random_intervals(name):
    rng = np.random.default_rng(7)
    lows = np.concatenate([rng.uniform(-6, 5, 12), [0.0, -1.0, 2.0, -1e-300, -1e300, -np.inf, 0.0, -np.inf, -1e9]])
    widths = np.concatenate([rng.exponential(3, 12), [0.0, 0.0, 1e-15]])
    highs = np.concatenate([lows[:15] + widths, [1e-300, 1e300, 0.0, np.inf, np.inf, 1e9]])
    bounds = relax(name, lows, highs)
    assert_sound(bounds, read(name), lows, highs)
    assert (bounds.minimum <= bounds.maximum).all()


@pytest.mark.parametrize("name", ["relu", "gem", "gem(n=8)", "gelu", "silu", "tanh", "hardswish", "hardshrink"])
def test_the_area_between_the_lines_is_near_the_least(name):
    rng = np.random.default_rng(3)
    lows = rng.uniform(-6, 5, 25)
    highs = lows + rng.exponential(3, 25)
    bounds, ratios = relax(name, lows, highs), []
    for k, (low, high) in enumerate(zip(lows, highs, strict=True)):
        # The best lines have the heights of the convex and the concave hull at the middle.
        middle, x = (low + high) / 2, np.linspace(low, high, 401)
        y = parse(name)(x)
        left, right = x <= middle, x >= middle
        with np.errstate(all="ignore"):
            slope = (y[right][None] - y[left][:, None]) / (x[right][None] - x[left][:, None])
            level = y[left][:, None] + slope * (middle - x[left][:, None])
        level = level[np.isfinite(level)]
        ours = bounds.upper_offset[k] - bounds.lower_offset[k]
        ours += (bounds.upper_slope[k] - bounds.lower_slope[k]) * middle
        if np.ptp(level) > 1e-9:
            ratios.append(ours / np.ptp(level))
    assert not ratios or np.mean(ratios) <= 1.05


def test_arrays_are_broadcast():
    bounds = relax("gem", np.zeros((2, 1)), [1.0, 2.0, 3.0])
    assert bounds.minimum.shape == bounds.upper_offset.shape == (2, 3)
    assert relax("gem", [], []).minimum.shape == (0,)


@pytest.mark.parametrize(("low", "high"), [(1, 0), (float("nan"), 1), (0, float("nan")), ([0, 2], [1, 1])])
def test_an_empty_interval_is_refused(low, high):
    with pytest.raises(CertificateError, match="expected low <= high"):
        relax("relu", low, high)


@pytest.mark.parametrize("end", [float("inf"), float("-inf")])
def test_an_infinite_point_is_refused(end):
    with pytest.raises(CertificateError, match="infinite point"):
        relax("relu", end, end)
