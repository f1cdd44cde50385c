"""Results without their runs: a comparison read back from the tables of its report.

Results that are kept, as in a repository, are the plan and the report of a comparison, not its checkpoints:
`comparison.json`, `results.parquet`, and if they are there `epochs.parquet`, `depth.parquet`, `environment.json`. A
report made from them has the same figures.
"""

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl

from ...errors import StoreError
from ..store.comparison import load_comparison, read_json
from ..store.records import CORE, Comparison, Depth, EpochRow, RunKey, RunResult
from .tables import DEPTH_PARTS

RESULTS, EPOCHS, DEPTH, ENVIRONMENT = "results.parquet", "epochs.parquet", "depth.parquet", "environment.json"


def read_comparison(folder: Path) -> Comparison:
    """Read a comparison from its runs, or from the tables of its report if the folder holds none of them.

    Args:
        folder: An output folder of `gem-act compare`, or one of kept results.
    Raises: StoreError: the folder holds no comparison, or a file in it is damaged.
    """
    comparison = load_comparison(folder)
    if comparison.results or not (folder / RESULTS).exists():
        return comparison
    results: list[RunResult] = []
    for row in _rows(folder / RESULTS):
        absent = [name for name in CORE if name not in row]
        if absent:
            raise StoreError(_damage(folder / RESULTS, f"it lacks {', '.join(absent)}"))
        core = {name: row.pop(name) for name in CORE}
        if (core["activation"], core["seed"]) in comparison.missing:  # What is left of the row are the figures.
            results.append(RunResult(**core, figures=row if any(row.values()) else {}))
    ended = dict.fromkeys((run.activation, run.seed) for run in results)  # In order: a report of it has the same bytes.
    return dataclasses.replace(
        comparison,
        results=tuple(results),
        missing=tuple(run for run in comparison.missing if run not in ended),
        curves={**dict.fromkeys(ended, ()), **_curves(folder / EPOCHS)},
        depths=_depths(folder / DEPTH),
        environment=read_json(folder / ENVIRONMENT, dict[str, Any]) or {},
    )


def _curves(path: Path) -> dict[RunKey, tuple[EpochRow, ...]]:
    curves: dict[RunKey, list[EpochRow]] = {}
    for row in _rows(path):
        run = row.pop("activation", None), row.pop("seed", None)
        if None in run or "epoch" not in row:
            raise StoreError(_damage(path, "its columns are not those of this version"))
        curves.setdefault(run, []).append(row)
    return {run: tuple(epochs) for run, epochs in curves.items()}


def _depths(path: Path) -> dict[RunKey, Depth]:
    rows = _rows(path)
    found: dict[RunKey, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        parts = found.setdefault((row["activation"], row["seed"]), {part: [] for part in DEPTH_PARTS})
        parts[row["part"]].append(row)
    columns = ("layer", "start", "end")
    return {
        run: Depth(*(tuple(row[column] for row in parts[part]) for part in DEPTH_PARTS for column in columns))
        for run, parts in found.items()
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return pl.read_parquet(path).to_dicts()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(_damage(path, "it cannot be read")) from error


def _damage(path: Path, reason: str) -> str:
    return f"{path} is damaged: {reason}; take the folder again from where it was kept"
