"""What a comparison stores, and how it is written and read. A report needs nothing but this module.

An output folder holds `comparison.json` (the identity of the comparison and its plan), `looks.json` if seeds are added
until the arms are decided, and one folder a run:
`runs/<activation>/seed-000/` with `config.json`, `env.json`, `metrics.jsonl`, `checkpoint.pt`, `depth.json`,
`result.json`, and for a member of the family `scale.json`: what `check_scale` says before the first step. `result.json`
is written last: a run without it is not finished. Every file appears by atomic rename, but for `metrics.jsonl`, to
which a run appends one line after each epoch.
"""

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ... import files
from ...errors import StoreError
from ..recipes.registry import read_recipe
from .records import FAILED, FINISHED, INFRASTRUCTURE, Comparison, Depth, EpochRow, Look, Plan, RunKey, RunResult

DEPTH = "depth.json"
SCALE = "scale.json"
LOOKS = "looks.json"
_FORMAT = 2

_Record = TypeVar("_Record")


def run_folder(folder: Path, activation: str, seed: int) -> Path:
    """Return the folder of a run.

    Example:
        >>> run_folder(Path("out"), "segem(eps=1e-4, leak=0.01)", 7).as_posix()
        'out/runs/segem_eps=1e-4_leak=0.01/seed-007'
    """
    slug = activation.replace(", ", "_").replace("(", "_").replace(")", "").replace("/", "over")
    return folder / "runs" / slug / f"seed-{seed:03d}"


def load_comparison(folder: Path) -> Comparison:
    """Read a comparison from its output folder, each file once.

    Args:
        folder: An output folder of `gem-act compare`, finished or not.
    Raises: StoreError: the folder holds no comparison, or a file in it is damaged.
    """
    plan = read_plan(folder)
    if plan is None:
        raise StoreError(
            f"{folder} holds no comparison: comparison.json is missing; give the --out folder of a comparison"
        )
    looks = read_looks(folder)  # Before the results, which another process may add to.
    left = {activation: look.seeds for look in looks for activation in look.left}
    results: list[RunResult] = []
    curves: dict[RunKey, tuple[EpochRow, ...]] = {}
    missing: list[RunKey] = []
    depths: dict[RunKey, Depth] = {}
    environments: dict[RunKey, dict[str, Any]] = {}
    newest, environment = 0, dict[str, Any]()
    for key in plan.runs():
        result = read_result(folder, *key)
        if result is None:
            activation, seed = key
            if seed in plan.seeds[: left.get(activation)]:
                missing.append(key)
            continue
        results.append(result)
        run = run_folder(folder, *key)
        curves[key] = _read_metrics(run / "metrics.jsonl", result)
        depth = read_json(run / DEPTH, Depth) if result.status == FINISHED else None
        if depth is not None:
            depths[key] = depth
        environments[key] = read_json(run / "env.json", dict[str, Any]) or {}
        written = (run / "result.json").stat().st_mtime_ns
        if written > newest:
            newest, environment = written, environments[key]
    return Comparison(
        folder=folder,
        recipe=plan.recipe,
        activations=plan.activations,
        baseline=plan.baseline,
        seeds=len(plan.seeds),
        results=tuple(results),
        curves=curves,
        environment=environment,
        missing=tuple(missing),
        depths=depths,
        environments=environments,
        max_seeds=plan.max_seeds,
        extended=plan.extended,
        looks=looks,
    )


def read_plan(folder: Path) -> Plan | None:
    """Read `comparison.json`; None if there is none.

    Raises: StoreError: the file is damaged, or of another format.
    """
    return read_format(folder / "comparison.json", Plan, _FORMAT)


def write_plan(folder: Path, plan: Plan) -> None:
    """Write `comparison.json`."""
    write_json(folder / "comparison.json", {"format": _FORMAT, **msgspec.to_builtins(plan)})


def read_looks(folder: Path) -> tuple[Look, ...]:
    """Read `looks.json`; nothing if there is none.

    Raises: StoreError: the file is damaged.
    """
    return read_json(folder / LOOKS, tuple[Look, ...]) or ()


