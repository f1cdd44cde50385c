"""The examples run in a short form through the open lab, and their pages quote the committed results."""

import importlib.util
import itertools
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from scipy.spatial import KDTree
from skimage.measure import marching_cubes

from gem_activations.lab.store.comparison import CORE
from gem_activations.torch import EGEM, calibrate_, make_activation

ROOT = Path(__file__).parents[1]
SHORT = {
    "sdf": {"steps": 3, "away": 1 / 30},
    "pinn": {"steps": 3},
    "forces": {"steps": 2},
    "graph": {"steps": 2},
    "tabular": {"table": "wine", "epochs": 2},
    "robust": {"epochs": 1, "attack_steps": 2, "adversarial": True},
    "diffusion": {"steps": 2, "picture": True},
    "llm": {"steps": 2},
}
METRICS = {
    "sdf": "distance_error",
    "pinn": "relative_error",
    "forces": "force_error",
    "graph": "error",
    "tabular": "relative_loss",
    "robust": "attacked_error",
    "diffusion": "denoising_loss",
    "llm": "bits",
}
OCTANTS = list(itertools.product((1, -1), repeat=3))


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def example_folder(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("name", SHORT)
def test_examples_return_finite_figures(name, tmp_path):
    torch.manual_seed(0)
    run = SimpleNamespace(activation=lambda: make_activation("egem(n=2, eps=0.0625)"), seed=0, folder=tmp_path)
    figures = load(name).train(run, **SHORT[name])
    assert figures
    assert METRICS[name] in figures
    assert not figures.keys() & set(CORE)  # The lab records those itself.
    assert all(math.isfinite(value) for value in figures.values())
    assert [path.name for path in tmp_path.iterdir()] == (["digits.png"] if name == "diffusion" else [])


def test_a_calibrated_module_is_set_as_calibrate_sets_it():
    """On the first batch and never again, in the order in which the modules run."""
    calibrated = load("calibrated")
    smooth = partial(EGEM, n=2)
    for make, of, ratio in (
        (calibrated.Calibrated, EGEM, 0.1),
        (calibrated.CalibratedNarrow, EGEM, 0.01),
        (calibrated.CalibratedSmooth, smooth, 0.1),
        (calibrated.CalibratedWide, smooth, 1.0),
    ):
        linear, batch = [torch.nn.Linear(8, 8) for _ in range(2)], torch.randn(32, 8)
        wanted, found = (torch.nn.Sequential(linear[0], f(), linear[1], f()) for f in (of, make))
        calibrate_(wanted, batch, ratio)
        assert torch.equal(wanted(batch), found(batch))
        assert torch.equal(wanted(3 * batch), found(3 * batch))


def test_a_study_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    study = importlib.import_module("examples_study")
    arms = {"relu": [("relu", 0.1), ("relu", 0.01)], "gelu": [("gelu", 0.1)]}
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    monkeypatch.setitem(
        study.STUDIES, "graph", (arms, "error", "relu", [{"steps": 1, **study.HELD}], [{"steps": 1}], 2)
    )
    monkeypatch.setattr(study.multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=InThisProcess))
    ran = []
    monkeypatch.setattr(study, "run_one", lambda job, one=study.run_one: ran.append(job[3:6]) or one(job))
    study.run(1, 60, ["graph"])
    first = {path.name: path.read_text() for path in tmp_path.glob("graph/*")}
    assert len(ran) == 7
    assert sorted(first) == ["chosen.csv", "test.csv", "tune.csv"]
    arms["relu"].append(("relu", 1e-9))  # Too small to learn, so that the choice stays.
    study.run(1, 60, ["graph"])
    assert ran[7:] == [(1e-9, {"steps": 1, **study.HELD}, study.TUNING_SEED)]
    assert (tmp_path / "graph/test.csv").read_text() == first["test.csv"]
    assert first["tune.csv"].splitlines()[1] in (tmp_path / "graph/tune.csv").read_text()
    ran.clear()
    study.again(1, 60, "graph", "test")  # The runs of a table, whatever they are, anew.
    assert len(ran) == 4
    rows = [[{**row, "seconds": ""} for row in study.read("graph", name)] for name in ("test", "test-again")]
    assert rows[0] == rows[1]


