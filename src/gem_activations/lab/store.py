"""What a comparison stores, and how it is written and read. A report needs nothing but this module.

An output folder holds `comparison.json` (the identity of the comparison and its plan) and one folder a run:
`runs/<activation>/seed-000/` with `config.json`, `env.json`, `metrics.jsonl`, `checkpoint.pt` and `result.json`.
`result.json` is written last: a run without it is not finished. Every file appears by atomic rename.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from .. import files
from ..errors import StoreError

FINISHED, FAILED = "finished", "failed"
_FORMAT = 1

_Record = TypeVar("_Record", "RunResult", "EpochMetrics", "Plan")


@dataclass(frozen=True)
class RunResult:
    """The outcome of one run: one activation trained from one seed.

    Attributes:
        activation: Canonical string of `catalog.parse`.
        seed: Seed of the run; runs of equal seed share initial weights and data order across activations.
        status: "finished", or "failed" (then the accuracies and losses are None).
        reason: Why the run failed; empty for a finished one.
        test_accuracy: Fraction of the test set that is classified right, 0 to 1, of the weights the rule chose.
        test_loss: Mean cross-entropy on the test set, in nats, of the same weights.
        validation_accuracy: Of the epoch that the rule chose.
        validation_loss: Of the epoch that the rule chose.
        best_epoch: The epoch that the rule chose, counted from 1.
        epochs: Epochs that were finished.
        parameters: Number of trained scalars of the model.
        step_seconds: Seconds of one training step, the median over the run's epochs.
        step_time_ratio: Step time over that of the same model with ReLU, measured in this run.
        seconds: Wall time of the run, in all processes that worked on it.
    """

    activation: str
    seed: int
    status: str
    reason: str
    test_accuracy: float | None
    test_loss: float | None
    validation_accuracy: float | None
    validation_loss: float | None
    best_epoch: int | None
    epochs: int
    parameters: int
    step_seconds: float | None
    step_time_ratio: float | None
    seconds: float


@dataclass(frozen=True)
class EpochMetrics:
    """One line of `metrics.jsonl`: one finished epoch, counted from 1.

    Attributes:
        epoch: Number of the epoch.
        train_loss: Mean cross-entropy over the epoch's batches as they were trained on, in nats.
        train_accuracy: Fraction classified right over the same batches.
        validation_loss: Mean cross-entropy on the validation set after the epoch.
        validation_accuracy: Fraction of the validation set classified right after the epoch.
        learning_rate: Learning rate of the epoch's last step.
        seconds: Wall time of the epoch's training steps, validation aside.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The content of `comparison.json`: what makes two comparisons the same, and the runs that are wanted.

    Attributes:
        recipe: The recipe as nested plain values, without activations, baseline and seeds.
        baseline: Activation that the others are compared with; one of `activations`.
        device: Type of the device, such as "cpu".
        threads: CPU threads of torch; their number changes the last bits of a result.
        data: Checksum of each split of the data.
        activations: Canonical strings, in the order in which they were asked for.
        seeds: Number of seeds; the runs have the seeds 0 to seeds - 1.
    """

    recipe: dict[str, Any]
    baseline: str
    device: str
    threads: int
    data: dict[str, str]
    activations: tuple[str, ...]
    seeds: int

    def runs(self) -> list[tuple[str, int]]:
        """List the planned runs, seed by seed, so that an unfinished comparison is paired as far as it goes."""
        return [(activation, seed) for seed in range(self.seeds) for activation in self.activations]


@dataclass(frozen=True)
class Comparison:
    """Everything a report needs, read from the output folder alone.

    Attributes:
        folder: The output folder.
        recipe: The recipe as nested plain values.
        activations: Canonical strings, in the order in which they were asked for.
        baseline: One of `activations`.
        seeds: Number of seeds of the plan.
        results: Results of the runs that ended, finished and failed, in the order of the plan.
        curves: (activation, seed) -> finished epochs, for the same runs.
        environment: env.json of the run that ended last: versions, hardware, git state, command. Empty without a run.
        missing: Planned runs without a result yet.
    """

    folder: Path
    recipe: dict[str, Any]
    activations: tuple[str, ...]
    baseline: str
    seeds: int
    results: tuple[RunResult, ...]
    curves: dict[tuple[str, int], tuple[EpochMetrics, ...]]
    environment: dict[str, Any]
    missing: tuple[tuple[str, int], ...]


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
    for activation, seed in plan.runs():
        result = read_result(folder, activation, seed)
        if result is None:
            missing.append((activation, seed))
        else:
            results.append(result)
            curves[activation, seed] = _read_metrics(run_folder(folder, activation, seed) / "metrics.jsonl", result)
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
    if isinstance(values.get("activations"), list):
        values["activations"] = tuple(values["activations"])
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
    if not isinstance(values, dict) or set(values) != set(hints):
        raise StoreError(_damage(path, "its fields are not those of this version"))
    for key, hint in hints.items():
        if not isinstance(values[key], get_origin(hint) if get_origin(hint) in (dict, tuple) else hint):
            raise StoreError(_damage(path, f"its field {key} is not as expected"))
    return kind(**values)


def _newest_environment(folder: Path, results: list[RunResult]) -> dict[str, Any]:
    folders = [run_folder(folder, result.activation, result.seed) for result in results]
    newest = max(folders, key=lambda run: (run / "result.json").stat().st_mtime_ns, default=None)
    return (_read_json(newest / "env.json") or {}) if newest else {}


def _damage(path: Path, reason: str) -> str:
    whole = path.name == "comparison.json"
    remedy = "use another --out folder" if whole else f"delete {path.parent} and run the same command again"
    return f"{path} is damaged: {reason}; {remedy}"
