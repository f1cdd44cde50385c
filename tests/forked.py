"""Processes for tests, forked from a server that has PyTorch and the lab in memory.

To import them takes longer than most of what a test does in a process of its own. Of the server a process has nothing
but imported modules: arguments, folder, environment and streams are its own, as with `subprocess`.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import types
from pathlib import Path

# Torch imports its compiler at the first step of an optimiser.
PRELOADED = [
    "gem_activations.commands",
    "gem_activations.lab.report.document",
    "gem_activations.lab.runs.engine",
    "gem_activations.lab.training.tasks",
    "gem_activations.torch",
    "sklearn.datasets",
    "torch._dynamo",
    "torch._inductor.config",
]


class Forked:
    """What `subprocess.Popen([sys.executable, "-c", code, *words], text=True)` gives, as far as tests ask for it."""

    def __init__(self, code, *words, cwd=".", env=None):
        self._files = []
        for _ in range(2):
            with tempfile.NamedTemporaryFile(delete=False) as file:
                self._files.append(Path(file.name))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        job = (code, [str(word) for word in words], str(cwd), dict(env or os.environ), self._files)
        self.process = context.Process(target=runpy.run_path, args=(__file__, {"job": job}, "forked"))
        self.process.start()

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.process.pid, number)

    def communicate(self, timeout=None):
        """Return what the process has written to its two streams, once it has ended; after the timeout it is killed."""
        self.process.join(timeout)
        self.process.kill()
        self.process.join()
        written = tuple(file.read_text() for file in self._files)
        for file in self._files:
            file.unlink()
        return written


def enter(code, words, folder, environment, files):
    """Become the process that was asked for."""
    for stream, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), stream)
    # A shell ignores it for what it runs in the background, which a process inherits.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv, sys.path[:0] = ["-c", *words], [""]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), vars(main))


if __name__ == "forked":
    enter(*globals()["job"])
