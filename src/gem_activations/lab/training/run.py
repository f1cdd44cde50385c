"""One run of a comparison as a training function sees it: its activation and seed, what it logs, how it resumes.

`epochs` is a `range` that remembers. After each pass through the loop's body it writes what was logged, and a
checkpoint of the given states and of the random states of Python, NumPy and torch. If the folder holds such a
checkpoint, it restores all of it and begins behind the last finished epoch. The body needs to know nothing of this.
A checkpoint is written atomically and checked before it is trusted; the last two are kept.
"""

import contextlib
import io
import logging
import math
import pickle
import random
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.utils.serialization import config

from ...errors import ExperimentError
from ..store.comparison import EpochRow, append_metrics, cut_metrics, write_atomically
from .group import Group

_CHECK_BYTES = 4
_LOG = logging.getLogger(__name__)


def state_paths(path: Path) -> tuple[Path, Path, Path]:
    """Return the files of the newest state, of the one before, and of the last older one that the disk was waited for.

    Example:
        >>> [file.name for file in state_paths(Path("run/checkpoint.pt"))]
        ['checkpoint.pt', 'checkpoint-before.pt', 'checkpoint-synced.pt']
    """
    return path, path.with_stem(f"{path.stem}-before"), path.with_stem(f"{path.stem}-synced")


