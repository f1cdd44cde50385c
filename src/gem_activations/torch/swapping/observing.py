"""What Python does while torch.fx follows a forward: which code runs, what it calls, what it would freeze.

torch.fx sees the operations on tensors alone. Here is seen the rest, by a profile function: every code object that runs
outside torch and the standard library, every function that it calls, and the state of what it could have changed.
"""

import datetime
import dis
import gc
import inspect
import random
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

# Words in a forward that torch.fx would answer once and for all, or drop.
FROZEN = {
    *("isinstance", "issubclass", "hasattr", "callable", "is_tensor", "is_tensor_like", "type"),
    *("__class__", "set_default_dtype", "set_default_device", "manual_seed"),
    *("is_scripting", "is_tracing", "is_compiling", "is_dynamo_compiling", "is_exporting", "is_grad_enabled"),
    *("is_autocast_enabled", "is_inference_mode_enabled"),
    *("no_grad", "enable_grad", "inference_mode", "set_grad_enabled", "autocast"),
    *("checkpoint", "checkpoint_sequential"),
}
_FROZEN_BUILTINS = (isinstance, issubclass, hasattr, callable, id, print, input, open)
_FROZEN_STEPS = {
    "WITH_EXCEPT_START": "has a with statement",  # The name in 3.11 to 3.14; the steps that enter have changed.
    **dict.fromkeys(("MATCH_CLASS", "MATCH_MAPPING", "MATCH_SEQUENCE", "MATCH_KEYS"), "has a match statement"),
    "PUSH_EXC_INFO": "has a try statement",
    **dict.fromkeys(("STORE_GLOBAL", "DELETE_GLOBAL"), "sets a global name"),
}
# Files of torch whose code, whoever calls it, does what no graph keeps.
_UNKEPT = {
    "autograd/function.py": "has a backward pass of its own (torch.autograd.Function)",
    "utils/checkpoint.py": "uses checkpoint",
    "autograd/grad_mode.py": "sets whether gradients are recorded",
    "autograd/graph.py": "has hooks for saved tensors",
    "amp/autocast_mode.py": "uses autocast",
}
# torch wraps in this what its compiler is to leave alone, such as every operation on real tensors under a mode.
_UNCOMPILED = "_compile.py"
_UNKEPT[_UNCOMPILED] = "runs what torch keeps from its compiler"
_DRAWS = "draws a random number"
_CLOCKS = (datetime.datetime, datetime.date)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator)


class _Place(Enum):
    OURS, TORCH, STANDARD, USER = range(4)


_TORCH = Path(torch.__file__).resolve().parent
_STANDARD = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
_OURS = [
    (Path(__file__).parent / name).resolve() for name in ("observing.py", "tracing.py", "twins.py", "../../errors.py")
]


@cache
def _place_of(file: str) -> _Place:
    if file.startswith("<frozen "):
        return _Place.STANDARD
    path = Path(file).resolve()
    if path in _OURS:
        return _Place.OURS
    if path.is_relative_to(_TORCH):
        return _Place.TORCH
    installed = {"site-packages", "dist-packages"}.intersection(path.parts)
    standard = any(map(path.is_relative_to, _STANDARD)) and not installed
    return _Place.STANDARD if standard else _Place.USER


@cache
def _unkept(file: str) -> str:
    path = Path(file).resolve()
    return _UNKEPT.get(path.relative_to(_TORCH).as_posix(), "") if path.is_relative_to(_TORCH) else ""


def is_users(frame: types.FrameType | None) -> bool:
    """Tell whether a frame runs code from outside torch and the standard library."""
    return frame is not None and _place_of(frame.f_code.co_filename) is _Place.USER


def overrides_call(module: nn.Module) -> bool:
    """Tell whether a module's class has a `__call__` of the user's."""
    found = (vars(kind)["__call__"] for kind in type(module).__mro__ if "__call__" in vars(kind))
    code = getattr(next(found), "__code__", None)
    return code is not None and _place_of(code.co_filename) is _Place.USER


