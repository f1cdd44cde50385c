"""What surrounds an activation in training: loss scaling, workers of a data loader, a lack of memory."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gem_activations import GemSpec
from gem_activations.torch import GEM, SEGEM, activate, gem_glu

from .routes import Route, every_route


def make_model(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), activation, nn.Linear(16, 1))


@pytest.mark.parametrize("activation", [GEM(save="output"), GEM(save="input"), SEGEM(inplace=True)], ids=str)
def test_a_scaled_loss_gives_the_gradients_of_the_loss(activation):
    model = make_model(activation)
    plain = copy.deepcopy(model)
    x = torch.randn(32, 8)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss, plain_loss = model(x).square().mean(), plain(x).square().mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    plain_loss.backward()
    for scaled, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(scaled.grad, expected.grad)  # A power of two changes no digit.
    before = [parameter.detach().clone() for parameter in model.parameters()]
    scaler.step(optimizer)
    scaler.update()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("save", ["input", "output"])
def test_an_overflow_of_the_scaled_loss_skips_the_step(save):
    model = make_model(GEM(save=save))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    scaler.scale(model(torch.full((4, 8), 1e30)).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert scaler.get_scale() == 2.0**15


def test_forked_workers_of_a_data_loader_compute_as_their_parent():
    """In a process of its own: other libraries of this one, such as JAX, do not allow a fork once they have threads."""
    script = Path(__file__).with_name("forked_loader.py")
    ignored = "ignore:This process:DeprecationWarning", "ignore:This DataLoader:UserWarning"  # The latter on one core.
    words = [sys.executable, "-W", "error", *(word for each in ignored for word in ("-W", each)), str(script)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.stdout.split() == ["4", "True", "True"], done.stderr


@every_route
def test_out_of_memory_is_torchs_error_and_changes_nothing(route: Route):
    x = torch.ones(1).expand(2**55)
    with pytest.raises(RuntimeError, match=r"allocate|memory"):
        route(x, GemSpec())
    with pytest.raises(RuntimeError, match=r"allocate|memory"):
        gem_glu(x, x, backend=route.options["backend"])
    assert x[0] == 1


def test_out_of_memory_in_the_backward_pass_leaves_the_gradients_alone(monkeypatch):
    x = torch.randn(64, requires_grad=True)
    y = activate(x * 1, GemSpec(), save="output")
    kept = y.detach().clone()

    def refuse(*_args, **_options):
        raise torch.OutOfMemoryError("no memory is left")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty_like", refuse)
        with pytest.raises(torch.OutOfMemoryError, match="no memory is left"):
            y.sum().backward(retain_graph=True)
    assert x.grad is None
    assert torch.equal(y.detach(), kept)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.from_numpy(GemSpec().derivative(x.detach().numpy())).float())
