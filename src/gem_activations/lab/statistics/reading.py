"""From results to an analysis: those of a comparison of the lab, and those of any table with one row a run.

Results that are kept, as in a repository, are the plan and the report of a comparison, not its checkpoints:
`comparison.json`, `results.parquet`, and if they are there `epochs.parquet`, `depth.parquet`, `environment.json`. A
report made from them has the same figures.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from ...errors import DataError, SettingError, StoreError
from ..recipes.pipeline import OwnRecipe
from ..store.comparison import (
    CORE,
    FAILED,
    FINISHED,
    INFRASTRUCTURE,
    Comparison,
    Depth,
    EpochRow,
    Look,
    RunKey,
    RunResult,
    load_comparison,
    read_json,
)
from .analysis import Analysis, Run, analyse_runs
from .metrics import ACCURACY, Criterion, Metric, criterion_of, measures_beside, own_criterion
from .sequential import make_schedule, replay
from .tables import DEPTH_PARTS


def analyse_comparison(comparison: Comparison, baseline: str | None = None, target: float | None = None) -> Analysis:
    """Analyse a comparison of the lab, finished or not.

    Args:
        baseline: Another baseline than its own.
        target: Value of the metric, as a report shows it, to which epochs or steps are counted; None for the
            mean at which the baseline's runs end.
    Raises: StoreError: the recipe names a metric or margin that is none; SettingError: no such arm.
    """
    baseline = baseline or comparison.baseline
    if baseline not in comparison.activations:
        raise SettingError(f"the baseline {baseline!r} is not among {', '.join(comparison.activations)}")
    criterion = _criterion(comparison)
    reached = _steps_to_target(comparison, criterion.metric, baseline, target)
    if comparison.max_seeds is not None and baseline == comparison.baseline:
        return look_again(comparison, reached)[0]
    runs = comparison_runs(comparison, criterion.metric, reached)
    return analyse_runs(runs, criterion, baseline, comparison.activations)


def look_again(
    comparison: Comparison, beside: Mapping[RunKey, Mapping[str, float]] | None = None
) -> tuple[Analysis, tuple[Look, ...], tuple[str, ...]]:
    """Repeat the looks of a comparison that adds seeds until its arms are decided; see `sequential.replay`."""
    criterion, schedule = _criterion(comparison), make_schedule(comparison.max_seeds or comparison.seeds)
    runs = comparison_runs(comparison, criterion.metric, beside)
    return replay(runs, criterion, comparison.baseline, comparison.activations, schedule)


def _criterion(comparison: Comparison) -> Criterion:
    figures = (run.figures.get(comparison.recipe.metric) for run in comparison.results)
    values = [value for value in figures if value is not None]
    return criterion_of(comparison.recipe, values)


def _steps_to_target(
    comparison: Comparison, metric: Metric, baseline: str, target: float | None
) -> dict[RunKey, dict[str, float]]:
    """Return of each finished run that reaches the target how many steps, or epochs, that took, under a heading.

    The runs of a recipe are followed by their validation metric, a user's by the metric if that was logged each epoch.
    """
    logged = {name for curve in comparison.curves.values() for row in curve for name in row}
    own = isinstance(comparison.recipe, OwnRecipe)
    usual = "validation_accuracy" if metric is ACCURACY else "validation_loss"
    names = (metric.name, f"validation_{metric.name}") if own else (usual,)
    field = next((name for name in names if name in logged), None)
    if field is None:
        return {}
    counted = "steps" if "steps" in logged else "epoch"
    curves: dict[RunKey, list[tuple[float, float]]] = {}
    for key in ((run.activation, run.seed) for run in comparison.results if run.status == FINISHED):
        pairs = ((row.get(counted), row.get(field)) for row in comparison.curves.get(key, ()))
        curves[key] = [(place, value) for place, value in pairs if place is not None and value is not None]
    ends = [curve[-1][1] for (arm, _), curve in curves.items() if curve and arm == baseline]
    if target is None and not ends:
        return {}
    goal = sum(ends) / len(ends) if target is None else target / metric.scale
    shown = f"{metric.scale * goal:.{metric.decimals}f}{' %' if metric.scale == 100 else ''}"
    heading = f"{counted.removesuffix('s')}s to {field.replace('_', ' ')} {shown}"
    reached = {
        key: next((place for place, value in curve if metric.sign * (value - goal) >= 0), None)
        for key, curve in curves.items()
    }
    return {key: {heading: float(place)} for key, place in reached.items() if place is not None}


def comparison_runs(
    comparison: Comparison, metric: Metric, beside: Mapping[RunKey, Mapping[str, float]] | None = None
) -> list[Run]:
    """List the runs of a comparison with a metric, planned ones without a result among them.

    Further figures of a run by name come from `beside`.
    """
    own = isinstance(comparison.recipe, OwnRecipe)
    runs = [Run(arm, seed, "missing", None) for arm, seed in comparison.missing]
    for result in comparison.results:
        value = metric.of(result.figures) if result.status == FINISHED else None
        status, reason = result.status, result.reason
        if status == FINISHED and value is None:
            status, reason = FAILED, f"the {metric.title} is not finite"
        found = {measure.name: measure.of(result.figures) for measure in measures_beside(metric)}
        if own:
            found = {name: figure for name, figure in result.figures.items() if name != metric.field}
        figures = {name: figure for name, figure in found.items() if figure is not None}
        figures |= (beside or {}).get((result.activation, result.seed), {})
        runs.append(Run(result.activation, result.seed, status, value, reason, figures))
    return runs


def analyse(
    table: object,
    *,
    arm: str = "activation",
    seed: str = "seed",
    metric: str = "accuracy",
    better: Literal["higher", "lower"] | None = None,
    baseline: str | None = None,
    margin: float = 0.0,
    unit: str | None = None,
    chance: float | None = None,
    status: str = "status",
) -> Analysis:
    """Analyse results that were made elsewhere, with the lab's own statistics.

    Args:
        table: A CSV or Parquet file, a polars or pandas frame, or a list of dicts: one row a run.
        arm: Column of what is compared.
        seed: Column of the seed; runs of one seed are paired.
        metric: Column of the metric; an empty, NaN or infinite value is a failed run.
        better: Whether a "higher" or a "lower" value is better; None if the metric's name says so, as loss does.
        baseline: Arm that the others are compared with; None for gelu, or the first arm if gelu is not among them.
        margin: Differences below it are too small to matter, in the metric's unit; 0 for no test of equivalence.
        unit: Unit of the metric, such as "%"; an accuracy without one must be a fraction.
        chance: Value of the metric by guessing; runs that are no better are counted.
        status: Column with "finished", "failed" or "infrastructure" (left out), if the table has one.
    Returns: The analysis: `verdicts`, `arms`, `sentences`.
    Raises: DataError: a column is missing, the metric holds text, an arm has two rows of one seed, the table is empty
        or cannot be read; SettingError: an argument is wrong.
    Example:
        >>> rows = [{"activation": name, "seed": seed, "loss": loss + 0.002 * (seed * (place + 2) % 5)}
        ...         for place, (name, loss) in enumerate([("gelu", 1.0), ("relu", 1.1), ("gem", 1.0)])
        ...         for seed in range(4)]
        >>> found = analyse(rows, metric="loss", margin=0.02)
        >>> {name: str(verdict) for name, verdict in found.verdicts.items()}
        {'relu': 'shown worse', 'gem': 'equivalent within the margin'}
    """
    given: dict[str, Any] = {"better": better, "baseline": baseline, "margin": margin, "unit": unit, "chance": chance}
    return analyse_comparison(read_table(table, Path(), arm=arm, seed=seed, metric=metric, status=status, **given))


def read_table(
    table: object,
    folder: Path,
    *,
    arm: str,
    seed: str,
    metric: str,
    better: str | None,
    baseline: str | None,
    margin: float,
    unit: str | None,
    chance: float | None,
    status: str = "status",
) -> Comparison:
    """Read a table as a comparison, with everything checked; the arguments are those of `analyse`.

    A report of it is to be written to the folder.
    """
    name, frame = _read(table)
    absent = [column for column in (arm, seed, metric) if column not in frame.columns]
    if absent:
        raise DataError(f"{name} has no column {absent[0]!r}; its columns are {', '.join(frame.columns)}")
    if frame.is_empty():
        raise DataError(f"{name} has no rows; expected one row a run")
    values = _numbers(name, frame[metric])
    arms, seeds = _labels(name, frame[arm]), _labels(name, frame[seed])
    # Seeds are numbered by themselves if they are whole numbers, else in the order in which they come.
    whole = all(seed.lstrip("-").isdigit() for seed in seeds)
    numbers = {seed: int(seed) if whole else place for place, seed in enumerate(dict.fromkeys(seeds))}
    lines: dict[tuple[str, str], int] = {}
    for line, key in enumerate(zip(arms, seeds, strict=True), start=1):
        if lines.setdefault(key, line) != line:
            both = f"rows {lines[key]} and {line}"
            raise DataError(f"{name} has two rows of {arm} {key[0]}, {seed} {key[1]} ({both}); expected one a run")
    states = [str(value) for value in frame[status]] if status in frame.columns else [FINISHED] * len(arms)
    order = list(dict.fromkeys(arms))
    first = baseline or ("gelu" if "gelu" in order else order[0])
    if first not in order:
        raise SettingError(f"the baseline {first!r} is not among the arms; they are {', '.join(order)}")
    if len(order) < 2:
        raise DataError(f"{name} has the one arm {order[0]} in column {arm!r}; a comparison needs two")
    if not 0 <= margin < math.inf:
        raise SettingError(f"the margin is {margin}; expected a positive number, or 0 for no test of equivalence")
    finite = [value for value in values if value is not None]
    direction = own_criterion(metric, better, margin, unit, chance, finite).metric.direction
    recipe = OwnRecipe(name, f"{metric}, from {name}", metric, direction, margin, unit, chance)
    results: list[RunResult] = []
    for one, key, state, value in zip(arms, seeds, states, values, strict=True):
        outcome = (INFRASTRUCTURE, INFRASTRUCTURE) if state == INFRASTRUCTURE else (FINISHED, "")
        if state == FAILED or (value is None and state != INFRASTRUCTURE):
            outcome = FAILED, "no reason given" if state == FAILED else "no finite value of the metric"
        results.append(RunResult(one, numbers[key], *outcome, figures={metric: value}))
    return Comparison(
        folder=folder,
        recipe=recipe,
        activations=tuple(order),
        baseline=first,
        seeds=len(numbers),
        results=tuple(results),
    )


def _read(table: object) -> tuple[str, pl.DataFrame]:
    if isinstance(table, str | os.PathLike):
        path = Path(table)
        read = {".csv": lambda: pl.read_csv(path, infer_schema_length=None), ".parquet": lambda: pl.read_parquet(path)}
        if path.suffix.lower() not in read:
            raise SettingError(f"{path} is no table: expected a file ending in .csv or .parquet")
        try:
            return str(path), read[path.suffix.lower()]()
        except FileNotFoundError as error:
            raise DataError(f"there is no file {path}") from error
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path} cannot be read as a table: {' '.join(str(error).split())[:200]}") from error
    if isinstance(table, pl.DataFrame):
        return "the table", table
    columns: Any = getattr(table, "columns", None)
    try:
        if columns is not None:  # A frame of pandas, or what looks like one.
            frame: Any = table
            return "the table", pl.DataFrame({str(column): list(frame[column]) for column in columns}, strict=False)
        if isinstance(table, Sequence) and all(isinstance(row, Mapping) for row in table):
            return "the table", pl.DataFrame(list(table), infer_schema_length=None, strict=False)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the table cannot be read: {error}") from error
    kind = type(table).__name__
    raise SettingError(f"a {kind} is no table; give a path, a frame of polars or pandas, or a list of dicts")


def _numbers(name: str, column: pl.Series) -> list[float | None]:
    numbers: list[float | None] = []
    for line, value in enumerate(column, start=1):
        try:
            number = None if value is None or value == "" else float(value)
        except (TypeError, ValueError) as error:
            raise DataError(f"{name} has {value!r} in column {column.name!r}, row {line}; expected a number") from error
        numbers.append(number if number is not None and math.isfinite(number) else None)
    return numbers


def _labels(name: str, column: pl.Series) -> list[str]:
    for line, value in enumerate(column, start=1):
        if value is None or value == "":
            raise DataError(f"{name} has nothing in column {column.name!r}, row {line}")
    return [str(int(value)) if isinstance(value, float) and value.is_integer() else str(value) for value in column]


RESULTS, EPOCHS, DEPTH, ENVIRONMENT = "results.parquet", "epochs.parquet", "depth.parquet", "environment.json"
_OF_LAYER = ("layer", "start", "end")


def read_comparison(folder: Path) -> Comparison:
    """Read a comparison from its runs, or from the tables of its report if the folder holds none of them.

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
