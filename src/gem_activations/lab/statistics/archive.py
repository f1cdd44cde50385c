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
_OF_LAYER = ("layer", "start", "end")


def read_comparison(folder: Path) -> Comparison:
    """Read a comparison from its runs, or from the tables of its report if the folder holds none of them.

    Args:
        folder: An output folder of `gem-act compare`, or one of kept results.
    Raises: StoreError: the folder holds no comparison, or a file in it is damaged.
    """
    comparison = load_comparison(folder)
    if comparison.results or not (folder / RESULTS).exists():
        return comparison
    planned, results = {*comparison.missing}, list[RunResult]()
    for row in _rows(folder / RESULTS, *CORE):
        core = {name: row.pop(name) for name in CORE}
        if (core["activation"], core["seed"]) in planned:  # What is left of the row are the figures.
            results.append(RunResult(**core, figures=row if any(row.values()) else {}))
    # In the order of the results, so that a report of them has the same bytes each time.
    curves: dict[RunKey, list[EpochRow]] = {(run.activation, run.seed): [] for run in results}
    missing = tuple(run for run in comparison.missing if run not in curves)
    for row in _rows(folder / EPOCHS, "activation", "seed", "epoch"):
        run = row.pop("activation"), row.pop("seed")
        curves.setdefault(run, []).append(row)
    parts: dict[RunKey, dict[str, list[dict[str, Any]]]] = {}
    for row in _rows(folder / DEPTH, "activation", "seed", "part", *_OF_LAYER):
        run = row["activation"], row["seed"]
        parts.setdefault(run, {part: [] for part in DEPTH_PARTS})[row["part"]].append(row)
    return dataclasses.replace(
        comparison,
        results=tuple(results),
        missing=missing,
        curves={run: tuple(epochs) for run, epochs in curves.items()},
        depths={
            run: Depth(*(tuple(row[column] for row in found[part]) for part in DEPTH_PARTS for column in _OF_LAYER))
            for run, found in parts.items()
        },
        environment=read_json(folder / ENVIRONMENT, dict[str, Any]) or {},
    )


def _rows(path: Path, *columns: str) -> list[dict[str, Any]]:
    """Return the rows of a table, none if there is no such file."""
    if not path.exists():
        return []
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(
            f"{path} is damaged: it cannot be read; take the folder again from where it was kept"
        ) from error
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise StoreError(f"{path} lacks the column {absent[0]!r}; take the folder again from where it was kept")
    return frame.to_dicts()
