"""The examples run in a short form through the open lab, and their pages quote the committed results."""

import csv
import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gem_activations.torch import make_activation

ROOT = Path(__file__).parents[1]
SHORT = {"sdf": {"steps": 3}, "pinn": {"steps": 3}, "forces": {"steps": 2}}


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def keep_denormals():
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("name", SHORT)
def test_examples_return_finite_figures(name):
    torch.manual_seed(0)
    run = SimpleNamespace(activation=lambda: make_activation("egem(n=2, eps=0.0625)"), seed=0)
    figures = load(name).train(run, **SHORT[name])
    assert figures
    assert all(math.isfinite(value) for value in figures.values())


def test_shapes_have_the_distance_that_they_say():
    for make in load("sdf").SHAPES.values():
        distance, sample = make()
        points, normals = sample(500)
        assert distance(points).abs().max() < 1e-6
        assert (distance(points + 1e-3 * normals) - 1e-3).abs().median() < 1e-6
        assert (distance(points - 1e-3 * normals) + 1e-3).abs().median() < 1e-6


def test_equations_are_made_from_their_solutions():
    problem = load("pinn").PROBLEMS["helmholtz"]
    x = torch.tensor([[0.25, 0.125]], dtype=torch.float64)
    exact = float(problem.solution(x))
    assert float(problem.source(x)) == pytest.approx((9 - 5 * math.pi**2) * exact, rel=1e-5)


@pytest.mark.parametrize("name", SHORT)
def test_pages_quote_the_committed_medians(name):
    with (ROOT / "benchmarks/results/examples/test.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["study"] == name]
    metric = {"sdf": "distance_error", "pinn": "relative_error", "forces": "force_error"}[name]
    page = (ROOT / f"docs/examples/{name}.md").read_text()
    groups = {}
    for row in rows:
        groups.setdefault((row["task"], row["activation"], row["learning_rate"]), []).append(float(row[metric]))
    for (_, activation, rate), errors in groups.items():
        median = float(torch.tensor(errors, dtype=torch.float64).quantile(0.5))
        assert f"| `{activation}` | {rate} | {median:.4f} |" in page, (name, activation)
