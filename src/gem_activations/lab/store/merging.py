"""Put the runs of two comparisons of one experiment into one folder, such as those of two machines."""

import dataclasses
import shutil
from pathlib import Path

from ...errors import StoreError
from .comparison import read_plan, read_result, run_folder, write_plan
from .rates import flatten
from .records import FINISHED, Plan, RunKey, RunResult

_VOLATILE = ("seconds", "step_seconds", "step_time_ratio", "peak_memory")


def merge(first: Path, second: Path, out: Path) -> int:
    """Copy every run of two comparisons into a new folder, with a plan that has the activations and seeds of both.

    Args:
        first, second: Output folders of `gem-act compare`; they are left as they are. The baseline is the first one's.
        out: A folder that does not exist, or is empty.
    Returns: Number of runs that have ended.
    Raises: StoreError: a folder holds no comparison, the two differ in more than activations, seeds and versions, both
        have a run with other figures, or `out` holds something.
    """
    plans: list[Plan] = []
    ended: list[dict[RunKey, RunResult]] = []
    for folder in (first, second):
        plan = read_plan(folder)
        if plan is None:
            raise StoreError(
                f"{folder} holds no comparison: comparison.json is missing; give the folder of a comparison"
            )
        plans.append(plan)
        ended.append({key: result for key in plan.runs() if (result := read_result(folder, *key)) is not None})
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
