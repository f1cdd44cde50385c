"""The frame of every proof: what a row rests on, results that are remembered, and the time that a row may take.

A proof notes the facts that it uses with `rests_on`: signs on an interval, where a tail starts, integrals, limits. A
remembered result brings the facts of its own proof along. `attempt` makes a row of a proof; SymPy can take very long
over a single step, so a watching thread raises an exception in the proof once its share of the time has passed, and the
row is left open.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache, update_wrapper
from typing import Any, NamedTuple, TypeVar

from .values import CertificateError, Fact, Property, UndecidedError, Value

Result = TypeVar("Result")
_SHARE = 3  # A row may take a third of the time that is left, so that one hard row leaves time for the others.


class _OutOfTime(BaseException):
    """Raised in the middle of a proof; no handler of ordinary errors on the way may take it for one."""


@dataclass
class _Clock:
    """The processor time of one certificate, and the calls that were running when a row ran out of its share."""

    budget: float
    end: float
    stopped: set[tuple[Any, ...]] = field(default_factory=set)


_CLOCK: ContextVar[_Clock | None] = ContextVar("clock", default=None)
_FACTS: ContextVar[dict[Fact, None] | None] = ContextVar("facts", default=None)


class Proved(NamedTuple):
    """What a proof gives to its row; see `Property`."""

    value: Value
    where: tuple[Value, ...] = ()
    method: str = ""


def rests_on(kind: str, **details: Any) -> None:
    """Note a fact under the proof that is running; docs/properties/schema.md has the kinds and their details."""
    facts = _FACTS.get()
    if facts is not None:
        facts[Fact(kind, tuple((key, value) for key, value in details.items()))] = None


@contextmanager
def _recording() -> Iterator[dict[Fact, None]]:
    facts: dict[Fact, None] = {}
    token = _FACTS.set(facts)
    try:
        yield facts
    finally:
        _FACTS.reset(token)


def remembered(function: Callable[..., Result]) -> Callable[..., Result]:
    """Keep results, with the facts that they rest on, and the reasons of failures.

    A call that was stopped because it took too long fails at once for the other rows of the certificate.
    """

    @lru_cache(maxsize=2048)
    def prove(*args: Any) -> tuple[Any, tuple[Fact, ...], UndecidedError | None]:
        with _recording() as facts:
            try:
                return function(*args), tuple(facts), None
            except UndecidedError as error:
                return None, (), type(error)(*error.args)

    def call(*args: Any) -> Any:
        clock = _CLOCK.get()
        if clock is not None and (function, *args) in clock.stopped:
            raise UndecidedError(f"it rests on a step that took longer than its share of {clock.budget:g} s")
        try:
            value, facts, failure = prove(*args)
        except _OutOfTime:
            if clock is not None:
                clock.stopped.add((function, *args))
            raise
        if failure is not None:
            raise type(failure)(*failure.args)
        outer = _FACTS.get()
        if outer is not None:
            outer.update(dict.fromkeys(facts))
        return value

    return update_wrapper(call, function)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Set the processor time of this thread for all rows that are attempted inside."""
    token = _CLOCK.set(_Clock(seconds, _seconds(threading.get_ident()) + seconds))
    try:
        yield
    finally:
        _CLOCK.reset(token)


def _seconds(thread: int) -> float:
    """Return the processor time of a thread, so that a busy machine leaves no row open; elapsed time if not known."""
    if hasattr(time, "pthread_getcpuclockid"):
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    return time.monotonic()


def within_share(work: Callable[[], Result]) -> Result:
    """Return work(), stopped once it has taken its share of the time that is left.

    Raises: UndecidedError: it was stopped.
    """
    clock = _CLOCK.get()
    if clock is None:
        return work()
    thread = threading.get_ident()
    now = _seconds(thread)
    stop = now + (clock.end - now) / _SHARE
    if stop <= now:
        raise UndecidedError(f"the {clock.budget:g} s of this certificate are used up")
    finished, interrupt = threading.Event(), ctypes.pythonapi.PyThreadState_SetAsyncExc

    def watch() -> None:
        while not finished.wait(max(stop - _seconds(thread), 0.05)):
            if _seconds(thread) >= stop:  # Perhaps again: a library on the way may have swallowed the first.
                interrupt(ctypes.c_ulong(thread), ctypes.py_object(_OutOfTime))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        try:
            return work()
        finally:
            finished.set()
            watcher.join()
            interrupt(ctypes.c_ulong(thread), None)  # One that came too late to be of use.
    except (_OutOfTime, SystemError) as error:
        # Raised inside a call from C, it comes out as the cause of a SystemError.
        if isinstance(error, SystemError) and not isinstance(error.__cause__, _OutOfTime):
            raise
        raise UndecidedError(
            f"it took longer than its share of {clock.budget:g} s; a larger --budget (budget=...) may close it"
        ) from None


def attempt(group: str, key: str, title: str, prove: Callable[[], Proved]) -> Property:
    """Return the row that a proof gives; of kind "open", with the reason, if the proof is not closed in time."""
    with _recording() as facts:
        try:
            value, where, method = within_share(prove)
        except CertificateError as error:
            return Property(group, key, title, Value("open", note=f"not closed: {error}"))
    return Property(group, key, title, value, where, method, tuple(facts))
