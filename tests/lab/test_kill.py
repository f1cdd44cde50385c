"""A comparison killed at random moments: tools/kill_compare.py at a small size, and that it sees differences."""

import dataclasses
import importlib.util
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gem_activations.lab.store.comparison import load_comparison, read_result, run_folder, write_result
from gem_activations.lab.training.run import load_checkpoint, save_checkpoint

SCRIPT = Path(__file__).parents[2] / "tools" / "kill_compare.py"
KILLS = 4


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a script that has come to its end."""
    folder = tmp_path_factory.mktemp("killed")
    words = ["--kills", str(KILLS), "--activations", "rrelu", "--seeds", "2", "--epochs", "8"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *words], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"killed {KILLS} times over " in done.stdout
    assert done.stdout.rstrip().endswith("every bit is the same")
    return folder


def find_differences(*folders: Path) -> list[str]:
    spec = importlib.util.spec_from_file_location("kill_compare", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.differences(*folders))


def test_killed_comparison_has_every_run_once(killed: Path) -> None:
    comparison = load_comparison(killed / "killed-1")
    assert [(run.activation, run.seed, run.status) for run in comparison.results] == [
        ("rrelu", 0, "finished"),
        ("rrelu", 1, "finished"),
    ]
    assert len(list((killed / "killed-1").glob("runs/*/*/result.json"))) == 2


def change_result(run: Path) -> None:
    result = read_result(run.parents[2], "rrelu", 1)
    assert result is not None
    loss = result.figures["test_loss"]
    assert loss is not None
    changed = {**result.figures, "test_loss": math.nextafter(loss, 1)}
    write_result(run.parents[2], dataclasses.replace(result, figures=changed))


def change_epoch(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last: dict[str, Any] = json.loads(lines[-1])
    last["train_loss"] = math.nextafter(last["train_loss"], 1)
    (run / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")


def change_depth(run: Path) -> None:
    (run / "depth.json").unlink()


def change_weight(run: Path) -> None:
    state = load_checkpoint(run / "checkpoint.pt", torch.device("cpu"))
    assert state is not None
    weight = next(iter(state["states"]["trainer"]["model"].values()))
    weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
    save_checkpoint(run / "checkpoint.pt", state)


def lose_result(run: Path) -> None:
    (run / "result.json").unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_result, ["the results"]),
        (change_epoch, ["the epochs"]),
        (change_depth, ["by depth"]),
        (change_weight, ["checkpoints"]),
        (lose_result, ["without a result"]),
    ],
)
def test_last_bit_of_anything_is_seen(
    killed: Path, tmp_path: Path, change: Callable[[Path], None], words: list[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(killed / "whole", other)
    assert find_differences(killed / "whole", other) == []
    change(run_folder(other, "rrelu", 1))
    found = find_differences(killed / "whole", other)
    assert [any(word in line for line in found) for word in words] == [True]
