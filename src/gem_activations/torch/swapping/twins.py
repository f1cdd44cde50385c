"""Copies of modules that share their tensors, and what a forward has changed: in such a copy, or outside the module."""

import inspect
import io
import pickle
import sys
import types
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...errors import ModelError
from .observing import named_in

_ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.MethodDescriptorType)
_SHARED = (Tensor, torch.ScriptObject, torch.jit.ScriptModule, fx.Proxy, *_CODE)
_FIXED = (*_ATOMS, *_SHARED, nn.Module)
_LISTS = inspect.getfile(nn.ModuleList)  # What is here goes through the modules that a container holds now.
_OWNERS = (type, types.FunctionType, types.ModuleType)
_CONTAINERS = (list, deque, dict, set)
# What torch keeps in every module; `training` is read by forwards as their own settings are.
PLAIN = vars(nn.Module()).keys() - {"training"}


class Twin:
    """A copy of a module and its parts, with the tensors of the original.

    Attributes:
        module: The copy.
        reads: (dotted name of a part, attribute) of what was read under `noting_reads`.

    Args:
        module: The original.
        training: The training mode of the copy and all its parts.
        late: (dotted name of a part, attribute) of the functions that are looked up at each call.
    """

    def __init__(self, module: nn.Module, training: bool, late: frozenset[tuple[str, str]]) -> None:
        named = [(name, part) for name, part in module.named_modules() if not isinstance(part, torch.jit.ScriptModule)]
        parts: dict[int, Any] = {id(part): object.__new__(type(part)) for _, part in named}
        shared: dict[int, Any] = {}
        states = [{name: value for name, value in vars(part).items() if name not in PLAIN} for _, part in named]
        copies = _load(_dump(states, shared, parts), shared, parts)
        for (place, part), state in zip(named, copies, strict=True):
            plain = {name: _copy(value) for name, value in vars(part).items() if name in PLAIN}
            plain["_modules"] = {name: parts.get(id(child), child) for name, child in plain["_modules"].items()}
            calls = {name: _LateCall(f"{home}.{name}".removeprefix(".")) for home, name in late if home == place}
            vars(parts[id(part)]).update(plain | state | calls | {"training": training})
        self.module: nn.Module = parts[id(module)]
        self.reads: set[tuple[str, str]] = set()
        self._names = {id(parts[id(part)]): name for name, part in named}
        self._parts = list(parts.values())
        self._known = {id(part): part for part in self._parts}
        self._alive: dict[int, Any] = {}  # No id may be used again while states are compared.
        self._before = [self._state(part) for part in self._parts]

    @contextmanager
    def noting_reads(self) -> Iterator[None]:
        """Note each attribute that is read of the copies, through nn.Module itself, as torch.fx does for calls."""

        def look_up(part: Any, name: str) -> Any:
            known = self._names.get(id(part))
            if known is not None and name in object.__getattribute__(part, "__dict__"):
                listed = name == "_modules" and sys._getframe(1).f_code.co_filename == _LISTS
                self.reads |= {(known, name)} if listed or name not in PLAIN else set()
            return object.__getattribute__(part, name)

        setattr(nn.Module, "__getattribute__", look_up)  # noqa: B010 -- a method of every module, for this long
        try:
            yield
        finally:
            delattr(nn.Module, "__getattribute__")

    def changed(self) -> list[str]:
        """Give the names of the attributes that are set anew, gone, or have other contents."""
        changed: set[str] = set()
        for part, before in zip(self._parts, self._before, strict=True):
            now = self._state(part)
            changed |= {name for name in now | before if now.get(name) != before.get(name)}
        return sorted(changed)

    def _state(self, part: nn.Module) -> dict[str, Any]:
        """Give what is equal only while nothing in a part's attributes is changed."""
        state: dict[str, Any] = {}
        for name, value in vars(part).items():
            if isinstance(value, _ATOMS):
                state[name] = (type(value), repr(value))
            elif name not in PLAIN:
                state[name] = _dump(value, self._alive, self._known)
            elif isinstance(value, dict):
                state[name] = [(key, id(child)) for key, child in value.items()]
                self._alive.update((id(child), child) for child in value.values())
            else:
                state[name] = repr(value)
        return state


