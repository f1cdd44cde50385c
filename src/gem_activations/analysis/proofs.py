"""What a certificate holds, and the frame of every proof: what a row rests on, what is remembered, and for how long.

Every number is a pair of decimal strings that were rounded outwards from a ball of 256-bit arithmetic; the exact
expression stands beside them if there is one. Nothing here imports SymPy or FLINT.

A proof notes the facts that it uses with `rests_on`: signs on an interval, where a tail starts, integrals, limits. A
remembered result brings the facts of its own proof along. `attempt` makes a row of a proof; SymPy can take very long
over a single step, so a watching thread raises an exception in the proof once its share of the time has passed, and the
row is left open.
"""

import ctypes
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from functools import lru_cache, update_wrapper
from typing import Any, Literal, NamedTuple, TypeVar

from ..errors import GemError

SCHEMA = "gem-activations certificate 2"
Kind = Literal["exact", "enclosure", "infinite", "absent", "statement", "open"]
GROUPS = {
    "class": "Differentiability",
    "bounds": "Boundedness",
    "stationarity": "Stationarity and shape",
    "smoothness": "Smoothness constants",
    "gate": "Gate",
    "distance": "Distance to ReLU",
    "propagation": "Signal propagation",
    "inverse": "Invertibility and conditioning",
    "cost": "Arithmetic cost",
}


class CertificateError(GemError):
    """A function that cannot be certified: a pole, a free symbol, a function that the analysis does not know."""


class UndecidedError(CertificateError):
    """A proof that could not be closed."""


@dataclass(frozen=True)
class Value:
    """One number or statement of a certificate.

    Attributes:
        kind: "exact" (a closed expression), "enclosure" (low <= value <= high is proved), "infinite", "absent" (does
            not exist; `note` says why), "statement" (`note` is the proved statement) or "open" (the proof was not
            closed; low and high hold the best enclosure found, if there is one).
        exact: The exact expression in ASCII, "" if there is none.
        low, high: Decimal strings, rounded outwards, so that low <= value <= high; "" if there is no number.
        approx: The nearest float64, for reading only; None where there is no number, or it lies outside their range.
        note: What a reader has to know beside the number: the kind of a point, the reason of an absence.
    """

    kind: Kind
    exact: str = ""
    low: str = ""
    high: str = ""
    approx: float | None = None
    note: str = ""

    def __str__(self) -> str:
        """Write the value as a table cell."""
        number = self._number()
        return f"{number} ({self.note})" if number and self.note else number or self.note

    def _number(self) -> str:
        if self.kind == "infinite":
            return self.exact
        if not self.low:
            return ""
        digits = self.low if self.approx is None else f"{self.approx:.10g}"
        if self.kind == "exact":
            return self.exact if self.exact == digits else f"{self.exact} = {digits}"
        return f"[{self.low}, {self.high}]"


@dataclass(frozen=True)
class Fact:
    """One fact that a row rests on: its kind, and (name, value) pairs that docs/properties/schema.md lists for it."""

    kind: str
    details: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Property:
    """One row of a certificate: a value, the points where it is taken, and the method that proves it.

    Attributes:
        group: A key of `GROUPS`.
        key: Name of the row, unique in its certificate and stable between versions.
        title: The row's name in words.
        value: The value.
        where: Points of the real line that belong to the value, in rising order; empty where there are none.
        method: How the value was proved.
        rests_on: The facts that the proof used, for a checker that does not trust this package.
    """

    group: str
    key: str
    title: str
    value: Value
    where: tuple[Value, ...] = ()
    method: str = ""
    rests_on: tuple[Fact, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Certificate:
    """The proved properties of one activation. Index it by a row's key.

    Attributes:
        name: The canonical string of the activation, or the expression.
        title: Name as the literature writes it.
        formula: The pieces in ASCII, which the proofs start from.
        reading: Remarks on the definition that was certified ("" if there is nothing to remark).
        variance: Variance of the normal input of the rows on signal propagation, an exact number.
        tools: Name of each tool that made the proofs -> its version.
        properties: The rows, in the order of `GROUPS`.
    Example:
        >>> row = Property("class", "order", "Largest k with f in C^k", Value("exact", "2", "2", "2", 2.0))
        >>> str(Certificate("gem", "GEM", "x^3/(x^2+1)", "", "1", {}, (row,))["order"].value)
        '2'
    """

    name: str
    title: str
    formula: str
    reading: str
    variance: str
    tools: dict[str, str]
    properties: tuple[Property, ...] = field(repr=False)

    def __getitem__(self, key: str) -> Property:
        """Return the row called `key`. Raises: CertificateError: no such row."""
        for row in self.properties:
            if row.key == key:
                return row
        keys = ", ".join(row.key for row in self.properties)
        raise CertificateError(f"the certificate of {self.name} has no row {key!r}; it has {keys}")

    def to_json(self) -> str:
        """Write the certificate as JSON text, as docs/properties/schema.md says; equal certificates give equal text."""
        data = asdict(self)
        for row in data["properties"]:
            row["rests_on"] = [{"kind": fact["kind"], **dict(fact["details"])} for fact in row["rests_on"]]
        return json.dumps({"schema": SCHEMA, **data}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """Read what `to_json` wrote.

        Raises: CertificateError: the text is no certificate of this schema.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if data.pop("schema") != SCHEMA:
                raise CertificateError(f"the file is not a {SCHEMA!r}; write it again with `gem-act certify`")
            rows = []
            for row in data.pop("properties"):
                where = tuple(Value(**point) for point in row.pop("where"))
                facts = tuple(Fact(fact.pop("kind"), _frozen(list(fact.items()))) for fact in row.pop("rests_on"))
                rows.append(Property(value=Value(**row.pop("value")), where=where, rests_on=facts, **row))
            return cls(properties=tuple(rows), **data)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise CertificateError(f"the file is not a certificate ({error}); write it again") from None


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


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


@contextmanager
def _quiet_where_none_can_be_raised() -> Iterator[None]:
    """Say nothing of an interrupt that came inside a destructor or a callback of the garbage collector.

    Python drops an exception there and reports it; the watching thread raises the next one.
    """
    report = sys.unraisablehook
    sys.unraisablehook = lambda args: None if args.exc_type is _OutOfTime else report(args)
    try:
        yield
    finally:
        sys.unraisablehook = report


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

    def stop_watching() -> None:
        finished.set()
        watcher.join()
        interrupt(ctypes.c_ulong(thread), None)  # One that came too late to be of use.

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        try:
            with _quiet_where_none_can_be_raised():
                return work()
        finally:
            stop_watching()
    except (_OutOfTime, SystemError) as error:
        stop_watching()  # It may have come at the very end, in the midst of this call above.
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
