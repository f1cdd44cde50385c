"""DistributedDataParallel on two gloo processes: the weights and gradients of one process on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from ..tolerances import SAME_MATHEMATICS
from . import ddp_worker


def test_two_processes_train_as_one(tmp_path):
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("ddp_worker.py"))]
    processes = [
        subprocess.Popen(
            [*command, str(rank), "2", str(tmp_path / "rendezvous"), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs

    model = ddp_worker.make_model()
    ddp_worker.train(model, ddp_worker.make_batch())
    for rank in range(2):
        got = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(got["gradients"][name], parameter.grad, **SAME_MATHEMATICS)
            torch.testing.assert_close(got["weights"][name], parameter.detach(), **SAME_MATHEMATICS)