class Outside:
    """What the code that runs names outside itself and may change: containers and objects, global or enclosed."""

    def __init__(self) -> None:
        self._alive: dict[int, Any] = {}
        self._kept: dict[int, tuple[str, Any, bytes, Any]] = {}

    def meet(self, frame: types.FrameType) -> None:
        """Keep the state of what the code of a frame names, before it runs."""
        for name, value in named_in(frame):
            if id(value) not in self._kept and (_is_users(value) or not isinstance(value, _FIXED)):
                self._kept[id(value)] = name, value, self._write(value), _contents(value)

    def restore(self) -> list[str]:
        """Put back what containers held, and the attributes of objects; give the names of what has changed."""
        changed: list[str] = []
        for name, value, before, contents in self._kept.values():
            if self._write(value) == before:
                continue
            changed.append(name)
            if contents is not None:
                _put_back(value, contents)
        return changed

    def _write(self, value: Any) -> bytes:
        if isinstance(value, _OWNERS):
            own = {name: held for name, held in vars(value).items() if _counts(name, held)}
            self._alive.update((id(held), held) for held in own.values())
            return repr([(name, id(held)) for name, held in own.items()]).encode()
        try:
            return _dump(value, self._alive, {})
        except Exception:  # It cannot be written: nothing is known of it.
            return b""


def _is_users(value: Any) -> bool:
    """Tell whether something is a class, a function or a file of the user's, which may have attributes of its own."""
    if not isinstance(value, _OWNERS):
        return False
    home = value.__name__ if isinstance(value, types.ModuleType) else value.__module__ or ""
    package = home.partition(".")[0]
    return package != "torch" and package not in sys.stdlib_module_names


def _counts(name: str, held: Any) -> bool:
    """Tell whether an attribute may be the forward's doing: an import sets files and names between underscores."""
    return not name.startswith("__") and not isinstance(held, types.ModuleType)


def _contents(value: Any) -> Any:
    if type(value) in _CONTAINERS:
        return value.copy()
    return dict(vars(value)) if hasattr(value, "__dict__") else None


def _put_back(value: Any, contents: Any) -> None:
    if isinstance(value, _OWNERS):
        for name in [name for name, held in vars(value).items() if _counts(name, held) and name not in contents]:
            delattr(value, name)
        for name, held in contents.items():
            if _counts(name, held) and vars(value).get(name) is not held:
                setattr(value, name, held)
        return
    home = value if type(value) in _CONTAINERS else vars(value)
    home.clear()
    home.extend(contents) if isinstance(home, (list, deque)) else home.update(contents)


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, (dict, set)) else value


class _LateCall:
    """Stands for a function that a module holds: its call becomes a call of whatever the attribute is then."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __hash__(self) -> int:
        raise ModelError(f"it looks {self.target} up")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tracer: Any = next((given.tracer for given in (*args, *kwargs.values()) if isinstance(given, fx.Proxy)), None)
        if tracer is None:
            raise ModelError(f"it calls {self.target} with no tensor that goes through it")
        return tracer.create_proxy("call_module", self.target, args, kwargs)

    def __eq__(self, other: object) -> bool:
        raise ModelError(f"it asks what {self.target} is")


class _Unusable:
    """Stands where an attribute cannot be copied, such as a lock or an open file."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModelError(f"it uses a {self.kind}, which cannot be copied")

    def __bool__(self) -> bool:
        raise ModelError(f"it asks a {self.kind}, which cannot be copied")


class _Pickler(pickle.Pickler):
    """Writes an object, but for tensors, code, and the parts of a module, which are named by their ids."""

    def __init__(self, file: io.BytesIO, shared: dict[int, Any], parts: dict[int, Any]) -> None:
        super().__init__(file, protocol=5)
        self._shared, self._parts = shared, parts

    def persistent_id(self, obj: Any) -> int | None:
        if id(obj) not in self._parts and not isinstance(obj, _SHARED):
            return None
        self._shared[id(obj)] = obj
        return id(obj)

    def reducer_override(self, obj: Any) -> Any:
        try:
            obj.__reduce_ex__(5)
        except Exception:  # Whatever says here that it cannot be copied.
            return _Unusable, (type(obj).__name__,)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: dict[int, Any], parts: dict[int, Any]) -> None:
        super().__init__(file)
        self._known = shared | parts

    def persistent_load(self, pid: Any) -> Any:
        return self._known[pid]


def _dump(value: Any, shared: dict[int, Any], parts: dict[int, Any]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, shared, parts).dump(value)
    return file.getvalue()


def _load(data: bytes, shared: dict[int, Any], parts: dict[int, Any]) -> Any:
    return _Unpickler(io.BytesIO(data), shared, parts).load()
