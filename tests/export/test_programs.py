"""torch.export and AOTInductor: a model with GEM goes through, and computes the same wherever it is loaded."""

import os
import shutil
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gem_activations.torch import EGEM, GEM, GEMGLU, SEGEM, init_, swap

from ..sweeps import bit_patterns, sweep_float32, wide
from ..tolerances import HALF_ULPS, RUNTIME, value_ulps
from ..torch.known_warnings import compiling, exporting
from ..ulps import ulps_apart

pytestmark = [compiling, exporting]

MEMBERS = [GEM(), GEM(3), EGEM(2, 1e-4), SEGEM(2, 0.1)]
FREE = torch.export.Dim.DYNAMIC
WIDTHS = (torch.float16, torch.bfloat16, torch.float64)


class Model(nn.Module):
    """A network with every kind of activation, and beside it the activations alone on numbers of any size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(8, 16), GEM(2), nn.Linear(16, 16), SEGEM(2, 0.1), GEMGLU(16, 8), EGEM(inplace=True)]
        self.network = nn.Sequential(*layers, nn.Linear(8, 3))
        init_(self.network, "gem(n=2)")
        self.members = nn.ModuleList(deepcopy(MEMBERS))
        self.requires_grad_(False)

    def forward(self, x: Tensor, points: Tensor) -> tuple[Tensor, ...]:
        return self.network(x), *(member(points) for member in self.members)


def points():
    ends = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0])
    return torch.cat([ends, *(torch.from_numpy(sweep_float32(member.spec)) for member in MEMBERS)])


def export(strict=False):
    example = torch.zeros(4, 8), torch.zeros(6)
    return torch.export.export(Model().eval(), example, dynamic_shapes=({0: FREE}, {0: FREE}), strict=strict)


def as_exported(model, given):
    """Return what a copy computes that takes the formula which exporters see for its eager calls."""
    model = deepcopy(model)
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = "plain"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_exporting", lambda: True)
        return model(*given)


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_an_exported_program_computes_the_same_for_every_batch(strict, tmp_path):
    model, program = Model().eval(), export(strict)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2")
    x = points()
    for batch in (2, 5, 33):
        given = torch.randn(batch, 8)
        for module in (program.module(), loaded.module()):
            for got, want in zip(module(given, x), as_exported(model, (given, x)), strict=True):
                torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
    # Eager calls use a kernel, which rounds in another order.
    got, want = program.module()(given, x)[0], model(given, x)[0]
    torch.testing.assert_close(got, want, rtol=0, atol=RUNTIME * float(want.abs().max()))


def test_a_program_is_made_of_operators_of_torch_alone():
    names = {str(node.target) for node in export().graph.nodes if node.op == "call_function"}
    assert names
    assert all(name.startswith("aten.") for name in names)


def test_a_swapped_model_goes_through():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True).eval()
    swap(model, {nn.functional.gelu: "gem(n=2)"})
    x = torch.randn(3, 5, 8)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: FREE},))
    with torch.no_grad():
        want = model(torch.cat([x, x]))
    got = program.module()(torch.cat([x, x]))
    torch.testing.assert_close(got, want, rtol=0, atol=RUNTIME * float(want.abs().max()))


COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
LOAD = """
import sys, torch
run = torch._inductor.aoti_load_package(sys.argv[1])
given = torch.load(sys.argv[2], weights_only=True)
torch.save([run(*each) for each in given], sys.argv[3])
print("gem_activations" in sys.modules)
"""


needs_compiler = pytest.mark.skipif(
    not COMPILER, reason="AOTInductor needs a C++ compiler: install g++, or name one in CXX"
)


@needs_compiler
def test_a_compiled_package_runs_in_a_process_without_this_package(tmp_path):
    paths = [str(tmp_path / name) for name in ("model.pt2", "given.pt", "results.pt")]
    torch._inductor.aoti_compile_and_package(export(), package_path=paths[0])
    x = points()
    given = [(torch.randn(batch, 8), x[: len(x) - batch]) for batch in (2, 33)]
    torch.save(given, paths[1])
    done = subprocess.run([sys.executable, "-c", LOAD, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    model = Model().eval()
    for (batch, numbers), results in zip(given, torch.load(paths[2], weights_only=True), strict=True):
        want = model.network(batch)
        torch.testing.assert_close(results[0], want, rtol=0, atol=RUNTIME * float(want.abs().max()))
        for member, got in zip(MEMBERS, results[1:], strict=True):
            exact = member.spec(wide(numbers))
            assert ulps_apart(wide(got), exact, "float32").max() <= value_ulps(member.n)
            assert np.array_equal(wide(got)[:5], exact[:5], equal_nan=True)


class Members(nn.Module):
    """The activations alone, on numbers of several dtypes, so that one compilation serves them all."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(deepcopy(MEMBERS))

    def forward(self, *points: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        return tuple(tuple(member(each) for member in self.members) for each in points)


@needs_compiler
def test_compiled_code_in_half_and_double_precision(tmp_path):
    free = tuple({0: FREE} for _ in WIDTHS)
    example = tuple(torch.zeros(6, dtype=dtype) for dtype in WIDTHS)
    program = torch.export.export(Members().eval(), example, dynamic_shapes=(free,))
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "members.pt2"))
    patterns = torch.from_numpy(bit_patterns(np.int16))
    given = patterns.view(torch.float16), patterns.view(torch.bfloat16), points().double()
    results = torch._inductor.aoti_load_package(path)(*given)
    for numbers, several in zip(given, results, strict=True):
        name = str(numbers.dtype).removeprefix("torch.")
        for member, got in zip(MEMBERS, several, strict=True):
            assert got.dtype == numbers.dtype
            allowed = value_ulps(member.n) if name == "float64" else HALF_ULPS
            with np.errstate(invalid="ignore"):  # A signalling NaN.
                exact = member.spec(numbers.double().numpy())
                assert ulps_apart(got.double().numpy(), exact, name).max() <= allowed, (name, member.spec)