def site(frame: types.FrameType | None) -> tuple[tuple[types.CodeType, int], ...]:
    """Give where in the user's code a frame is: each code object around it, with the step it has come to."""
    places: list[tuple[types.CodeType, int]] = []
    while frame is not None:
        if is_users(frame):
            places.append((frame.f_code, frame.f_lasti))
        elif frame.f_code.co_name == "trace" and _place_of(frame.f_code.co_filename) is _Place.OURS:
            break
        frame = frame.f_back
    return tuple(places)


class Watch:
    """A profile function that notes what runs inside `with`.

    Attributes:
        reasons: What was seen that a graph would freeze or drop, in order, as the rest of "its forward ...".
        codes: The code objects of the user's that have run.

    Args:
        meet: Called when a code object of the user's runs for the first time, with its frame before the first step.
    """

    def __init__(self, meet: Callable[[types.FrameType], None]) -> None:
        self._meet = meet
        self.reasons: list[str] = []
        self.codes: dict[types.CodeType, None] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what runs in this thread; then give back the profile function that was there.

        Garbage waits meanwhile: others are called when it is collected, and some of them read a clock.
        """
        before: Any = sys.getprofile()
        collects = gc.isenabled()
        gc.disable()
        sys.setprofile(self._note)
        try:
            yield
        finally:
            # cProfile leaves itself here, which is no function of Python's.
            sys.setprofile(before) if before is None or callable(before) else before.enable()
            if collects:
                gc.enable()
            self.reasons += [reason for code in self.codes for reason in _frozen_in(code)]

    def _note(self, frame: types.FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        place = _place_of(code.co_filename)
        if event == "call" and place is _Place.USER:
            if code not in self.codes and not _looks_up_an_attribute(frame) and not _imports(frame):
                self.codes[code] = None
                self._meet(frame)
        elif event == "call" and place is not _Place.OURS:
            reasons = _dropped_by(frame)
            if reasons and not _imports(frame):
                self.reasons += reasons
                if reasons == [_UNKEPT[_UNCOMPILED]]:
                    sys.setprofile(None)  # The first time this imports the compiler, for seconds when it is watched.
        elif event == "c_call" and place in (_Place.USER, _Place.STANDARD):
            reasons = _frozen_by(argument, place is _Place.USER)
            if reasons and _asker(frame) is _Place.USER and not _imports(frame):
                self.reasons += reasons


def _dropped_by(frame: types.FrameType) -> list[str]:
    """Give what a function of torch or of the standard library that starts does, and a graph does not."""
    code = frame.f_code
    unkept = _unkept(code.co_filename)
    if unkept:
        return [unkept]
    if not is_users(frame.f_back):
        return []
    if code.co_name in FROZEN:
        return [f"uses {code.co_name}"]
    if "singledispatch" in code.co_qualname:
        return ["uses functools.singledispatch"]
    context = code.co_name in ("inner", "enter_context") and Path(code.co_filename).name == "contextlib.py"
    return ["works in a context"] if context else []


def _looks_up_an_attribute(frame: types.FrameType) -> bool:
    """Tell whether this is a module's own look-up of a name, which no tensor goes through."""
    code = frame.f_code
    named = code.co_name in ("__getattr__", "__getattribute__") and code.co_argcount == 2
    return named and isinstance(frame.f_locals.get(code.co_varnames[0]), nn.Module)


