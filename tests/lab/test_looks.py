"""Seeds that are added until the activations are decided."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gem_activations.cli import main
from gem_activations.errors import (
    SettingError,
    StoreError,
)
from gem_activations.lab import Run, compare
from gem_activations.lab.store.comparison import load_comparison, merge, run_folder

from .own import rows

pytestmark = pytest.mark.usefixtures("one_thread", "without_plots")


STOP_AT = [(-1, "")]


def noisy(run: Run) -> dict[str, float]:
    """Score by a fixed law: relu and CELU are far apart at once, gem is like relu."""
    if (run.seed, run.name) in STOP_AT:
        raise KeyboardInterrupt
    shift = {"relu": 0.0, "gem": 0.0, "CELU": 9.0}[run.name]
    return {"loss": shift + float(np.random.default_rng([run.seed, *run.name.encode()]).standard_normal())}


UNTIL: dict[str, Any] = {
    "activations": ["relu", "gem", torch.nn.CELU],
    "metric": "loss",
    "better": "lower",
    "until_decided": True,
    "max_seeds": 8,
}


def test_decided_arms_leave_and_every_look_is_recorded(tmp_path: Path, capsys: Any) -> None:
    found = compare(noisy, out=tmp_path, **UNTIL)
    assert {arm: str(verdict) for arm, verdict in found.verdicts.items()} == {
        "gem": "not decided", "CELU": "shown worse",
    }  # fmt: skip
    looks = json.loads((tmp_path / "looks.json").read_text())
    assert [look["seeds"] for look in looks] == [3, 5, 8]
    assert [look["left"] for look in looks] == [["CELU"], [], []]
    assert sum(look["level"] for look in looks) == pytest.approx(0.05)
    counts = {arm: sum(row["activation"] == arm for row in rows(tmp_path)) for arm in ("relu", "gem", "CELU")}
    assert counts == {"relu": 8, "gem": 8, "CELU": 3}
    assert not load_comparison(tmp_path).missing, "an arm that left lacks no run"
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "[interval of its look]" in shown, "the heading is plain text, no markup"
    assert "Look at 3 seeds" in shown
    assert "CELU shown worse" in shown
    assert "up to 8 seeds" in (tmp_path / "report.html").read_text()
    assert main(["report", str(tmp_path), "--baseline", "gem"]) == 0
    assert "beside gem false verdicts may be more frequent" in capsys.readouterr().out


def test_comparison_ends_at_the_look_that_decides_all(tmp_path: Path) -> None:
    found = compare(noisy, out=tmp_path, **{**UNTIL, "activations": ["relu", torch.nn.CELU], "max_seeds": None})
    assert [look.left for look in found.report.comparison.looks] == [(), ("CELU",)]
    assert (found.report.comparison.max_seeds, found.table.height) == (40, 10)


@pytest.mark.parametrize("stop", [(1, "gem"), (3, "gem"), (6, "relu")])
def test_looks_go_on_after_an_interruption_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: tuple[int, str]
) -> None:
    whole = compare(noisy, out=tmp_path / "whole", **UNTIL)
    monkeypatch.setitem(globals(), "STOP_AT", [stop])
    with pytest.raises(KeyboardInterrupt):
        compare(noisy, out=tmp_path / "out", **UNTIL)
    monkeypatch.setitem(globals(), "STOP_AT", [(-1, "")])
    again = compare(noisy, out=tmp_path / "out", **UNTIL)
    assert (tmp_path / "out/looks.json").read_bytes() == (tmp_path / "whole/looks.json").read_bytes()
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert again.report.sentences == whole.report.sentences


def test_results_that_change_after_a_look_are_refused(tmp_path: Path) -> None:
    compare(noisy, out=tmp_path, **UNTIL)
    path = run_folder(tmp_path, "CELU", 1) / "result.json"
    path.write_text(path.read_text().replace('"loss": ', '"loss": -5'))
    with pytest.raises(StoreError, match="were changed after they were looked at"):
        compare(noisy, out=tmp_path, **UNTIL)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 5}, "--seeds 5: --until-decided adds seeds"),
        ({"max_seeds": 3}, "--max-seeds 3: give more than the 3 seeds"),
        ({"until_decided": False}, "--max-seeds 8 belongs to --until-decided"),
        ({"retry_failed": True}, "--retry-failed would change"),
        ({"activations": ["relu"]}, "give an activation to decide on"),
    ],
)
def test_wrong_wishes_for_looks_are_refused_before_anything_is_made(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingError, match=words):
        compare(noisy, out=tmp_path / "out", **{**UNTIL, **changes})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"until_decided": False, "max_seeds": None, "seeds": 9}, "max_seeds \\(8 there, None now"),
        ({"max_seeds": 40}, "max_seeds \\(8 there, 40 now"),
        ({"activations": ["relu", "gem"]}, "until relu, gem, CELU are decided; give the same"),
        ({"seed_start": 3}, "adds seeds from 0 on"),
    ],
)
def test_a_schedule_of_looks_is_kept(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    compare(noisy, out=tmp_path, **UNTIL)
    with pytest.raises(StoreError, match=words):
        compare(noisy, out=tmp_path, **{**UNTIL, **changes})
    with pytest.raises(StoreError, match="cannot be merged"):
        merge(tmp_path, tmp_path, tmp_path / "merged")


def test_seeds_that_were_added_without_a_schedule_are_named(tmp_path: Path) -> None:
    wish = {**UNTIL, "until_decided": False, "max_seeds": None}
    first = compare(noisy, out=tmp_path, **wish, seeds=3)
    assert "schedule" not in str(first)
    assert "Seeds were added when 3 seeds had results, without a schedule" in str(
        compare(noisy, out=tmp_path, **wish, seeds=5)
    )
    with pytest.raises(StoreError, match="max_seeds \\(None there, 8 now"):
        compare(noisy, out=tmp_path, **UNTIL)


def test_recipes_add_seeds_until_they_are_decided(tmp_path: Path, capsys: Any) -> None:
    known = ["compare", "digits", "--scale", "smoke", "--activations", "relu", "gelu", "--epochs", "1"]
    assert main([*known, "--until-decided", "--max-seeds", "4", "--out", str(tmp_path)]) == 0
    assert "Look at 3 seeds" in capsys.readouterr().out
    assert {len(list(folder.iterdir())) for folder in (tmp_path / "runs").iterdir()} <= {3, 4}
