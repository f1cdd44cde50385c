"""Certificates under attack: dense samples at 50 digits, taken from definitions that the proofs never saw."""

from itertools import pairwise

import mpmath as mp
import numpy as np
import pytest

from gem_activations.catalog import ENTRIES, parse

from ..definitions import DEFINITIONS
from .conftest import proved

POINTS = 120
SLACK = mp.mpf(10) ** -30  # Of the numerical derivatives at 50 digits, far below any enclosure's width.


def interval(value):
    """Return the bounds of a value, infinities included."""
    if value.kind == "infinite":
        bound = mp.inf if value.exact == "oo" else -mp.inf
        return bound, bound
    return mp.mpf(value.low), mp.mpf(value.high)


def samples(name, joints):
    """Return points around every place where the function bends, on both scales, none on a joint."""
    activation = parse(name)
    scale = activation.spec.scale if activation.spec else 1.0
    spread = np.concatenate([np.linspace(-7, 8, POINTS // 2), np.geomspace(1e-3, 40, POINTS // 4)])
    points = np.concatenate([spread, -spread[POINTS // 2 :], spread * scale])
    points = np.concatenate([points, *[[joint - 1e-4, joint + 1e-4] for joint in joints]])
    return [mp.mpf(float(p)) for p in sorted(set(points)) if all(abs(p - joint) > 1e-6 for joint in joints)]


def derivatives(f, joints, points):
    """Return [f, f', f''] at the points, by finite differences that do not cross a joint."""
    rows = []
    for x in points:
        gap = min([abs(x - mp.mpf(joint)) for joint in joints] + [mp.mpf(1)])
        step = min(gap / 8, mp.mpf(10) ** -12)
        with mp.workdps(120):
            low, middle, high = (f(x + k * step) for k in (-1, 0, 1))
            far_low, far_high = f(x - 2 * step), f(x + 2 * step)
            slope = (8 * (high - low) - (far_high - far_low)) / (12 * step)
            bend = (16 * (high + low) - (far_high + far_low) - 30 * middle) / (12 * step**2)
        rows.append((f(x), slope, bend))
    return rows


# From the end: test_known_numbers.py begins at the other, and two processes that run both prove each certificate once.
@pytest.fixture(params=reversed(DEFINITIONS), scope="module")
def attacked(request, certificate):
    f, joints, _ = DEFINITIONS[request.param]
    points = samples(request.param, joints)
    return certificate(request.param), points, derivatives(f, joints, points), joints


def test_every_entry_of_the_catalog_is_attacked():
    assert {parse(name).name for name in DEFINITIONS} == set(ENTRIES)


# Row of a certificate -> (order of the derivative it bounds, whether of its magnitude, whether from above).
BOUNDS = {
    "infimum": (0, False, False),
    "supremum": (0, False, True),
    "lipschitz": (1, True, True),
    "slope_infimum": (1, False, False),
    "gradient_lipschitz": (2, True, True),
}


@pytest.mark.parametrize("key", BOUNDS)
def test_no_sample_leaves_an_enclosure(attacked, key):
    certificate, points, rows, _ = attacked
    order, magnitude, above = BOUNDS[key]
    value = proved(certificate, key).value
    if value.kind == "absent":
        assert value.note
        return
    low, high = interval(value)
    for x, row in zip(points, rows, strict=True):
        sample = abs(row[order]) if magnitude else row[order]
        assert (sample <= high + SLACK) if above else (sample >= low - SLACK), f"fails at x = {mp.nstr(x, 20)}"


def test_no_sample_is_farther_from_relu(attacked):
    certificate, points, rows, _ = attacked
    _, high = interval(proved(certificate, "distance_sup").value)
    assert max(abs(f - max(x, 0)) for x, (f, _, _) in zip(points, rows, strict=True)) <= high + SLACK


def test_the_shape_agrees_with_the_samples(attacked):
    certificate, _, rows, _ = attacked
    slopes = [d for _, d, _ in rows]
    bends = [b for _, _, b in rows if abs(b) > mp.mpf(10) ** -25]
    verdict = proved(certificate, "monotonicity").value.note
    assert (min(slopes) >= -SLACK) == (verdict in ("strictly increasing", "non-decreasing"))
    convexity = proved(certificate, "convexity").value.note
    if convexity == "convex":
        assert min(bends, default=0) >= 0
    if convexity == "concave":
        assert max(bends, default=0) <= 0


def test_slope_changes_sign_only_where_a_point_is_certified(attacked):
    certificate, points, rows, joints = attacked
    certified = [float(p.approx) for p in proved(certificate, "stationary_points").where] + [float(j) for j in joints]
    moving = [(x, d) for x, (_, d, _) in zip(points, rows, strict=True) if abs(d) > SLACK]
    for (x, d), (y, e) in pairwise(moving):
        if d * e < 0:
            assert any(x <= point <= y for point in certified), (float(x), float(y))


def test_bend_changes_sign_only_where_an_inflection_is_certified(attacked):
    certificate, points, rows, joints = attacked
    certified = [float(p.approx) for p in proved(certificate, "inflection_points").where] + [float(j) for j in joints]
    bending = [(x, b) for x, (_, _, b) in zip(points, rows, strict=True) if abs(b) > mp.mpf(10) ** -25]
    for (x, b), (y, c) in pairwise(bending):
        if b * c < 0:
            assert any(x <= point <= y for point in certified), (float(x), float(y))


@pytest.mark.parametrize("key", [*BOUNDS, "distance_sup"])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_bounds_are_taken_where_the_certificate_says(name, key, certificate):
    row = proved(certificate(name), key)
    f, joints, _ = DEFINITIONS[name]
    order, magnitude, _ = BOUNDS.get(key, (0, True, True))
    if row.value.approx is None:
        assert row.value.kind in ("absent", "infinite")
        return
    for where in row.where:
        if where.approx is None or where.note == "limit":
            continue
        nudge = {"from the left": -1, "from the right": 1}.get(where.note, 0) * mp.mpf(10) ** -20
        x = mp.mpf(where.low) + nudge
        if not nudge and any(abs(x - joint) < 1e-9 for joint in joints):
            x += mp.mpf(10) ** -20
        taken = derivatives(f, joints, [x])[0][order] - (max(x, 0) if key == "distance_sup" else 0)
        bound = mp.mpf(row.value.low)
        assert abs((abs(taken) if magnitude else taken) - bound) <= mp.mpf(10) ** -12 * max(
            abs(bound), mp.mpf(10) ** -6
        )


def test_enclosures_are_narrow(certificate):
    for name in DEFINITIONS:
        for row in certificate(name).properties:
            for value in (row.value, *row.where):
                if value.low and row.value.kind != "open":
                    low, high = mp.mpf(value.low), mp.mpf(value.high)
                    assert low <= high <= low + abs(low) * mp.mpf(10) ** -12, (name, row.key)


# What is proved in full, and must stay so. A new activation may have open rows.
CLOSED = """gem egem segem celu elu gelu gelu_tanh golu hardshrink hardsigmoid hardswish hardtanh isrlu leaky_relu
logsigmoid mish prelu quick_gelu relu relu2 relu6 rrelu selu sigmoid silu smelu smish softplus softshrink softsign
squareplus tanh tanhshrink telu"""


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_row_is_closed_or_says_why_it_is_open(name, certificate):
    left = [row for row in certificate(name).properties if row.value.kind == "open"]
    assert not left or parse(name).name not in CLOSED.split()
    assert all(row.value.note.startswith("not closed: ") for row in left)