def _imports(frame: types.FrameType | None) -> bool:
    """Tell whether a frame runs because a file is imported, as torch imports some of its own at first use."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _asker(frame: types.FrameType | None) -> _Place:
    """Give on whose behalf a frame runs: the standard library works for whoever calls it."""
    while frame is not None:
        place = _place_of(frame.f_code.co_filename)
        if place is not _Place.STANDARD:
            return place
        frame = frame.f_back
    return _Place.STANDARD


def _frozen_by(function: Any, by_user: bool) -> list[str]:
    """Give what a call of a function of C does that would be frozen; `by_user` is False within the standard library."""
    name, home, owner = (getattr(function, part, None) for part in ("__name__", "__module__", "__self__"))
    if by_user and (name in FROZEN or any(function is known for known in _FROZEN_BUILTINS)):
        return [f"uses {name}"]
    if home in ("_random", "_uuid") or name in ("urandom", "getrandom") or isinstance(owner, _GENERATORS):
        return [_DRAWS]
    if home == "time" or (owner in _CLOCKS and name in ("now", "utcnow", "today")):
        return ["reads a clock"]
    return ["starts a thread"] if home == "_thread" and str(name).startswith("start_") else []


def _frozen_in(code: types.CodeType) -> list[str]:
    """Give what a code object does, in words, that torch.fx would answer once and for all, or drop."""
    steps = list(dis.get_instructions(code))
    names = {step.opname for step in steps}
    reasons = [f"uses {word}" for word in sorted(FROZEN.intersection(code.co_names))]
    reasons += [reason for name, reason in _FROZEN_STEPS.items() if name in names]
    for before, step in zip([None, *steps], steps, strict=False):
        if step.opname in ("STORE_DEREF", "DELETE_DEREF") and step.argval in code.co_freevars:
            reasons.append(f"sets the name {step.argval} outside itself")
        compares_none = before is not None and before.opname.startswith("LOAD_CONST") and before.argval is None
        if step.opname == "IS_OP" and not compares_none:
            reasons.append("asks which object something is")
    return reasons


def asks_for_none(code: types.CodeType) -> bool:
    """Tell whether a code object asks what is None: a stand-in never is, an argument may be."""
    return any(step.opname == "IS_OP" or step.opname.endswith("NONE") for step in dis.get_instructions(code))


def loads_an_attribute(frame: types.FrameType) -> bool:
    """Tell whether a frame is at `x.name`, rather than in a call of getattr or hasattr."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] in ("LOAD_ATTR", "LOAD_METHOD")


def random_state() -> tuple[Any, str]:
    """Give the state of the global generators of Python and NumPy."""
    # The position in NumPy's stream, which its text shows, moves with every draw.
    return random.getstate(), repr(np.random.get_state())


def functions_of(module: nn.Module) -> list[types.FunctionType]:
    """Give a module's forward, and the methods and functions of its own package that it may call, read off its code."""
    package = _package(type(module))
    seen: dict[types.CodeType, types.FunctionType] = {}
    waiting: list[Any] = [type(module).forward]
    while waiting:
        function = inspect.unwrap(waiting.pop())
        if not isinstance(function, types.FunctionType) or function.__code__ in seen:
            continue
        seen[function.__code__] = function
        own = [value for _, value in named_by(function) if isinstance(value, types.FunctionType)]
        names = names_in(function.__code__)
        methods = [vars(base).get(name) for base in type(module).__mro__ for name in names if base is not nn.Module]
        waiting += [*(value for value in own if _package(value) == package), *methods]
    return [*seen.values()]


def names_in(code: types.CodeType) -> set[str]:
    """Give every name that a code object uses, and the code objects inside it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*(names_in(constant) for constant in inner))


def named_by(function: types.FunctionType) -> list[tuple[str, Any]]:
    """Give (name, value) of what a function's names stand for outside it: globals, those of other files, closures."""
    found = _globals_named(function.__code__, function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found.append((name, cell.cell_contents))
        except ValueError:  # Nothing is in it yet.
            continue
    return found


def named_in(frame: types.FrameType) -> list[tuple[str, Any]]:
    """Give the same as `named_by` of the function that a frame begins to run."""
    enclosed = [(name, frame.f_locals[name]) for name in frame.f_code.co_freevars if name in frame.f_locals]
    return _globals_named(frame.f_code, frame.f_globals) + enclosed


def _globals_named(code: types.CodeType, scope: dict[str, Any]) -> list[tuple[str, Any]]:
    names = names_in(code)
    files = [vars(scope[name]) for name in names & scope.keys() if isinstance(scope[name], types.ModuleType)]
    return [(name, home[name]) for home in (scope, *files) for name in sorted(names & home.keys())]


def _package(thing: Any) -> str:
    return (thing.__module__ or "").partition(".")[0]