def read_result(folder: Path, activation: str, seed: int) -> RunResult | None:
    """Read the result of a run; None if the run has not ended.

    Raises: StoreError: the file is damaged, or belongs to another run.
    """
    path = run_folder(folder, activation, seed) / "result.json"
    result = read_json(path, RunResult)
    if result is None:
        return None
    known = result.status in (FINISHED, FAILED, INFRASTRUCTURE)
    if (result.activation, result.seed) != (activation, seed) or not known:
        raise StoreError(_damage(path, "it belongs to another run"))
    return result


def write_result(folder: Path, result: RunResult) -> None:
    """Write the result of a run, which ends it."""
    write_json(run_folder(folder, result.activation, result.seed) / "result.json", result)


def append_metrics(path: Path, row: EpochRow, *, sync: bool = True) -> None:
    """Append a finished epoch to a run's `metrics.jsonl`, as one line; `sync` as for `write_atomically`.

    Raises: StoreError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")
            if sync:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(_unwritable(path, error)) from error


def cut_metrics(path: Path, epochs: int) -> list[EpochRow] | None:
    """Keep the first epochs of a run's `metrics.jsonl` and drop the rest, such as the line a killed process broke off.

    Returns: The epochs that are kept; None if the file does not hold so many, and is left as it is.
    Raises: StoreError: the file cannot be written.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError:
        lines = []
    try:
        rows = [msgspec.json.decode(line, type=EpochRow) for line in lines[:epochs]]
    except msgspec.DecodeError:
        return None
    if len(rows) < epochs:
        return None
    if len(lines) > epochs:
        write_atomically(path, b"".join(lines[:epochs]))
    return rows


def write_json(path: Path, values: object) -> None:
    """Write a record or plain values as indented JSON, atomically; a number that is not finite is written as null."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(values), indent=2) + b"\n")


def write_atomically(
    path: Path, content: bytes | memoryview, *, sync: bool = True, over: Path | None = None, keep: Path | None = None
) -> None:
    """Make a file appear with its whole content or not at all; missing folders are made.

    The caller holds the lock of what it writes: what a killed process has left of the same file is removed. Without
    `sync` a power cut in the next seconds may damage the file.

    Raises: StoreError: the file cannot be written.
    """
    try:
        files.write_atomically(path, content, sync=sync, over=over, keep=keep)
        files.remove_leftovers(path)
    except OSError as error:
        raise StoreError(_unwritable(path, error)) from error


def read_json(path: Path, kind: type[_Record]) -> _Record | None:
    """Read a JSON file as a record of a kind; None if there is no such file.

    Raises: StoreError: the file cannot be read, or is no such record.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(_damage(path, str(error))) from error


def read_format(path: Path, kind: type[_Record], number: int) -> _Record | None:
    """Read a JSON file that names its format as a record of a kind; None if there is no such file.

    Raises: StoreError: the file is of another format, cannot be read, or is no such record.
    """
    found = read_json(path, dict[str, Any])
    if found is None:
        return None
    if found and found.pop("format", None) != number:
        raise StoreError(f"{path} is not in format {number} of this version; use the version that wrote it")
    try:
        # The one kind of value that `msgspec` does not know is a stored recipe.
        return msgspec.convert(found, kind, dec_hook=lambda _, values: read_recipe(values))
    except msgspec.ValidationError as error:
        raise StoreError(_damage(path, str(error))) from error


def _read_metrics(path: Path, result: RunResult) -> tuple[EpochRow, ...]:
    try:
        lines = path.read_bytes().splitlines() if result.epochs else []
        metrics = tuple(msgspec.json.decode(line, type=EpochRow) for line in lines)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(_damage(path, f"it cannot be read ({error})")) from error
    if [row.get("epoch") for row in metrics] != list(range(1, result.epochs + 1)):
        raise StoreError(_damage(path, f"it does not hold the epochs 1 to {result.epochs}"))
    return metrics


def _damage(path: Path, reason: str) -> str:
    remedies = {"comparison.json": "use another --out folder", "rates.json": "run gem-act tune again"}
    remedy = remedies.get(path.name, f"delete {path.parent} and run the same command again")
    return f"{path} is damaged: {reason}; {remedy}"


def _unwritable(path: Path, error: OSError) -> str:
    return f"cannot write {path}: {error.strerror or error}; choose an --out folder that can be written"
