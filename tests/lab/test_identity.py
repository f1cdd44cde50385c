"""What identifies a comparison of the user's own, and how the runs of two machines are put together."""

import re
from pathlib import Path
from typing import Any

import pytest

from gem_activations.cli import main
from gem_activations.errors import (
    StoreError,
)
from gem_activations.lab import Run, compare
from gem_activations.lab.store.comparison import load_comparison, merge, read_plan

from .own import SOURCE, WISH

pytestmark = pytest.mark.usefixtures("one_thread", "without_plots")


def test_other_options_or_metric_are_another_comparison(tmp_path: Path) -> None:
    def constant(run: Run, width: int = 3) -> dict[str, float]:
        return {"loss": float(width + run.seed), "other": 1.0}

    def again(**changes: Any) -> Any:
        return compare(constant, activations=["relu"], out=tmp_path, **{**WISH, **changes})

    again()
    with pytest.raises(StoreError, match=r"options\.width \(3 there, 5 now\)"):
        again(options={"width": 5})
    with pytest.raises(StoreError, match=r"metric \(loss there, other now\)"):
        again(metric="other")


def test_changed_source_is_refused_until_it_is_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, out = tmp_path / "changing.py", tmp_path / "out"
    place = f"{file}:train"
    file.write_text("def train(run):\n    return {'loss': 1.0 + run.seed}\n")
    compare(place, activations=["relu"], out=out, **WISH)
    plan = read_plan(out)
    assert plan is not None
    file.write_text("def train(run):\n    return {'loss': 2.0 + run.seed}\n")
    compare(place, activations=["relu"], out=out, **WISH)  # Nothing is left to run: the report alone is made.
    assert read_plan(out) == plan
    with pytest.raises(
        StoreError, match=r"have changed: changing\.py \(source .* then, source .* now\).*--allow-changed"
    ):
        compare(place, activations=["relu"], out=out, **{**WISH, "seeds": 3})
    found = compare(place, activations=["relu"], out=out, allow_changed=True, **{**WISH, "seeds": 3})
    assert caplog.messages[0].endswith("; its runs differ in them")
    (banner,) = found.report.banners
    assert re.search(r"different environments\. changing\.py: .* of the runs, \w{8} in . of the runs\.$", banner)
    sources = [environment["sources"] for environment in load_comparison(out).environments.values()]
    assert sources[0] == sources[1] != sources[2]


def test_report_of_own_activations_is_made_without_importing_them(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "gone.py"
    file.write_text(SOURCE)
    out = tmp_path / "out"
    compare(f"{file}:train", activations=["relu", f"{file}:Snake"], out=out, **WISH)
    file.unlink()
    assert main(["report", str(out)]) == 0
    assert "Snake" in capsys.readouterr().out


def test_runs_of_two_machines_are_merged(tmp_path: Path, capsys: Any) -> None:
    def constant(run: Run) -> dict[str, float]:
        return {"loss": 1.0 + run.seed + len(run.name)}

    for name, start in (("a", 0), ("b", 2)):
        compare(constant, activations=["relu", "gelu"], out=tmp_path / name, seed_start=start, **WISH)
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    assert "8 runs in" in capsys.readouterr().out
    merged = load_comparison(tmp_path / "c")
    assert [(run.activation, run.seed) for run in merged.results] == [
        (arm, seed) for seed in range(4) for arm in ("relu", "gelu")
    ]
    assert not merged.missing
    assert main(["report", str(tmp_path / "c")]) == 0
    with pytest.raises(StoreError, match="is not empty"):
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    compare(constant, activations=["relu"], out=tmp_path / "d", metric="loss", better="higher", seeds=1)
    with pytest.raises(StoreError, match=r"different experiments: better \(lower and higher\)"):
        merge(tmp_path / "a", tmp_path / "d", tmp_path / "e")
