"""A sweep on a Ray cluster of two nodes, one of which dies in the middle: started by test_engine_ray.py.

Usage: ray_sweep.py OUT EPOCHS ARM [ARM ...]. Each node has one CPU, and a run takes one: two runs under way are one on
each node. Then one seed more is asked for, of the cluster and of a local process at once. RAY_TMPDIR
names a folder of its own. Prints what was seen as JSON.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from gem_activations.lab.runs.engine import ProgressCallback, run_comparison
from gem_activations.lab.runs.request import Request

SEEDS = 2


class Watcher(threading.Thread):
    """Kills the second node once both are in the middle of a run, and notes every result file that appears."""

    def __init__(self, cluster: Cluster, node: Any, out: Path) -> None:
        super().__init__()
        self.cluster, self.node, self.out = cluster, node, out
        self.results: dict[str, set[tuple[int, int]]] = {}
        self.interrupted: dict[str, int] = {}
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.005):
            self.look()
            if not self.interrupted:
                self._kill_when_busy()

    def look(self) -> None:
        """Note each result file with its inode and time of writing."""
        for path in self.out.glob("runs/*/*/result.json"):
            status = path.stat()
            self.results.setdefault(str(path.parent), set()).add((status.st_ino, status.st_mtime_ns))

    def _kill_when_busy(self) -> None:
        running = [
            path.parent
            for path in self.out.glob("runs/*/*/checkpoint.pt")
            if not (path.parent / "result.json").exists()
        ]
        if len(running) < 2:
            return
        raylet = self.node.all_processes["raylet"][0].process.pid
        workers = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
        for process in (*map(int, workers), raylet):  # As where the power fails: all at once, none can tidy up.
            os.kill(process, signal.SIGKILL)
        self.interrupted = {str(run): (run / "config.json").stat().st_mtime_ns for run in running}
        self.cluster.remove_node(self.node, allow_graceful=False)


def sweep(request: Request) -> None:
    run_comparison(request, ProgressCallback())


def join_in(request: Request) -> "subprocess.Popen[bytes]":
    """Start the same comparison, without Ray, in a process of its own."""
    words = [str(request.folder), str(request.seeds), str(request.epochs), *(request.activations or ())]
    return subprocess.Popen([sys.executable, __file__, "local", *words])


def main(out: Path, epochs: int, arms: tuple[str, ...]) -> None:
    # Its ports are free ones that Ray finds, its files lie in RAY_TMPDIR: another Ray on the machine is left alone.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        watcher = Watcher(cluster, cluster.add_node(num_cpus=1), out)
        watcher.start()
        try:
            request = Request(
                "digits",
                out=out,
                activations=arms,
                seeds=SEEDS,
                epochs=epochs,
                engine="ray",
                ray_address=cluster.address,
            )
            sweep(request)
            more = dataclasses.replace(request, seeds=SEEDS + 1)
            local = join_in(more)
            sweep(more)
            status = local.wait(300)
        finally:
            watcher.over.set()
            watcher.join()
        watcher.look()
        begun = {run: Path(run, "config.json").stat().st_mtime_ns for run in watcher.interrupted}
        seen = {
            "interrupted": len(watcher.interrupted),
            "restarted": sum(begun[run] > before for run, before in watcher.interrupted.items()),
            "written": [len(versions) for versions in watcher.results.values()],
            "local": status,
        }
        print(json.dumps(seen))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "local":
        folder, seeds, epochs, *arms = sys.argv[2:]
        sweep(Request("digits", out=Path(folder), activations=tuple(arms), seeds=int(seeds), epochs=int(epochs)))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), tuple(sys.argv[3:]))
