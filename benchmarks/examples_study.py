"""Tune every arm of an example alike, then run fresh seeds on other tasks, and say what they show.

    OMP_NUM_THREADS=1 python benchmarks/examples_study.py run --studies sdf pinn forces --workers 13
    python benchmarks/examples_study.py run --studies graph tabular
    python benchmarks/examples_study.py judge
    python benchmarks/examples_study.py again --studies sdf --table after

`run` writes benchmarks/results/examples/STUDY/{tune,chosen,test}.csv. Each family of activations gets the same number
of settings (rate, and its own parameter if it has one) on the tasks for tuning, one seed each; the setting with the
least mean logarithm of the error goes into the test: fresh seeds on tasks, or examples, that tuning has not seen.
Seeds are added by the schedule of `gem-act compare --until-decided`, for each task by itself.
Rows that stand in a table are kept: `run` goes on where it was stopped, and a longer list of rates costs its new runs
alone. `judge` compares the logarithms of the errors with the baseline's by the lab's own procedure and prints the
tables of docs/examples. `again` makes the runs of one table anew, such as those that were made after the test had been
looked at (after.csv), and writes them to TABLE-again.csv.
"""

import argparse
import csv
import importlib.util
import json
import math
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "examples"
Setting = tuple[str, float]
Job = tuple[str, str, str, float, dict[str, Any], int, float]
"""Study, family, activation, rate, task, seed, and the time after which no run is begun."""
Row = dict[str, Any]
Runner = Callable[[list[Job]], Iterable[Row | None]]


def with_scale(family: str, n: int, scale: float) -> str:
    """Return the activation with a transition of width `scale`."""
    return f"{family}(n={n}, eps={scale ** (2 * n):.6g}{', leak=0.01' if family == 'segem' else ''})"


def settings(plain: list[str], rates: list[float], families: dict[str, list[str]], few: list[float]) -> dict[str, Any]:
    """Return family -> settings to try: one activation at many rates, or several activations at few."""
    single = {name: [(name, rate) for rate in rates] for name in plain}
    return {
        **single,
        **{family: [(name, rate) for name in names for rate in few] for family, names in families.items()},
    }


FIELD = settings(
    ["relu", "silu", "gelu", "gem", "gem(n=2)"],
    [3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2, 4e-2, 6e-2, 1e-1],
    {
        "softplus": [f"softplus(beta={beta})" for beta in (30, 100, 300, 1000)],
        "egem n=1": [with_scale("egem", 1, scale) for scale in (0.003, 0.01, 0.03, 0.1)],
        "egem n=2": [with_scale("egem", 2, scale) for scale in (0.01, 0.03, 0.1, 0.3)],
        "segem n=2": [with_scale("segem", 2, scale) for scale in (0.01, 0.03, 0.1, 0.3)],
        "calibrated": ["CalibratedNarrow", "Calibrated", "CalibratedSmooth", "CalibratedWide"],
    },
    [1e-3, 3e-3, 1e-2],
)
FIELD["siren"] = [(name, rate) for name in ("Sine10", "Sine") for rate in (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)]
HELD = {"scored": "validation"}


def physics(rates: list[float], few: list[float]) -> dict[str, list[Setting]]:
    """Return the arms of a study of derivatives: plain activations at many rates, families at few and two widths."""
    widths = {
        "softplus": ["softplus", "softplus(beta=10)"],
        "egem n=1": ["egem(eps=1e-4)", "egem(eps=1e-2)"],
        "egem n=2": [with_scale("egem", 2, 0.3), with_scale("egem", 2, 0.5)],
        "segem n=2": [with_scale("segem", 2, 0.5), with_scale("segem", 2, 1.0)],
        "calibrated": ["Calibrated", "CalibratedWide"],
    }
    return settings(["relu", "gelu", "silu", "tanh", "mish", "gem", "gem(n=2)"], rates, widths, few)


def everyday(usual: list[str], rates: list[float]) -> dict[str, list[Setting]]:
    """Return the arms of a study in which no derivative of the network is learnt, each at the same rates."""
    family = ["gem", "gem(n=2)", "egem(eps=1e-4)", "segem(eps=1e-4)"]
    return settings(["relu", "gelu", "silu", *usual, *family], rates, {}, [])


