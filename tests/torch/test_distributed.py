"""Processes that train together, by gloo: the weights and gradients of one process on the whole batch."""

import os
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

from gem_activations.torch import EGEM, weight_decay_groups

from ..forked import Forked
from ..tolerances import SAME_MATHEMATICS
from . import ddp_worker


def test_two_processes_train_as_one(tmp_path):
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    code = "import warnings; warnings.simplefilter('error')\n" + Path(ddp_worker.__file__).read_text()
    processes = [Forked(code, rank, 2, tmp_path / "rendezvous", tmp_path, env=environment) for rank in range(2)]
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs

    model = ddp_worker.make_model()
    scales = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("log_scale")}
    ddp_worker.train(model, ddp_worker.make_batch())
    assert [value.numel() for value in scales.values()] == [1, 7]
    assert not any(torch.equal(model.state_dict()[name], value) for name, value in scales.items())
    for rank in range(2):
        got = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(got["gradients"][name], parameter.grad, **SAME_MATHEMATICS)
            torch.testing.assert_close(got["weights"][name], parameter.detach(), **SAME_MATHEMATICS)


@pytest.fixture
def group_of_one(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("wrap", [nn.parallel.DistributedDataParallel, fully_shard], ids=["DDP", "FSDP"])
@pytest.mark.parametrize("channels", [1, 8])
def test_a_learnt_scale_is_trained_where_parameters_are_shared_or_sharded(wrap, channels):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), EGEM(scale=0.5, trainable=True, channels=channels), nn.Linear(8, 1))

    models, x = (make(), wrap(make())), torch.randn(32, 4)
    found = []
    for model in models:
        optimizer = torch.optim.AdamW(weight_decay_groups(model, 0.1), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        state = getattr(model, "module", model).state_dict()
        found.append(
            {name: getattr(value, "full_tensor", lambda value=value: value)() for name, value in state.items()}
        )
    assert found[1].keys() == found[0].keys()
    assert not torch.allclose(found[0]["1.log_scale"], torch.tensor(0.5).log())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)