def test_a_study_adds_seeds_until_its_arms_are_decided(tmp_path, monkeypatch):
    """By the lab's schedule: an arm that is far ahead leaves at the first look, one like the baseline never."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    study = importlib.import_module("examples_study")
    arms = {name: [(name, 0.1)] for name in ("relu", "gelu", "silu")}
    errors = {"relu": lambda seed: 1 + 0.01 * (seed % 2), "gelu": lambda seed: 0.5 + 0.001 * seed}
    errors["silu"] = lambda seed: 1.01 - 0.01 * (seed % 2)
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    monkeypatch.setitem(study.STUDIES, "graph", (arms, "error", "relu", [{}], [{}], 8))
    monkeypatch.setattr(study.multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=InThisProcess))
    keys = ("study", "arm", "activation", "learning_rate", "task", "seed")

    def run_one(job):
        row = dict(zip(keys, (*job[:4], json.dumps(job[4]), job[5]), strict=True))
        return {**row, "status": "finished", "seconds": 1.0, "error": errors[job[1]](job[5])}

    monkeypatch.setattr(study, "run_one", run_one)
    study.run(1, 60, ["graph"])
    seeds = [(row["arm"], int(row["seed"])) for row in study.read("graph", "test")]
    assert {arm: sorted(seed for name, seed in seeds if name == arm) for arm in arms} == {
        "relu": [*range(8)],
        "gelu": [*range(3)],
        "silu": [*range(8)],
    }
    table = "\n".join(study.judge(["graph"]))
    assert "| `gelu` | 0.1 | 0.5010 | 0.50 | shown better | 3 |" in table
    assert "| not decided | 8 |" in table


class InThisProcess:
    """A pool that runs its work here."""

    def __init__(self, _workers): ...

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def imap_unordered(self, function, jobs, **_):
        return map(function, jobs)


def test_shapes_have_the_distance_that_they_say():
    for make in load("shapes").SHAPES.values():
        distance, sample = make()
        points, normals = sample(500)
        assert distance(points).abs().max() < 1e-6
        assert (distance(points + 1e-3 * normals) - 1e-3).abs().median() < 1e-6
        assert (distance(points - 1e-3 * normals) + 1e-3).abs().median() < 1e-6


def test_points_are_drawn_to_the_surface():
    distance, sample = load("shapes").SHAPES["rectangle"]()
    points, normals = sample(200)
    drawn = load("sdf").project(lambda x: 2 * distance(x)[:, None], points + 0.05 * normals)
    assert distance(drawn).abs().max() < 1e-5
    assert (drawn - points).norm(dim=1).median() < 1e-5


def test_chamfer_distance_is_that_of_the_surface_which_marching_cubes_extract(monkeypatch):
    """Points of the extracted triangles, dense beside the distances, and their nearest neighbours on the shape."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    distance, sample = load("shapes").SHAPES["torus"]()
    torch.manual_seed(0)
    on = sample(4096)[0]

    def learnt(x):
        return (distance(x) + 0.04 * torch.sin(6 * x[:, 0]))[:, None]

    line = torch.linspace(-1, 1, 65)
    values = learnt(torch.cartesian_prod(line, line, line)).reshape(65, 65, 65).numpy()
    corners, faces, _, _ = marching_cubes(values, 0.0, spacing=(1 / 32,) * 3)
    extracted = importlib.import_module("sdf_meshes").sample_triangles(torch.tensor(corners[faces].copy()) - 1)(50_000)[
        0
    ]
    there = KDTree(extracted.numpy()).query(on.numpy())[0].mean()
    back = distance(extracted).abs().mean()
    found = load("sdf").chamfer_distance(learnt, distance, on, torch.rand(20_000, 3) * 2 - 1)
    assert found == pytest.approx(float(there + back) / 2, rel=0.05)


def test_a_step_of_the_field_keeps_what_its_page_says():
    kept = {"softplus(beta=1000)": 8.0, "egem(n=1, eps=9e-06)": 6.0, "relu": 4.0, "silu": 16.0}
    for name, expected in kept.items():
        model, sizes = load("sdf").make_field(lambda name=name: make_activation(name), 3, 128), {}
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        x, alive = torch.rand(1024, 3).requires_grad_(), []

        def keep(tensor, sizes=sizes, alive=alive):
            alive.append(tensor)  # So that no other storage takes its address.
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            (slope.norm(dim=1) - 1).square().mean()
        assert sum(sizes[key] for key in sizes.keys() - weights) / 2**20 == pytest.approx(expected, abs=0.1)


def test_level_lines_are_drawn(tmp_path):
    load("sdf_picture").main(str(tmp_path / "levels.png"), steps=2)
    assert (tmp_path / "levels.png").stat().st_size > 10_000


def test_equations_are_made_from_their_solutions():
    problem = load("pinn").PROBLEMS["helmholtz"]
    x = torch.tensor([[0.25, 0.125]], dtype=torch.float64)
    exact = float(problem.solution(x))
    assert float(problem.source(x)) == pytest.approx((9 - 5 * math.pi**2) * exact, rel=1e-5)


def test_a_node_hears_the_mean_of_its_neighbours():
    layer = load("graph").MessagePassing(1, 1)
    with torch.no_grad():
        layer.own.weight.fill_(10.0)
        layer.own.bias.zero_()
        layer.neighbours.weight.fill_(1.0)
    edges = torch.tensor([[0, 1, 2], [2, 2, 0]])
    found = layer(torch.tensor([[1.0], [2.0], [4.0]]), edges).squeeze(1)
    assert found.tolist() == [10 + 4, 20, 40 + 1.5]