# Settings, metric, baseline, tasks for tuning, tasks of the test, seeds of the test at most.
STUDIES: dict[str, tuple[dict[str, list[Setting]], str, str, list[dict[str, Any]], list[dict[str, Any]], int]] = {
    "sdf": (
        FIELD,
        "distance_error",
        "softplus",
        [{"shape": "circles"}, {"shape": "rectangle"}],
        [{"shape": "star"}, {"shape": "gear"}, {"shape": "torus"}],
        30,
    ),
    "meshes": (  # Run by sdf_meshes.py, at the settings that "sdf" chose; judged here.
        {family: FIELD[family] for family in ("softplus", "egem n=1", "egem n=2", "segem n=2", "calibrated", "relu")},
        "distance_error",
        "softplus",
        [],
        [{"shape": "elephant"}, {"shape": "anchor"}],
        30,
    ),
    "pinn": (
        physics([5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2], [1e-3, 3e-3, 1e-2, 3e-2]),
        "relative_error",
        "tanh",
        [{"problem": "poisson"}, {"problem": "layer"}],
        [{"problem": "helmholtz"}],
        30,
    ),
    "forces": (
        physics([5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2], [1e-3, 3e-3, 1e-2, 3e-2]),
        "force_error",
        "silu",
        [{"scored": 20000}],
        [{}],
        30,
    ),
    "graph": (everyday(["elu", "Calibrated"], [3e-4, 1e-3, 3e-3, 1e-2, 3e-2]), "error", "relu", [HELD], [{}], 30),
    "tabular": (
        everyday(["selu", "Calibrated"], [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]),
        "relative_loss",
        "relu",
        [{"table": table, **HELD} for table in ("diabetes", "tumour")],  # Validation losses of wine reach 0.
        [{"table": table} for table in ("diabetes", "tumour", "wine")],
        30,
    ),
    "robust": (
        everyday(["softplus(beta=10)", "Calibrated"], [1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2]),
        "attacked_error",
        "relu",
        [HELD],
        [{}],
        18,
    ),
    "diffusion": (
        everyday(["mish", "Calibrated"], [1e-3, 2e-3, 5e-3, 1e-2, 2e-2]),
        "denoising_loss",
        "silu",
        [HELD],
        [{}],
        30,
    ),
    "llm": (everyday(["Calibrated"], [2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2]), "bits", "silu", [HELD], [{}], 30),
}
TUNING_SEED = 100
ALONG = {"normal_error_degrees": ("normals, degrees", ".1f"), "chamfer": ("Chamfer", ".4f")}
"""What is not tested but printed if all rows of a study have it: its heading and format."""


