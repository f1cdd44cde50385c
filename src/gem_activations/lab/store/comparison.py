"""What a comparison stores, and how it is written and read. A report needs nothing but this module.

An output folder holds `comparison.json` (the identity of the comparison and its plan) and one folder a run:
`runs/<activation>/seed-000/` with `config.json`, `env.json`, `metrics.jsonl`, `checkpoint.pt`, `depth.json` and
`result.json`. `result.json` is written last: a run without it is not finished. Every file appears by atomic rename.

The format grows by fields with a default: a file of an older version lacks them, and reads as if it gave the default.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from ... import files
from ...errors import StoreError
from .records import FAILED, FINISHED, Comparison, Depth, EpochMetrics, Plan, RunResult

_FORMAT = 1

_Record = TypeVar("_Record", RunResult, EpochMetrics, Plan, Depth)


def run_folder(folder: Path, activation: str, seed: int) -> Path:
    """Name the folder of a run.

    Example:
        >>> run_folder(Path("out"), "segem(eps=1e-4, leak=0.01)", 7).as_posix()
        'out/runs/segem_eps=1e-4_leak=0.01/seed-007'
    """
    slug = activation.replace(", ", "_").replace("(", "_").replace(")", "").replace("/", "over")
    return folder / "runs" / slug / f"seed-{seed:03d}"


def load_comparison(folder: Path) -> Comparison:
    """Read a comparison from its output folder.

    Args:
        folder: An output folder of `gem-act compare`, finished or not.
    Raises: StoreError: the folder holds no comparison, or a file in it is damaged.
    """
    plan = read_plan(folder)
    if plan is None:
        raise StoreError(
            f"{folder} holds no comparison: comparison.json is missing; give the --out folder of a comparison"
        )
    results: list[RunResult] = []
    curves: dict[tuple[str, int], tuple[EpochMetrics, ...]] = {}
    missing: list[tuple[str, int]] = []
    depths: dict[tuple[str, int], Depth] = {}
    for activation, seed in plan.runs():
        result = read_result(folder, activation, seed)
        if result is None:
            missing.append((activation, seed))
            continue
        results.append(result)
        run = run_folder(folder, activation, seed)
        curves[activation, seed] = _read_metrics(run / "metrics.jsonl", result)
        depth = _read_json(run / "depth.json") if result.status == FINISHED else None
        if depth is not None:
            depths[activation, seed] = _decode(Depth, depth, run / "depth.json")
    return Comparison(
        folder=folder,
        recipe=plan.recipe,
        activations=plan.activations,
        baseline=plan.baseline,
        seeds=plan.seeds,
        results=tuple(results),
        curves=curves,
        environment=_newest_environment(folder, results),
        missing=tuple(missing),
        depths=depths,
    )


def read_plan(folder: Path) -> Plan | None:
    """Read `comparison.json`; None where there is none.

    Raises: StoreError: the file is damaged, or of another format.
    """
    path = folder / "comparison.json"
    values = _read_json(path)
    if values is None:
        return None
    if values.pop("format", None) != _FORMAT:
        raise StoreError(f"{path} is not in format {_FORMAT} of this version; use the version that wrote it")
    return _decode(Plan, values, path)


def write_plan(folder: Path, plan: Plan) -> None:
    """Write `comparison.json`."""
    write_json(folder / "comparison.json", {"format": _FORMAT, **dataclasses.asdict(plan)})


def read_result(folder: Path, activation: str, seed: int) -> RunResult | None:
    """Read the result of a run; None where the run has not ended.

    Raises: StoreError: the file is damaged, or belongs to another run.
    """
    path = run_folder(folder, activation, seed) / "result.json"
    values = _read_json(path)
    if values is None:
        return None
    result = _decode(RunResult, values, path)
    if (result.activation, result.seed) != (activation, seed) or result.status not in (FINISHED, FAILED):
        raise StoreError(_damage(path, "it belongs to another run"))
    return result


def write_result(folder: Path, result: RunResult) -> None:
    """Write the result of a run, which ends it."""
    write_json(run_folder(folder, result.activation, result.seed) / "result.json", dataclasses.asdict(result))


def write_metrics(folder: Path, activation: str, seed: int, metrics: list[EpochMetrics]) -> None:
    """Write the finished epochs of a run, one JSON object a line."""
    lines = [json.dumps(dataclasses.asdict(epoch), allow_nan=False) + "\n" for epoch in metrics]
    write_atomically(run_folder(folder, activation, seed) / "metrics.jsonl", "".join(lines).encode())


def write_depth(folder: Path, activation: str, seed: int, depth: Depth) -> None:
    """Write what was measured by depth in a run; before its result."""
    write_json(run_folder(folder, activation, seed) / "depth.json", dataclasses.asdict(depth))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as indented JSON, atomically."""
    write_atomically(path, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Make a file appear with its whole content or not at all; missing folders are made.

    The caller holds the lock of what it writes: what a killed process has left of the same file is removed.

    Raises: StoreError: the file cannot be written.
    """
    try:
        files.write_atomically(path, content)
        files.remove_leftovers(path)
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"cannot write {path}: {reason}; choose an --out folder that can be written") from error


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise StoreError(_damage(path, "it is no JSON")) from error
    if not isinstance(values, dict):
        raise StoreError(_damage(path, "it is no JSON object"))
    return values


def _read_metrics(path: Path, result: RunResult) -> tuple[EpochMetrics, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if result.epochs else []
        metrics = tuple(_decode(EpochMetrics, json.loads(line), path) for line in lines)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, StoreError) else StoreError(_damage(path, "it cannot be read")) from error
    if [epoch.epoch for epoch in metrics] != list(range(1, result.epochs + 1)):
        raise StoreError(_damage(path, f"it does not hold the epochs 1 to {result.epochs}"))
    return metrics


def _decode(kind: type[_Record], values: object, path: Path) -> _Record:
    hints = get_type_hints(kind)
    needed = {one.name for one in dataclasses.fields(kind) if one.default is dataclasses.MISSING}
    if not isinstance(values, dict) or not needed <= set(values) <= set(hints):
        raise StoreError(_damage(path, "its fields are not those of this version"))
    read: dict[str, Any] = dict(values)
    for key in values:
        kinds = get_origin(hints[key]) or hints[key]
        if kinds is tuple and isinstance(read[key], list):
            read[key] = tuple(read[key])  # JSON has no tuples.
        if not isinstance(read[key], kinds if kinds in (dict, tuple) else hints[key]):
            raise StoreError(_damage(path, f"its field {key} is not as expected"))
    return kind(**read)


def _newest_environment(folder: Path, results: list[RunResult]) -> dict[str, Any]:
    folders = [run_folder(folder, result.activation, result.seed) for result in results]
    newest = max(folders, key=lambda run: (run / "result.json").stat().st_mtime_ns, default=None)
    return (_read_json(newest / "env.json") or {}) if newest else {}


def _damage(path: Path, reason: str) -> str:
    whole = path.name == "comparison.json"
    remedy = "use another --out folder" if whole else f"delete {path.parent} and run the same command again"
    return f"{path} is damaged: {reason}; {remedy}"