def test_labelled_nodes_are_balanced_and_seen_nowhere_else():
    labels = torch.arange(100) % 4
    parts = load("graph").split_nodes(labels, 5, 30)
    assert torch.bincount(labels[parts[0]]).tolist() == [5] * 4
    assert sorted(torch.cat(parts).tolist()) == list(range(100))


def test_a_constant_guess_loses_what_it_says():
    table = load("tabular")
    known, targets = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1])
    assert float(table.constant_loss(known, targets)) == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    (x, _, _), (y, _, _), outputs = table.read_table("diabetes")
    assert outputs == 1
    assert x.mean(0).abs().max() < 1e-5
    assert float(table.constant_loss(y, y)) == pytest.approx(1, abs=0.01)


def test_attacks_stay_within_the_radius_and_do_harm():
    robust = load("robust")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    x, labels = torch.rand(40, 1, 8, 8), torch.randint(10, (40,))
    before = robust.margin_ratio(model(x), labels)
    for attacked in (
        robust.climb(model, x, labels, 0.1, 10, robust.margin_ratio),
        robust.search(model, x, labels, 0.1, 40),
    ):
        assert (attacked - x).abs().max() <= 0.1 + 1e-6
        assert attacked.min() >= 0
        assert attacked.max() <= 1
        assert robust.margin_ratio(model(attacked), labels).mean() > before.mean() + 0.1


def test_a_sure_and_right_guess_is_calibrated():
    chances = torch.eye(10)[torch.tensor([1, 2, 3, 4])]
    calibration_error = load("robust").calibration_error
    assert calibration_error(chances, torch.tensor([1, 2, 3, 4])) == 0
    assert calibration_error(chances, torch.tensor([1, 2, 3, 5])) == pytest.approx(0.25)


def test_a_model_that_knows_the_noise_draws_the_digit():
    diffusion = load("diffusion")
    clean = torch.linspace(-1, 1, 64).expand(2, 64)

    def knows(mixture, time):
        angle = time * math.pi / 2
        return (mixture - angle.cos() * clean) / angle.sin()

    assert torch.allclose(diffusion.draw(knows, 2), clean, atol=1e-4)


def test_a_mesh_has_the_distance_of_its_solid(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    meshes = importlib.import_module("sdf_meshes")
    corners = ["1 0 0", "-1 0 0", "0 1 0", "0 -1 0", "0 0 1", "0 0 -1"]
    faces = [f"3 {0 if x > 0 else 1} {2 if y > 0 else 3} {4 if z > 0 else 5}".split() for x, y, z in OCTANTS]
    faces = [
        face if x * y * z > 0 else [face[0], face[2], face[1], face[3]]
        for face, (x, y, z) in zip(faces, OCTANTS, strict=True)
    ]
    path = tmp_path / "octahedron.off"
    path.write_text("\n".join(["OFF", "6 8 0", *corners, *map(" ".join, faces)]))
    distance, sample = meshes.make_shape(meshes.read_off(path))
    points = torch.rand(2000, 3) * 2 - 1
    inside = points.abs().sum(1) < 0.8  # The longest side is 1.6.
    assert torch.equal(distance(points) < 0, inside)
    exact = (0.8 - points.abs().sum(1)) / math.sqrt(3)
    assert (distance(points)[inside] + exact[inside]).abs().max() < 0.01
    on, normals = sample(500)
    assert (on.abs().sum(1) - 0.8).abs().max() < 1e-6
    assert (normals * on.sign() - 1 / math.sqrt(3)).abs().max() < 1e-5
    path.write_text("\n".join(["OFF", "6 7 0", *corners, *map(" ".join, faces[1:])]))
    with pytest.raises(ValueError, match="has other faces than triangles, or a border"):
        meshes.read_off(path)


def test_a_byte_sees_none_that_follows_it():
    llm = load("llm")
    block = llm.Block(SimpleNamespace(activation=torch.nn.SiLU), 16, 2)
    x = torch.randn(1, 6, 16)
    changed = x.clone()
    changed[:, 4:] += 1
    assert torch.equal(block(x)[:, :4], block(changed)[:, :4])
    turned = llm.rotate(x)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, 0], x[:, 0])


@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in ROOT.glob("benchmarks/results/examples/*/test.csv"))
)
def test_pages_have_the_tables_that_the_committed_rows_make(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    page = (ROOT / f"docs/examples/{name}.md").read_text().splitlines()
    lines = [line for line in importlib.import_module("examples_study").judge([name]) if line.startswith("|")]
    assert len(lines) > 5
    assert [line for line in page if line in lines or line.startswith("| `")][: len(lines)] == lines
