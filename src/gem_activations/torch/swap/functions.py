"""Functions such as F.gelu, served while the forward runs that calls them.

A forward is one function to Python and many calls to torch. `torch.overrides.TorchFunctionMode` is torch's own way to
see each call before it is made: entered around the forward of one module, it hands the calls of chosen functions to
child modules and lets all others pass. Nothing is traced or rewritten, so that branches, loops and options stay.

A mode is dynamic: it also sees what the forwards of the children call. A module serves its own calls alone, so
a child's forward takes the mode of its parent off the stack while it runs (`_run`).

The forward is entered by a subclass that is made for the class of the module, as torch.nn.utils.parametrize does it:
copies, replicas and pickles then call what they are given, whereas a function set on the instance would go on calling
the module that it was made for.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode  # pyright: ignore[reportPrivateUsage]

from ...errors import ModelError

_NAMES = [
    *("celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish"),
    *("prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh"),
    "tanhshrink",
]
# Every function of torch that is an activation: the name that all its spellings share.
FAMILY_OF: dict[Any, str] = {
    getattr(home, spelling): name
    for name in _NAMES
    for home in (functional, torch, Tensor)
    for spelling in (name, f"{name}_")
    if hasattr(home, spelling)
}
SPELLINGS: dict[str, str] = {spelling: name for name in _NAMES for spelling in (name, f"{name}_")}
_OVERWRITING = {function for function in FAMILY_OF if function.__name__.endswith("_")}
# The place of the argument `inplace` of those that have one; what is written in C has none.
_INPLACE_AT = {
    function: [*inspect.signature(function).parameters].index("inplace")
    for function in FAMILY_OF
    if isinstance(function, types.FunctionType) and "inplace" in inspect.signature(function).parameters
}
# The attribute that keeps, by the name of a function, the name of the child that serves it.
SERVED = "_functions_served"


def family_of(function: Any) -> str | None:
    """Return the name that all spellings of a function of torch share, None if it is no activation of torch.

    Example:
        >>> family_of(torch.relu), family_of(torch.Tensor.relu_), family_of(print)
        ('relu', 'relu', None)
    """
    try:
        return FAMILY_OF.get(function)
    except TypeError:  # It has no hash.
        return None


class _Calls(TorchFunctionMode):
    """Hands the calls of the functions that are named to modules."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self._modules = modules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Serve one call, in place if it is; within it, this mode is off the stack."""
        child, kwargs = self._modules.get(FAMILY_OF.get(func, "")), kwargs or {}
        if child is None:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        at, in_place = _INPLACE_AT.get(func, len(args)), getattr(child, "inplace", False)
        if func not in _OVERWRITING and not kwargs.get("inplace", len(args) > at and args[at]):
            y = child(x.clone() if in_place else x)
            out = kwargs.get("out")
            return y if out is None else out.resize_(y.shape).copy_(y)
        # The clone is what an activation that keeps its input for the backward pass can keep.
        return child(x) if in_place else x.copy_(child(x.clone()))


def _run(module: nn.Module, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function as a part of the forward of a module: with that module's mode alone, if it has one.

    The mode of the module around, one at most, is off the stack meanwhile; the modes above it stay on it.
    """
    above: list[TorchFunctionMode] = []
    around = None
    while around is None and torch._C._len_torch_function_stack():  # pyright: ignore[reportPrivateUsage]
        mode = _pop_mode()
        if isinstance(mode, _Calls):
            around = mode
        else:
            above.append(mode)
    for mode in reversed(above):
        _push_mode(mode)
    try:
        served = getattr(module, SERVED)
        if not served:
            return function(*args, **kwargs)
        with _Calls({name: getattr(module, child) for name, child in served.items()}):
            return function(*args, **kwargs)
    finally:
        if around is not None:
            for _ in above:
                _pop_mode()
            for mode in (around, *reversed(above)):
                _push_mode(mode)


def _steps(module: nn.Module, steps: Any) -> Iterator[Any]:
    """Go through a generator that a forward gave: what it computes, it computes at each step."""
    while True:
        try:
            value = _run(module, next, (steps,), {})
        except StopIteration:
            return
        yield value


class _Served:
    """What stands before the class of a module in the subclass that enters its forward."""

    def __init_subclass__(cls, **_: Any) -> None:
        """Keep the class from those that count the subclasses of the module's own."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Name the class of the module, which can be imported, in copies and pickles."""
        make, args, *rest = super().__reduce_ex__(protocol)
        own = vars(type(self))["_own_class"]
        return _make_again, (make, *(own if value is type(self) else value for value in args)), *rest

    def __prepare_scriptable__(self) -> Any:
        """Refuse torch.jit.script, which would compile the module's own forward."""
        raise ModelError(
            f"torch.jit.script cannot see the functions that swap serves in {type(self).__name__}; use "
            "torch.jit.trace, torch.export or torch.compile, or undo the swap"
        )


def _make_again(make: Callable[..., Any], *args: Any) -> Any:
    made = make(*args)
    made.__class__ = class_that_serves(type(made))
    return made


_classes: WeakValueDictionary[type, type] = WeakValueDictionary()


def class_that_serves(own: type) -> type:
    """Return the subclass of a module's class whose forward serves what the module's attribute `SERVED` says."""
    if own in _classes:
        return _classes[own]
    if "_own_class" in vars(own):
        return own

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = _run(self, super(cls, self).forward, args, kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        return _steps(self, given) if isinstance(given, types.GeneratorType) else given

    # A code object of its own: torch.compile counts how often one was compiled, and gives up after a few.
    alone: Any = types.FunctionType(forward.__code__.replace(), globals(), "forward", None, forward.__closure__)
    was = inspect.getattr_static(own, "forward")
    if isinstance(was, types.FunctionType):
        # Exporters and trainers read the names of the arguments, whether or not they look under wrappers.
        functools.update_wrapper(alone, was)
        alone.__signature__ = inspect.signature(was)
    names = {"forward": alone, "_own_class": own, "__module__": own.__module__, "__qualname__": own.__qualname__}
    cls: type = type(own)(own.__name__, (_Served, own), names)
    _classes[own] = cls
    return cls
