"""Kill a comparison by SIGKILL at random moments and see that it ends with the bits of one that was left alone.

Run: python tools/kill_compare.py FOLDER [--kills 20] [--recipe digits] [--activations relu rrelu "gem(n=2)"] ...

FOLDER gets `whole`, the comparison left alone, and `killed-1`, which is killed and started again until it has been
killed often enough, and then left to its end. Should it end before, `killed-2` follows, killed sooner. Results, epochs,
figures by depth and the last checkpoints (weights, optimiser, random states) are compared bit for bit, all but times
and memory. Exit status 1 if anything differs. Needs a system that forks.
"""

import argparse
import dataclasses
import multiprocessing
import random
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from gem_activations.lab.runs.engine import ProgressCallback, run_comparison
from gem_activations.lab.runs.request import Request
from gem_activations.lab.store.comparison import FINISHED, EpochRow, load_comparison, run_folder
from gem_activations.lab.training.run import load_checkpoint

# Torch imports its compiler at the first step of an optimiser.
PRELOADED = [
    "gem_activations.lab.runs.engine",
    "gem_activations.lab.training.tasks",
    "sklearn.datasets",
    "torch._dynamo",
]
_OWN_TIMES = ("seconds", "step_seconds", "step_time_ratio", "peak_memory")
_STATE = ("identity", "epochs", "states", "random")
_EARLY, _LOADING = 0.1, 1.0  # Share of the kills that may come before the runs begin, and within how many seconds.
_CPU = torch.device("cpu")


class Telling(ProgressCallback):
    """An observer that tells the process which is to kill it when a run begins."""

    def __init__(self, begun: Event) -> None:
        self.begun = begun

    def epoch(self, activation: str, seed: int, metrics: list[EpochRow], epochs: int) -> None:  # noqa: ARG002
        self.begun.set()


def work(request: Request, begun: Event) -> None:
    torch.set_num_threads(1)
    run_comparison(request, Telling(begun))


def start(request: Request) -> tuple[BaseProcess, Event]:
    """Start the comparison in a process of its own, forked from one that has imported all it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    begun = context.Event()
    process = context.Process(target=work, args=(request, begun))
    process.start()
    return process, begun


def finish(request: Request) -> float:
    """Let the comparison come to its end; give the seconds that its runs took."""
    process, begun = start(request)
    await_begin(process, begun)
    started = time.perf_counter()
    process.join()
    check_status(process, request)
    return time.perf_counter() - started


def await_begin(process: BaseProcess, begun: Event) -> None:
    while process.is_alive() and not begun.wait(0.05):
        pass


def check_status(process: BaseProcess, request: Request) -> None:
    if process.exitcode:
        raise SystemExit(f"the comparison in {request.folder} ended with exit status {process.exitcode}")


def kill_at_random(request: Request, kills: int, span: float, draw: random.Random) -> Iterator[str]:
    """Start the comparison and kill it, again and again; give what it left each time, until it has ended."""
    for _ in range(kills):
        process, begun = start(request)
        if draw.random() < _EARLY:
            process.join(draw.uniform(0, _LOADING))
        else:
            await_begin(process, begun)
            process.join(draw.uniform(0, span))
        if process.exitcode is not None:
            check_status(process, request)
            return
        process.kill()
        process.join()
        yield describe(request.folder)


def describe(folder: Path) -> str:
    """Return what a killed process left."""
    begun = {path.parent for path in folder.glob("runs/*/*/config.json")}
    unfinished = [run for run in begun if not (run / "result.json").exists()]
    if not unfinished:
        return "no run under way"
    return "a run with checkpoints" if any(any(run.glob("checkpoint*")) for run in unfinished) else "a run's beginning"


def differences(whole: Path, other: Path) -> Iterator[str]:
    """Return what differs between two folders of the same comparison."""
    first, second = load_comparison(whole), load_comparison(other)
    if first.missing or second.missing:
        yield f"runs without a result: {first.missing} and {second.missing}"
    if (first.activations, first.seeds, first.recipe) != (second.activations, second.seeds, second.recipe):
        yield "the plans"
    for one, two in zip(first.results, second.results, strict=False):
        run = (one.activation, one.seed)
        rows = [{name: x for name, x in each.row().items() if name not in _OWN_TIMES} for each in (one, two)]
        if one.status != FINISHED or rows[0] != rows[1]:
            yield f"{run}: the results, {one} and {two}"
        curves = [[{**epoch, "seconds": 0.0} for epoch in each.curves[run]] for each in (first, second)]
        if curves[0] != curves[1]:
            yield f"{run}: the epochs"
        if first.depths.get(run) != second.depths.get(run) or run not in first.depths:
            yield f"{run}: the figures by depth"
        if not same_state(run_folder(whole, *run), run_folder(other, *run)):
            yield f"{run}: the last checkpoints"


def same_state(first: Path, second: Path) -> bool:
    one, two = (load_checkpoint(run / "checkpoint.pt", _CPU) or {} for run in (first, second))
    for state in (one, two):
        trainer = state.get("states", {}).get("trainer", {})
        trainer.pop("peak", None)  # Memory and times are each process's own.
        for epoch in trainer.get("metrics", []):
            epoch.pop("seconds")
    return all(key in one and key in two and same(one[key], two[key]) for key in _STATE)


def same(one: object, two: object) -> bool:
    """Return whether nested values are the same, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return isinstance(two, list | tuple) and len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and one == two


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty or new folder")
    parser.add_argument("--kills", type=int, default=20, help="how often at least (default 20)")
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--scale", default="full", choices=["full", "small", "smoke"])
    parser.add_argument("--activations", nargs="+", default=["relu", "rrelu", "gem(n=2)"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="of each run; the recipe's if not given")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--draw", type=int, default=0, help="seed of the moments (default 0)")
    options = parser.parse_args()
    request = Request(
        recipe=options.recipe,
        out=options.folder / "whole",
        activations=tuple(options.activations),
        seeds=options.seeds,
        epochs=options.epochs,
        scale=options.scale,
        data_dir=options.data_dir,
        keep_checkpoints=True,
    )
    seconds = finish(request)
    print(f"runs left alone: {seconds:.1f} s", flush=True)
    draw, seen, turn = random.Random(options.draw), [], 0
    span = 1.2 * seconds / options.kills  # About two thirds of the comparison are done when it has been killed enough.
    while len(seen) < options.kills:
        turn += 1
        killed = dataclasses.replace(request, out=options.folder / f"killed-{turn}")
        seen += kill_at_random(killed, options.kills - len(seen), span, draw)
        finish(killed)
        found = list(differences(request.folder, killed.folder))
        if found:
            raise SystemExit("\n".join(["these differ:", *found]))
        span /= 2
    places = ", ".join(f"{seen.count(place)} {place}" for place in sorted(set(seen)))
    print(f"killed {len(seen)} times over {turn} comparison(s), leaving {places}: every bit is the same")


if __name__ == "__main__":
    main()
