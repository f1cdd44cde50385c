"""What a comparison stores, as frozen dataclasses, and how it is written and read. A report needs nothing else.

An output folder holds `comparison.json` (the identity of the comparison and its plan), `looks.json` if seeds are added
until the arms are decided, and one folder a run:
`runs/<activation>/seed-000/` with `config.json`, `env.json`, `metrics.jsonl`, `checkpoint.pt`, `depth.json`,
`result.json`, and for a member of the family `scale.json`: what `check_scale` says before the first step. `result.json`
is written last: a run without it is not finished. Every file appears by atomic rename, but for `metrics.jsonl`, to
which a run appends one line after each epoch.
"""

import dataclasses
import os
import shutil
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ... import files
from ...errors import StoreError
from ..recipes.pipeline import StoredRecipe, read_recipe

FINISHED, FAILED, INFRASTRUCTURE = "finished", "failed", "infrastructure"
CORE = ("activation", "seed", "status", "reason", "epochs", "seconds")
"""Columns of a table of runs that are not figures of the experiment."""

RunKey = tuple[str, int]
"""Name of the activation, and seed."""


@dataclass(frozen=True)
class RunResult:
    """The outcome of one run: one activation trained from one seed.

    Attributes:
        seed: Runs of equal seed share initial weights and data order across activations.
        status: "finished"; "failed", because of the experiment itself; or "infrastructure": a full disk, unreadable
            data or too little memory, which the same command tries again.
        reason: Why the run failed; empty for a finished one.
        seconds: Wall time of the run, in all processes that worked on it.
        figures: What the experiment returned, by name; None for a figure that is not finite. Those of the lab's own
            recipes are described in `training.trainer.Trainer.train`.
    """

    activation: str
    seed: int
    status: str
    reason: str = ""
    epochs: int = 0
    seconds: float = 0.0
    figures: dict[str, int | float | None] = field(default_factory=dict[str, "int | float | None"])

    def row(self) -> dict[str, Any]:
        """Return the row of this run in a table of runs: the core columns, and every figure under its own name."""
        return {
            "activation": self.activation,
            "seed": self.seed,
            "status": self.status,
            "reason": self.reason,
            **self.figures,
            "epochs": self.epochs,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Depth:
    """The content of `depth.json`: what a run looks like from its first layer to its last, in the order of running.

    Attributes:
        layers: Names of the layers with a weight matrix or kernel.
        start_gradients: Norm of the loss gradient of each layer's weights at the start of the run, on one batch.
        gradients: The same with the weights that the rule chose.
        activations, start_dead, dead: Names of the activation modules, and the share of dead units of each, 0 to 1,
            likewise.
    """

    layers: tuple[str, ...]
    start_gradients: tuple[float, ...]
    gradients: tuple[float, ...]
    activations: tuple[str, ...]
    start_dead: tuple[float, ...]
    dead: tuple[float, ...]


EpochRow = dict[str, int | float | None]
"""One line of `metrics.jsonl`: "epoch", counted from 1, and what was logged of it by name; "seconds" is wall time."""


@dataclass(frozen=True)
class Look:
    """One look at the results of a comparison to which seeds are added until it is decided; `looks.json` lists them.

    Attributes:
        seeds: Seeds of each arm that was not decided before.
        level: Level of the tests of this look, all arms together.
        verdicts: What was said of each of these arms.
        left: Those that were decided; they get no more seeds.
    """

    seeds: int
    level: float
    verdicts: dict[str, str]
    left: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The content of `comparison.json`: what makes two comparisons the same, and the runs that are wanted.

    Attributes:
        recipe: The experiment, without activations, baseline and seeds: a recipe of the lab, or what identifies a
            user's own training function.
        device: Type of the device, such as "cpu".
        threads: CPU threads of torch; their number changes the last bits of a result.
        data: Checksum of each split of the data.
        activations, seeds: Names of the arms, in the order in which they were asked for; the seeds, ascending.
        versions: What the runs were made with: versions of torch and this package, and SHA-256 of the source files of
            the user's own code.
        max_seeds: Most seeds of the schedule by which seeds are added until the arms are decided; None without one.
        extended: Numbers of seeds that had results when more were added without a schedule.
    """

    recipe: StoredRecipe
    baseline: str
    device: str
    threads: int
    data: dict[str, str]
    activations: tuple[str, ...]
    seeds: tuple[int, ...]
    versions: dict[str, str] = field(default_factory=dict[str, str])
    max_seeds: int | None = None
    extended: tuple[int, ...] = ()

    def runs(self) -> list[RunKey]:
        """List the planned runs, seed by seed, so that an unfinished comparison is paired as far as it goes."""
        return [(activation, seed) for seed in self.seeds for activation in self.activations]


@dataclass(frozen=True)
class Comparison:
    """Everything a report needs, read from the output folder alone; what the plan has too is as in the plan.

    Attributes:
        seeds: Number of seeds of the plan.
        results: Results of the runs that ended, whatever their status, in the order of the plan.
        curves: (activation, seed) -> finished epochs, for the same runs.
        environment: env.json of the run that ended last: versions, hardware, git state, command. Empty without a run.
        environments: (activation, seed) -> env.json of each run that ended.
        missing: Planned runs without a result yet.
        depths: (activation, seed) -> what was measured by depth, for the finished runs that have it.
        looks: The looks so far, if seeds are added by a schedule.
    """

    folder: Path
    recipe: StoredRecipe
    activations: tuple[str, ...]
    baseline: str
    seeds: int
    results: tuple[RunResult, ...]
    curves: dict[RunKey, tuple[EpochRow, ...]] = field(default_factory=dict["RunKey", "tuple[EpochRow, ...]"])
    environment: dict[str, Any] = field(default_factory=dict[str, Any])
    missing: tuple[RunKey, ...] = ()
    depths: dict[RunKey, Depth] = field(default_factory=dict["RunKey", Depth])
    environments: dict[RunKey, dict[str, Any]] = field(default_factory=dict["RunKey", dict[str, Any]])
    max_seeds: int | None = None
    extended: tuple[int, ...] = ()
    looks: tuple[Look, ...] = ()


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
    """Read a comparison, finished or not, from its output folder, each file once.

    Raises: StoreError: the folder holds no comparison, or a file in it is damaged.
    """
    plan = _require_plan(folder)
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
    """Read `comparison.json`; None if there is none. Raises: StoreError: it is damaged, or of another format."""
    return read_format(folder / "comparison.json", Plan, _FORMAT)


def _require_plan(folder: Path) -> Plan:
    plan = read_plan(folder)
    if plan is None:
        what = f"{folder} holds no comparison: comparison.json is missing"
        raise StoreError(f"{what}; give the --out folder of a comparison")
    return plan


def write_plan(folder: Path, plan: Plan) -> None:
    """Write `comparison.json`."""
    write_json(folder / "comparison.json", {"format": _FORMAT, **msgspec.to_builtins(plan)})


def read_looks(folder: Path) -> tuple[Look, ...]:
    """Read `looks.json`; nothing if there is none. Raises: StoreError: the file is damaged."""
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
    """Append a finished epoch to a run's `metrics.jsonl`, as one line; `sync` as for `write_atomically`."""
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

    Return the epochs that are kept; None if the file does not hold so many, and is left as it is.
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


def to_plain(values: Any) -> dict[str, Any]:
    """Return a record or values as JSON gives them back: tuples become lists, and what JSON cannot hold its text."""
    # msgspec itself leaves out the defaults of a record that it has read from a file without them.
    plain = asdict(values) if is_dataclass(values) and not isinstance(values, type) else values
    return msgspec.json.decode(msgspec.json.encode(plain, enc_hook=str))


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return a recipe, or other nested values, as plain values with dotted names, one flat entry a setting.

    Example:
        >>> from gem_activations.lab.recipes.registry import make_recipe
        >>> flatten(make_recipe("digits"))["training.epochs"]
        20
    """
    flat: dict[str, Any] = {}
    for key, value in to_plain(values).items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


_VOLATILE = ("seconds", "step_seconds", "step_time_ratio", "peak_memory")


def merge(first: Path, second: Path, out: Path) -> int:
    """Copy every run of two comparisons into a new folder, with a plan that has the activations and seeds of both.

    The baseline is the first one's; both folders are left as they are. Return the number of runs that have ended.

    Raises: StoreError: a folder holds no comparison, the two differ in more than activations, seeds and versions, both
        have a run with other figures, or `out` holds something.
    """
    plans: list[Plan] = []
    ended: list[dict[RunKey, RunResult]] = []
    for folder in (first, second):
        plans.append(_require_plan(folder))
        ended.append({key: result for key in plans[-1].runs() if (result := read_result(folder, *key)) is not None})
    one, two = (flatten(plan.recipe) | {"device": plan.device} | plan.data for plan in plans)
    differing = [f"{key} ({one.get(key)} and {two.get(key)})" for key in {**one, **two} if one.get(key) != two.get(key)]
    if differing:
        raise StoreError(f"{first} and {second} are of different experiments: {', '.join(differing)}; merge equal ones")
    if any(plan.max_seeds is not None for plan in plans):
        raise StoreError("seeds that are added until the arms are decided belong to one folder; it cannot be merged")
    if out.exists() and any(out.iterdir()):
        raise StoreError(f"{out} is not empty; choose a new --out folder")
    for key in ended[0].keys() & ended[1].keys():
        rows = [results[key].row() for results in ended]
        figures = [{name: value for name, value in row.items() if name not in _VOLATILE} for row in rows]
        if figures[0] != figures[1] and all(row["status"] == FINISHED for row in rows):
            raise StoreError(
                f"{first} and {second} both have {key[0]}, seed {key[1]}, with other figures; leave one out"
            )
    runs = {key: folder for folder, results in zip((second, first), reversed(ended), strict=True) for key in results}
    for key, folder in runs.items():
        shutil.copytree(run_folder(folder, *key), run_folder(out, *key), ignore=shutil.ignore_patterns(".lock"))
    write_plan(
        out,
        dataclasses.replace(
            plans[0],
            activations=tuple(dict.fromkeys(plans[0].activations + plans[1].activations)),
            seeds=tuple(sorted({*plans[0].seeds, *plans[1].seeds})),
        ),
    )
    return len(runs)
