"""Exported activations in ONNX Runtime against PyTorch: every extreme, in float32, float16 and float64."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gem_activations import GemSpec
from gem_activations.torch import EGEM, GEM, SEGEM, exported, gem_glu

from ..sweeps import bit_patterns, sweep_float32, wide
from ..tolerances import EXPORTED_CONSTANTS, HALF_ULPS, value_ulps
from ..torch.known_warnings import exporting
from ..ulps import smallest_normal, ulps_apart
from .running import assert_standard, export, run, start

pytestmark = exporting

MEMBERS = nn.ModuleList(
    [GEM(n) for n in (1, 2, 3, 4)]
    + [EGEM(1, eps) for eps in (1e-4, 1e-6, 10.0)]
    + [EGEM(2, 1e-12), EGEM(3, 1e-4), EGEM(4, 1e6), EGEM(8, 1e-12)]
    + [SEGEM(), SEGEM(2, 1e-6, 0.2), SEGEM(3, 1.0, 0.99)]
    # PyTorch's exporter drops a product by a number within 1e-5 of 1 and a sum with one up to 1e-8.
    + [SEGEM(1, 1.0, leak) for leak in (1e-30, 1e-9, 1e-8, 5e-6, 1.1e-5, 1e-3, 1 - 5e-6, 1 - 1e-7)]
    + [EGEM(1, 1.000005), SEGEM(2, 1 - 2e-6, 1e-6), EGEM(19, 2.0**-19), EGEM(20, 2.0**-20), EGEM(27, 2.0**-27)]
    + [EGEM(30, 5e-9), EGEM(64, 2.0**64), SEGEM(64, 1e300, 0.2), SEGEM(64, 2.0**-64, 1e-9)]
)
every_member = pytest.mark.parametrize("number", range(len(MEMBERS)), ids=[str(member.spec) for member in MEMBERS])
GATES = [GemSpec(), GemSpec(3, 1e-4, 0.01)]


class Together(nn.Module):
    """Every member on one input, so that one export serves them all."""

    def __init__(self) -> None:
        super().__init__()
        self.members = MEMBERS

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(member(x) for member in self.members)


class Gated(nn.Module):
    """The product of the gated unit, without its linear maps, which would spread one NaN over a row."""

    def forward(self, x: Tensor, gate: Tensor) -> tuple[Tensor, ...]:
        return tuple(gem_glu(x, gate, n=spec.n, eps=spec.eps, leak=spec.leak) for spec in GATES)


@cache
def session(dtype):
    rows, columns = torch.export.Dim("rows"), torch.export.Dim("columns")
    x = torch.zeros(2, 3, dtype=dtype)
    model = export(Together(), x, dynamic={"x": (rows, columns)})
    assert_standard(model)
    return start(model)


@cache
def gated_session(dtype):
    free = torch.export.Dim.DYNAMIC
    x, gate = torch.zeros(2, 4, dtype=dtype)
    model = export(Gated(), x, gate, dynamic={"x": (free,), "gate": (free,)})
    assert_standard(model)
    return start(model)


def run_member(number, x):
    started = session(x.dtype)
    outputs = started.get_outputs()
    return started.run([outputs[number].name], {started.get_inputs()[0].name: x.numpy()})[0]


def written(spec, x):
    """Return what PyTorch computes by the formula that exporters see."""
    return exported.value(x if x.dtype == torch.float64 else x.float(), spec).to(x.dtype).numpy()


def extremes(scale, dtype):
    """Return NaN, infinities, zeros, the ends of the dtype and the junction, with both signs."""
    ends = torch.finfo(dtype)
    tiny = ends.smallest_normal * ends.eps
    near = [scale, scale * (1 - ends.eps), scale * (1 + ends.eps), 1.0]
    numbers = [0.0, tiny, 2 * tiny, ends.smallest_normal, *near, ends.max, torch.inf]
    return torch.tensor([torch.nan, *numbers, *(-number for number in numbers)], dtype=dtype)


def in_rows(x):
    """Return x with two dimensions, neither of which is the one exported."""
    x = torch.cat([x, torch.zeros(-len(x) % 7, dtype=x.dtype)])
    return x.reshape(-1, 7)


@every_member
def test_float32_over_all_inputs(number):
    member = MEMBERS[number]
    x = in_rows(torch.cat([extremes(member.spec.scale, torch.float32), torch.from_numpy(sweep_float32(member.spec))]))
    got, allowed = run_member(number, x), value_ulps(member.n)
    # The operations are those of the exported formula, each rounded alike: no bit may differ. For large n the power is
    # the runtime's own.
    if member.n <= 8:
        np.testing.assert_array_equal(got, written(member.spec, x))
    assert ulps_apart(wide(got), member.spec(wide(x)), "float32").max() <= allowed
    # The kernel that serves eager calls rounds in another order; each is within `allowed` of the exact value.
    assert ulps_apart(wide(got), wide(member(x)), "float32").max() <= 2 * allowed


@every_member
def test_every_float16_bit_pattern(number):
    member = MEMBERS[number]
    x = in_rows(torch.from_numpy(bit_patterns(np.float16)))
    got = run_member(number, x)
    assert got.dtype == np.float16
    if member.n <= 8:
        np.testing.assert_array_equal(got, written(member.spec, x))
    with np.errstate(invalid="ignore"):  # A signalling NaN.
        assert ulps_apart(wide(got), member.spec(wide(x)), "float16").max() <= HALF_ULPS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@every_member
def test_extremes_have_the_values_that_the_documentation_gives(number, dtype):
    spec = MEMBERS[number].spec
    largest = torch.finfo(dtype).max
    x = torch.tensor([[torch.nan, torch.inf, -torch.inf, 0.0, -0.0, largest, -largest]], dtype=dtype)
    got = run_member(number, x)[0]
    assert np.isnan(got[0])
    np.testing.assert_array_equal(got[1:6], [np.inf, -np.inf if spec.leak else 0.0, 0.0, 0.0, largest])
    np.testing.assert_array_max_ulp(got[6], got.dtype.type(-spec.leak * largest), 1)


def test_subnormal_numbers_are_not_flushed():
    number = next(i for i, member in enumerate(MEMBERS) if isinstance(member, SEGEM))
    for dtype in (torch.float32, torch.float16):
        x = -torch.arange(1, 8, dtype=dtype)[None] * torch.finfo(dtype).smallest_normal / 2
        got = run_member(number, x)
        assert (got != 0).all()
        assert (np.abs(got) < smallest_normal(str(dtype).removeprefix("torch."))).all()
        np.testing.assert_array_equal(got, MEMBERS[number](x).numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("number", range(len(GATES)), ids=map(str, GATES))
def test_the_gated_unit(number, dtype):
    spec = GATES[number]
    points = torch.cat([extremes(spec.scale, dtype), torch.linspace(-3, 3, 25).to(dtype)])
    x, gate = (each.reshape(-1) for each in torch.meshgrid(points, points, indexing="ij"))
    got = run(gated_session(dtype), x, gate)[number]
    name = str(dtype).removeprefix("torch.")
    want = (x.float() * exported.value(gate.float(), spec)).to(dtype)
    np.testing.assert_array_equal(got, want.numpy())
    eager = gem_glu(x, gate, n=spec.n, eps=spec.eps, leak=spec.leak)
    allowed = HALF_ULPS if dtype == torch.float16 else 2 * value_ulps(spec.n) + 1
    assert ulps_apart(wide(got), wide(eager), name).max() <= allowed


@every_member
def test_float64_has_the_constants_of_float32(number):
    # The exporter writes the numbers of a float64 graph with the digits of float32; powers of two lose nothing.
    spec = MEMBERS[number].spec
    x = torch.from_numpy(spec.scale * np.geomspace(1e-2, 1e2, 77)).reshape(7, 11)
    got, want = run_member(number, x), spec(x.numpy())
    assert got.dtype == np.float64
    if spec.eps == 1 and not spec.leak:
        assert ulps_apart(got, want, "float64").max() <= value_ulps(spec.n)
    np.testing.assert_allclose(got, want, rtol=EXPORTED_CONSTANTS, atol=0)


@pytest.mark.parametrize("shape", [(1, 1), (0, 3), (3, 0), (5, 1000)], ids=str)
def test_shapes_are_free(shape):
    x = torch.randn(shape)
    for member, got in zip(MEMBERS, run(session(torch.float32), x), strict=True):
        assert got.shape == shape
        if member.n <= 8 and x.numel() != 1:
            np.testing.assert_array_equal(got, written(member.spec, x))
        elif x.numel():  # PyTorch takes another power for one element than for many: each is within its own bound.
            assert ulps_apart(got, written(member.spec, x), "float32").max() <= 2 * value_ulps(member.n)
