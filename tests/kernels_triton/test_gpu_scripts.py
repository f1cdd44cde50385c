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


@pytest.mark.parametrize("name", ["gpu_kernels", "gpu_models"])
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
    lines = speed.summary(rows)
    assert len(lines) == len(rows) + 1
    assert "1000.0" in lines[1]


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