def save_checkpoint(path: Path, state: dict[str, Any], *, sync: bool = True, keep: bool = False) -> None:
    """Write the CRC-32 of what follows, then tensors and plain values as torch saves them; atomically.

    The state that was there is kept as the one before; a process that is killed leaves one of the two, or both.

    Args:
        sync: Wait until the disk has it; else a power cut in the next seconds may damage it.
        keep: Keep the state that is there, because the disk has it, until this is asked again.
    Raises: StoreError: the file cannot be written.
    """
    buffer = io.BytesIO(bytes(_CHECK_BYTES))
    buffer.seek(_CHECK_BYTES)
    # The archive's own checksums take twice the time of all else, and say what this one says.
    with config.patch("save.compute_crc32", False):  # pyright: ignore[reportAttributeAccessIssue] -- made at run time
        torch.save(state, buffer)
    content = buffer.getbuffer()
    content[:_CHECK_BYTES] = _check(content[_CHECK_BYTES:])
    _, before, synced = state_paths(path)
    # A rename over another file makes ext4 write this one at once, in twice the time of all else: none is there, as the
    # state before is written over, and the newest takes its name.
    over = before if path.is_file() else None  # Else it is the only state.
    write_atomically(path, content, sync=sync, over=over, keep=synced if keep else before)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Read the newest intact state that `save_checkpoint` wrote; None if there is none.

    A damaged file is renamed to `checkpoint-damaged.pt`, so that the next save does not put it in the place of the
    intact state before it. This, and a file that cannot be read, is reported as a warning of this module's logger.
    """
    for place in state_paths(path):
        try:
            content = place.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            _LOG.warning("%s cannot be read (%s); going on from an earlier state", place, error.strerror or error)
            continue
        payload, state = content[_CHECK_BYTES:], None
        # torch does not check what it reads: a flipped bit must cost progress, never correctness.
        if content[:_CHECK_BYTES] == _check(payload):
            with contextlib.suppress(pickle.UnpicklingError):  # It holds more than tensors and plain values.
                state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
        if isinstance(state, dict):
            return state
        aside = path.with_stem(f"{path.stem}-damaged")
        with contextlib.suppress(OSError):  # Another process of the same run may have been faster.
            place.replace(aside)
        _LOG.warning("%s is damaged and is kept as %s; going on from an earlier state", place, aside.name)
    return None


def _check(payload: bytes | memoryview) -> bytes:
    return zlib.crc32(payload).to_bytes(_CHECK_BYTES, "big")


CHECKPOINT, METRICS, PREDICTIONS = "checkpoint.pt", "metrics.jsonl", "predictions.npz"
MOST_EPOCHS = 1_000_000
_FORMAT = 4  # Of a checkpoint.
_SYNC_SECONDS = 5.0  # To wait for the disk costs as much as many steps, and serves a power cut alone.


class Stateful(Protocol):
    """A model, an optimizer, a schedule, a gradient scaler: whatever has a state to be kept."""

    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...  # noqa: D102


EpochListener = Callable[[list[EpochRow], int], None]


class NotFiniteError(ArithmeticError):
    """A loss or figure of a run became NaN or infinite."""


class Run:
    """One run of a comparison: one activation trained from one seed.

    A training function gets it as its first argument. Python's, NumPy's and torch's generators have been seeded by
    `seed` before the function is called.

    Args:
        name: Name of the activation.
        seed: Seed of the run.
        device: Where the run trains.
        folder: Folder of the run; it exists.
        make: Makes a fresh module of the activation.
        identity: Plain values that a checkpoint must repeat to be continued.
        group: The processes that train this run together; rank zero writes.
        on_epoch: Told of all finished epochs and the number that is wanted, at the start of `epochs` and after each.

    Attributes:
        name: Name of the activation, as in the report.
        seed: Seed of the run, a whole number from 0 up.
        device: Where the run is to train, a `torch.device`.
        folder: Folder of the run, for files of the function's own.
        metrics: What was logged: one row an epoch, with "epoch" counted from 1.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        device: torch.device,
        folder: Path,
        make: Callable[[], nn.Module],
        *,
        identity: dict[str, Any] | None = None,
        group: Group | None = None,
        on_epoch: EpochListener | None = None,
    ) -> None:
        self.name, self.seed, self.device, self.folder = name, seed, device, folder
        self.metrics: list[EpochRow] = []
        self._make, self._identity, self._group = make, identity or {}, group or Group()
        self._on_epoch = on_epoch or (lambda _rows, _epochs: None)
        self._row: EpochRow = {}
        self._early: EpochRow = {}
        self._looping = self._begun = False
        self._begun_epoch = 0.0
        self._synced = -math.inf  # When the disk last had all.
        self._earlier = 0.0  # Seconds of earlier processes that worked on this run.
        self._started = time.perf_counter()

    def activation(self) -> nn.Module:
        """Return a fresh module of the run's activation; each place of a model gets one of its own."""
        module = self._make()
        if not isinstance(module, nn.Module):
            raise ExperimentError(
                f"the activation {self.name} made a {type(module).__name__}, expected a torch.nn.Module; give a class "
                "of modules, or a function that returns one"
            )
        return module

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, in all processes that worked on it."""
        return self._earlier + time.perf_counter() - self._started

    def epochs(self, count: int, **states: Stateful) -> Iterator[int]:
        """Iterate over the epochs 0 to count - 1, from where an interrupted run was stopped.

        After each pass a line is added to `metrics.jsonl` and a checkpoint is written, both safe against kills, and
        every five seconds against a power cut too. Leaving the loop early is fine. A run uses `epochs` once.

        Args:
            count: Number of epochs of the whole run.
            states: What a resumed run needs, by name: model, optimizer, schedule, anything with `state_dict` and
                `load_state_dict`. Without any nothing is saved, and a run that is stopped begins again.
        Raises: ExperimentError: a count below 1 or above a million, a state without these methods or with more in it
            than tensors and plain values, a second use; StoreError: a file cannot be written.
        """
        if self._begun:
            raise ExperimentError("run.epochs is used twice in one run; put both phases of the training into one loop")
        self._begun = True
        if not 1 <= count <= MOST_EPOCHS:
            raise ExperimentError(f"run.epochs({count}): give a whole number of epochs from 1 to {MOST_EPOCHS:,}")
        for name, state in states.items():
            if not (hasattr(state, "state_dict") and hasattr(state, "load_state_dict")):
                raise ExperimentError(
                    f"run.epochs({name}=...) is a {type(state).__name__}, expected an object with state_dict and "
                    "load_state_dict, such as a model or an optimizer"
                )
        done = self._resume(states) if states else self._restart()
        self._group.agree(done, "the epochs of the checkpoint")
        self._on_epoch(self.metrics, count)
        durable = False  # Whether the disk was waited for when the newest checkpoint was written.
        for epoch in range(done, count):
            self._row = {} if epoch else self._early
            self._looping, self._begun_epoch = True, time.perf_counter()
            yield epoch
            sync = time.perf_counter() - self._synced > _SYNC_SECONDS
            self._end_epoch(sync=sync)
            if states and self._group.rank == 0:
                save_checkpoint(self.folder / CHECKPOINT, self._state(states), sync=sync, keep=durable)
                durable = sync
            if sync:
                self._synced = time.perf_counter()
            self._on_epoch(self.metrics, count)

    def log(self, **figures: Any) -> None:
        """Record figures of the current epoch by name, such as `run.log(train_loss=loss)`.

        In a loop over `epochs` they become one line of `metrics.jsonl` when the epoch ends; later values replace
        earlier ones. What was logged before the loop joins its first epoch. Elsewhere each call is a line of its own.

        Args:
            figures: Numbers, or tensors and arrays with one element. One that is not finite is stored as none.
        Raises: ExperimentError: a value that is no number, or a figure called "epoch".
        """
        if "epoch" in figures:
            raise ExperimentError("run.log(epoch=...): the epoch is recorded anyway; give this figure another name")
        row: EpochRow = {name: finite(to_number(name, value)) for name, value in figures.items()}
        if self._looping:
            self._row |= row
            return
        if not self._begun:
            self._early |= row
            if (self.folder / CHECKPOINT).exists():
                return  # A run that goes on: its first epoch has been told before.
            if not self.metrics:
                self._restart()
        self._append({"epoch": len(self.metrics) + 1, **row})

    def log_predictions(self, predictions: ArrayLike, targets: ArrayLike | None = None) -> None:
        """Store predictions on the test examples, compressed, in `predictions.npz` of the run's folder.

        Args:
            predictions: (N, ...) numbers, in the same order of examples in every run.
            targets: (N, ...) what was to be predicted.
        """
        given, buffer = {"predictions": predictions, "targets": targets}, io.BytesIO()
        arrays: dict[str, Any] = {name: _to_array(values) for name, values in given.items() if values is not None}
        np.savez_compressed(buffer, **arrays)
        write_atomically(self.folder / PREDICTIONS, buffer.getvalue())

    def finish(self) -> None:
        """End the epoch of a loop that the function has left early, if anything was logged of it."""
        if self._looping and self._row:
            self._end_epoch()

    def _end_epoch(self, *, sync: bool = True) -> None:
        self._looping = False
        seconds = time.perf_counter() - self._begun_epoch
        self._append({"epoch": len(self.metrics) + 1, "seconds": seconds, **self._row}, sync=sync)

    def _append(self, row: EpochRow, *, sync: bool = True) -> None:
        if self._group.rank == 0:
            append_metrics(self.folder / METRICS, row, sync=sync)
        self.metrics.append(row)

    def _state(self, states: dict[str, Stateful]) -> dict[str, Any]:
        version, numbers, gauss = random.getstate()
        generators: dict[str, Any] = {
            "python": [version, torch.tensor(numbers, dtype=torch.int64), gauss],  # As a tensor in a tenth of the time.
            "torch": torch.get_rng_state(),
        }
        kind, keys, *rest = np.random.get_state(legacy=True)
        generators["numpy"] = [kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest]
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "format": _FORMAT,
            "identity": self._identity,
            "epochs": len(self.metrics),
            "states": {name: state.state_dict() for name, state in states.items()},
            "random": generators,
            "seconds": self.seconds,
        }

    def _resume(self, states: dict[str, Stateful]) -> int:
        """Take over the checkpoint; return the finished epochs, 0 if none is intact and of this very run."""
        found = load_checkpoint(self.folder / CHECKPOINT, self.device)
        if found is None or (found.get("format"), found.get("identity")) != (_FORMAT, self._identity):
            return self._restart()
        if found["states"].keys() != states.keys():
            there, now = (", ".join(sorted(names)) for names in (found["states"], states))
            raise ExperimentError(
                f"the checkpoint in {self.folder} holds {there}, and run.epochs is now given {now}; delete the "
                "checkpoint to begin this run again"
            )
        if self._group.rank == 0:
            rows = cut_metrics(self.folder / METRICS, found["epochs"])
            if rows is None:  # Somebody has changed the file.
                return self._restart()
            self.metrics = rows
        else:
            self.metrics = [{} for _ in range(found["epochs"])]
        for name, state in states.items():
            state.load_state_dict(found["states"][name])
        self._earlier, self._started = found["seconds"], time.perf_counter()
        generators = found["random"]
        version, numbers, gauss = generators["python"]
        random.setstate((version, tuple(numbers.tolist()), gauss))
        kind, keys, *rest = generators["numpy"]
        np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
        torch.set_rng_state(generators["torch"].cpu())
        if "cuda" in generators and self.device.type == "cuda":
            torch.cuda.set_rng_state(generators["cuda"].cpu(), self.device)
        return found["epochs"]

    def _restart(self) -> int:
        self.metrics = []
        if self._group.rank == 0:
            cut_metrics(self.folder / METRICS, 0)
        return 0


def to_number(name: str, value: Any) -> float:
    """Return a figure as a float, or as an int if it is one. Raises: ExperimentError: it is no number."""
    if isinstance(value, str | bytes | bool) or value is None:
        raise ExperimentError(f"{name} is {value!r}, expected a number")
    if isinstance(value, int):
        return value
    try:
        return float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ExperimentError(f"{name} is a {type(value).__name__}, expected a number: {error}") from error


def finite(value: float) -> float | None:
    """Return a number, or None in the place of one that is not finite."""
    return value if math.isfinite(value) else None


def _to_array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
