"""Runs are exported to trackers; Weights & Biases (0.31.0) and MLflow (3.17.2) were run by hand, here by stand-ins."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import pytest

from gem_activations.errors import (
    MissingDependencyError,
)
from gem_activations.lab import compare
from gem_activations.lab.runs import tracking

from .own import WISH, logged, train

pytestmark = pytest.mark.usefixtures("one_thread", "without_plots")


def test_runs_are_exported_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    compare(train, activations=["relu"], out=tmp_path, track=["tensorboard"], **WISH)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "relu" / "seed-001"))
    events.Reload()
    losses = [event.value for event in events.Scalars("train_loss")]
    assert losses == pytest.approx([row["train_loss"] for row in logged(tmp_path, "relu", 1)])
    assert events.Scalars("result/loss")[0].value == pytest.approx(losses[-1])


class FakeTracker:
    """Notes what a run hands to it, in the place of wandb and mlflow."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.summary = self

    def __getattr__(self, name: str) -> Any:
        def note(*values: Any, **named: Any) -> Any:
            self.calls.append((name, values or named))
            return contextlib.nullcontext(self) if name in ("init", "start_run") else self

        return note


@pytest.mark.parametrize(("name", "log"), [("wandb", "log"), ("mlflow", "log_metrics")])
def test_runs_are_exported_to_other_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, log: str
) -> None:
    tracker = FakeTracker()
    monkeypatch.setitem(sys.modules, name, tracker)
    monkeypatch.setattr(tracking, "check_trackers", lambda _: None)
    monkeypatch.setattr("gem_activations.lab.runs.planning.check_trackers", lambda _: None)
    compare(train, activations=["relu"], out=tmp_path, track=[name], **WISH)
    rows = [values[0] for called, values in tracker.calls if called == log and "train_loss" in values[0]]
    assert [row["train_loss"] for row in rows[:4]] == [row["train_loss"] for row in logged(tmp_path, "relu", 0)]


def test_run_that_a_tracker_refuses_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").touch()  # No folder can be made there.
    result = compare(train, activations=["relu"], out=tmp_path, track=["tensorboard"], **WISH)
    assert set(result.table["status"]) == {"finished"}
    assert len(caplog.messages) == result.table.height
    assert "relu, seed 0 is kept, but not in tensorboard: " in caplog.messages[0]


def test_tracker_that_is_not_installed_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match="wandb is not installed; run: pip install --upgrade wandb"):
        compare(train, activations=["relu"], out=tmp_path / "out", track=["wandb"], **WISH)
    assert not (tmp_path / "out").exists()
