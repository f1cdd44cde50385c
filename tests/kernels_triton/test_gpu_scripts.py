"""The scripts that measure on a GPU: they leave with one line where there is none, and their other parts work."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.mark.parametrize("name", ["gpu_kernels", "gpu_models", "gpu_second_order"])
def test_without_a_gpu_nothing_is_measured(name, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--out", str(tmp_path / "rows.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("", "no CUDA device here: nothing was measured\n")
    assert list(tmp_path.iterdir()) == []


def test_candidates_agree_and_are_tabulated(script):
    speed = script("gpu_kernels")
    x, gate, grad = (torch.randn(64) for _ in range(3))
    rows = []
    for work in speed.PASSES:
        named = speed.candidates(work)
        assert len(named) > 4
        rows += [
            {"kind": "speed", "work": work, "size": 1 << 24, "dtype": "bfloat16", "name": name}
            | {"seconds": 1e-3, "share_of_copy": 0.5}
            for name in named
        ]
    assert torch.equal(speed.candidates("forward")["relu"](x), x.clamp(min=0))
    relu, silu = (speed.candidates("backward")[name] for name in ("relu", "silu"))
    assert torch.equal(relu(*speed.prepare("backward", "relu", x, gate, grad)), grad * (x > 0))
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(torch.nn.functional.silu(leaf), leaf, grad)[0]
    torch.testing.assert_close(silu(*speed.prepare("backward", "silu", x, gate, grad)), expected)
    x.requires_grad_()
    gate.requires_grad_()
    both = torch.autograd.grad(speed.candidates("glu forward")["geglu"](x, gate), (x, gate), grad)
    with torch.no_grad():
        torch.testing.assert_close(speed.candidates("glu backward")["geglu"](grad, x, gate), both)
    second = speed.candidates("second order")
    for name, function in (("silu", torch.nn.functional.silu), ("softplus(100)", speed_softplus)):
        leaf, upstream = x.detach().clone().requires_grad_(), grad.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf), leaf, upstream, create_graph=True)
        want = torch.autograd.grad(slope, (upstream, leaf), gate.detach())
        with torch.no_grad():
            torch.testing.assert_close(second[name](gate, grad, x), want, rtol=1e-4, atol=1e-4)
    lines = speed.summary(rows)
    assert len(lines) == len(rows) + 1
    assert "1000.0" in lines[1]


def speed_softplus(x):
    return torch.nn.functional.softplus(x, beta=100)


def test_losses_of_second_order(script):
    steps = script("gpu_second_order")
    model = steps.make_model(steps.ARMS["egem"], 2, 8, "cpu")
    x = torch.rand(5, 3)
    for loss in (steps.eikonal_loss, steps.laplacian_loss):
        gradients = torch.autograd.grad(loss(model, x), list(model.parameters()), allow_unused=True)
        assert gradients[0].isfinite().all()
    # Of a quadratic function the Laplacian is known.
    assert steps.laplacian_loss(lambda x: x.square().sum(1), x).item() == pytest.approx(36)
    rows = [
        {"kind": "step", "work": "eikonal", "name": name, "seconds": 0.002, "kept_bytes": 2**20}
        for name in ("softplus(100)", "silu", "egem")
    ]
    assert steps.summary(rows)[-1].split() == ["eikonal", "egem", "2.00", "1.000", "1.000", "1"]


def test_models_have_the_shape_of_gpt2(script):
    models = script("gpu_models")
    with torch.device("meta"):
        whole = models.GPT2(torch.nn.ReLU)
    assert sum(parameter.numel() for parameter in whole.parameters()) == 124_439_808
    loss = models.GPT2(models.ARMS["gem(n=1) from output"], 32, 2, 1)(torch.randint(0, 100, (2, 8)))
    loss.backward()
    # A random model guesses: its loss is near the logarithm of the vocabulary.
    assert 10 < loss.item() < 60
    step = {"kind": "step", "work": "gpt2 eager", "seconds": 0.1, "activation_bytes": 2**30, "peak_bytes": 2**31}
    lines = models.summary([step | {"name": "gelu_tanh"}, step | {"name": "relu", "seconds": 0.05}])
    assert lines[2].split()[-2:] == ["0.500", "1.000"]