def load(name: str) -> ModuleType:
    """Return the module of an example, its folder on the path, as the lab imports it."""
    if str(ROOT / "examples") not in sys.path:
        sys.path.insert(0, str(ROOT / "examples"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_one(job: Job, prepare: Callable[[ModuleType], None] | None = None) -> Row | None:
    """Return the row of one run, None if the time is up; `prepare` may change the example's module before."""
    study, family, name, rate, task, seed, end = job
    if time.time() > end:
        return None
    import torch

    from gem_activations.torch import make_activation

    torch.set_num_threads(1)
    example, calibrated = load(study), load("calibrated")
    if prepare is not None:
        prepare(example)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    factory = getattr(example, name, None) or getattr(calibrated, name, None) or (lambda: make_activation(name))
    row = {
        "study": study,
        "task": json.dumps(task),
        "arm": family,
        "activation": name,
        "learning_rate": rate,
        "seed": seed,
    }
    begun = time.perf_counter()
    try:
        figures = example.train(SimpleNamespace(activation=factory, seed=seed), learning_rate=rate, **task)
    except ArithmeticError as error:
        figures = {"loss": math.nan, "reason": str(error)}
    finite = all(math.isfinite(value) for value in figures.values() if isinstance(value, float))
    kept = {key: value for key, value in figures.items() if not isinstance(value, float) or math.isfinite(value)}
    return {
        **row,
        "status": "finished" if finite else "failed",
        "seconds": round(time.perf_counter() - begun, 2),
        **kept,
    }


def run(workers: int, seconds: float, names: list[str]) -> None:
    """Tune, choose, test; each row is written as it comes, and rows that stand in the tables are kept."""
    end = time.time() + seconds
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        run_all = partial(pool.imap_unordered, run_one, chunksize=1)
        for study in names:
            families, _, _, tasks, _, _ = STUDIES[study]
            jobs = [
                (study, family, name, rate, task, TUNING_SEED, end)
                for family, tried in families.items()
                for name, rate in tried
                for task in tasks
            ]
            chosen = choose(study, complete(study, "tune", jobs, run_all))
            write(study, "chosen", chosen)
            run_tests(study, chosen, end, run_all)


def again(workers: int, seconds: float, study: str, table: str) -> None:
    """Make the runs of a table of a study anew, in a table of their own."""
    end = time.time() + seconds
    jobs = [
        (study, arm, name, rate, json.loads(task), seed, end)
        for arm, name, rate, task, seed in map(identify, read(study, table))
    ]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        complete(study, f"{table}-again", jobs, partial(pool.imap_unordered, run_one, chunksize=1))


def complete(study: str, name: str, jobs: list[Job], run_all: Runner) -> list[Row]:
    """Return the rows of a table of these runs; those that are missing are run, and written as they come."""
    wanted = {(*job[1:4], json.dumps(job[4]), job[5]): job for job in jobs}
    rows = {key: row for row in read(study, name) if (key := identify(row)) in wanted}
    for row in run_all([job for key, job in wanted.items() if key not in rows]):
        if row:
            rows[identify(row)] = row
            write(study, name, list(rows.values()))
    return list(rows.values())


def run_tests(study: str, chosen: list[Row], end: float, run_all: Runner) -> None:
    """Run the test of a study at the chosen settings, and the seeds that each look at the rows asks for."""
    jobs, rows = [], read(study, "test")
    while (wanted := list_tests(study, chosen, rows, end)) != jobs:
        jobs, rows = wanted, complete(study, "test", wanted, run_all)


def list_tests(study: str, chosen: list[Row], rows: list[Row], end: float) -> list[Job]:
    """Return the runs of the test that are wanted once these rows are seen: all, or those that the looks ask for."""
    from gem_activations.lab.statistics.sequential import make_schedule

    families, _, _, _, tests, most = STUDIES[study]
    settings = {(row["arm"], row["activation"], float(row["learning_rate"])) for row in chosen}
    rows = [row for row in rows if identify(row)[:3] in settings]
    seeds: dict[str, dict[str, int]] = {}
    for task in map(json.dumps, tests):
        _, looks, still_open = look_again(study, task, rows)
        following = [*make_schedule(most), most][len(looks)] if still_open else looks[-1].seeds
        seeds[task] = dict.fromkeys(families, following) | {arm: look.seeds for look in looks for arm in look.left}
    stand = {identify(row) for row in rows}
    return [
        (study, row["arm"], row["activation"], row["learning_rate"], task, seed, end)
        for seed in range(most)
        for row in chosen
        for task in tests
        if seed < seeds[json.dumps(task)][row["arm"]]
        or (row["arm"], row["activation"], row["learning_rate"], json.dumps(task), seed) in stand
    ]


def look_again(study: str, task: str, rows: list[Row]) -> Any:
    """Return the analysis of a task's rows by the lab's schedule of looks, the looks, and the arms that are open."""
    from gem_activations.lab.statistics.analysis import Run
    from gem_activations.lab.statistics.metrics import Criterion, Metric
    from gem_activations.lab.statistics.sequential import make_schedule, replay

    families, metric, baseline, _, _, most = STUDIES[study]
    runs = [
        Run(row["arm"], int(row["seed"]), row["status"], math.log(float(row[metric])) if row[metric] else None)
        for row in rows
        if row["task"] == task
    ]
    criterion = Criterion(Metric("log_error", "logarithm of the error", "log_error"), 0.0)
    return replay(runs, criterion, baseline, list(families), make_schedule(most))


def identify(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what makes a row that of one run: arm, activation, rate, task and seed."""
    return row["arm"], row["activation"], float(row["learning_rate"]), row["task"], int(row["seed"])


def read(study: str, name: str) -> list[Row]:
    """Return the rows of a table of a study, none without the table."""
    table = RESULTS / study / f"{name}.csv"
    return list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []


def choose(study: str, tuned: list[Row]) -> list[Row]:
    """Return the best setting of each family: the least mean logarithm of the error over all tasks for tuning."""
    families, metric, _, tasks, _, _ = STUDIES[study]
    rows = []
    for family, tried in families.items():
        scores = []
        for name, rate in tried:
            same = [row for row in tuned if (row["activation"], float(row["learning_rate"])) == (name, rate)]
            errors = [float(row[metric]) for row in same if row["arm"] == family and row["status"] == "finished"]
            mean = sum(map(math.log, errors)) / len(tasks) if len(errors) == len(tasks) else math.inf
            scores.append((mean, name, rate))
        mean, name, rate = min(scores)
        rows.append({"study": study, "arm": family, "activation": name, "learning_rate": rate, "log_error": mean})
    return rows


def write(study: str, name: str, rows: list[Row]) -> None:
    """Write a table of a study; it appears whole or not at all."""
    folder = RESULTS / study
    folder.mkdir(parents=True, exist_ok=True)
    rows = sorted(rows, key=lambda row: [str(row.get(key)) for key in ("task", "arm", "activation", "seed")])
    partial = folder / f"{name}.part"
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(folder / f"{name}.csv")


def judge(names: list[str]) -> Iterator[str]:
    """Yield the lines of a table for each task: median error, ratio to the baseline, verdict, and what came along."""
    for study in names:
        rows = read(study, "test")
        families, metric, baseline, _, tasks, most = STUDIES[study]
        arms = [baseline, *(family for family in families if family != baseline)]
        for task in map(json.dumps, tasks):
            same = {arm: [row for row in rows if (row["arm"], row["task"]) == (arm, task)] for arm in arms}
            errors = np.full((len(arms), most), np.nan)
            for place, arm in enumerate(arms):
                for row in same[arm]:
                    if row["status"] == "finished":
                        errors[place, int(row["seed"])] = float(row[metric])
            head = ["activation", "rate", "median", f"times {baseline}", "verdict", "seeds"]
            found, looks, _ = look_again(study, task, rows)
            seeds = {arm: len(same[arm]) for arm in arms} | {arm: look.seeds for look in looks for arm in look.left}
            along = [key for key in ALONG if all(row.get(key) for row in rows)]
            head += [ALONG[key][0] for key in along]
            yield f"\n{study} {task}\n\n| {' | '.join(head)} |"
            yield "|---" * len(head) + "|"
            for place in np.argsort(np.nanmedian(errors, 1)):
                arm = arms[place]
                cells = [f"`{same[arm][0]['activation']}`", same[arm][0]["learning_rate"]]
                cells.append(f"{np.nanmedian(errors[place]):.4f}")
                cells.append(f"{np.exp(np.nanmean(np.log(errors[place]) - np.log(errors[0]))):.2f}")
                cells += [found.verdicts.get(arm, "baseline"), str(seeds[arm])]
                cells += [f"{np.median([float(row[key]) for row in same[arm]]):{ALONG[key][1]}}" for key in along]
                yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["run", "judge", "again"])
    parser.add_argument(
        "--studies",
        nargs="+",
        choices=list(STUDIES),
        default=list(STUDIES),
        help="meshes: judged alone, see sdf_meshes.py",
    )
    parser.add_argument("--table", help="of `again`: after, siren, ... of each of the studies named")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--seconds", type=float, default=1e9, help="no further run is begun after this time")
    arguments = parser.parse_args()
    if arguments.work == "again":
        for study in arguments.studies:
            if not read(study, str(arguments.table)):
                parser.error(f"--table: {RESULTS / study} has no table {arguments.table}.csv with runs")
            again(arguments.workers, arguments.seconds, study, arguments.table)
        return
    if arguments.work == "run":
        run(arguments.workers, arguments.seconds, [name for name in arguments.studies if STUDIES[name][3]])
    print("\n".join(judge(arguments.studies)))


if __name__ == "__main__":
    main()
