"""`gem`, `egem` and `segem` on tensors, and the one place where an implementation is chosen."""

from functools import lru_cache
from types import NoneType
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.overrides import (
    handle_torch_function,
    has_torch_function_unary,  # pyright: ignore[reportUnknownVariableType] -- torch types it loosely
    has_torch_function_variadic,
)

from ..errors import TensorError
from ..spec import GemSpec
from . import compiled, formula
from .autograd import DirectActivation, apply_eagerly, apply_gated_eagerly, choices, short_way
from .backends import (
    PLAIN,
    BackendName,
    check_name,
    choose_backend,
    is_traced,
    is_transformed,
    refuse_forced_kernel,
)

Save = Literal["auto", "input", "output"]
_SAVES = get_args(Save)
is_dynamo_compiling = torch.compiler.is_dynamo_compiling
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def gem(
    x: Tensor,
    n: int = 1,
    *,
    inplace: bool = False,
    save: Save = "auto",
    backend: BackendName = "auto",
) -> Tensor:
    """Apply GEM, x^(2n+1) / (1 + x^(2n)) for x > 0, else 0, elementwise.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        inplace: Write the result into x, and return x; the gradient stays exact.
        save: Kept for the backward pass: "input", "output", or "auto", what costs less; see `activate`.
        backend: "auto", the fastest, or one by name: "plain", "cpu" or "triton".
    Returns: Same shape, dtype, device and memory format as x.
    Raises: SpecError: n out of its range; TensorError: an integer, boolean or complex tensor, or no tensor.
    Edge cases: f(+inf) = +inf, f(-inf) = 0, f(NaN) = NaN, f'(0) = 0.
    Source: Krause 2026, arXiv:2604.21677; https://gem-activations.github.io/gem-activations/mathematics.html.
    Example:
        >>> import torch
        >>> gem(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
        tensor([0.0000, 0.0000, 0.5000, 1.6000])
    """
    spec = _gem_spec(n) if type(n) is int and not is_dynamo_compiling() else _spec(n, 1.0, 0.0)
    return apply(x, spec, inplace, save, backend)


def egem(
    x: Tensor,
    n: int = 1,
    *,
    eps: float | None = None,
    scale: float | None = None,
    inplace: bool = False,
    save: Save = "auto",
    backend: BackendName = "auto",
) -> Tensor:
    """Apply E-GEM, x^(2n+1) / (eps + x^(2n)) for x > 0, else 0, elementwise.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0, 1e-4 by default: the gate is 1/2 at x = eps^(1/(2n)); eps -> 0 gives
            ReLU. That eps is added to x^(2n) is our reading of the paper.
        scale: In place of eps: the input at which the gate is 1/2, eps = scale^(2n), which is the other reading.
        inplace: Write the result into x, and return x; the gradient stays exact.
        save: Kept for the backward pass: "input", "output", or "auto", what costs less; see `activate`.
        backend: "auto", the fastest, or one by name: "plain", "cpu" or "triton".
    Returns: Same shape, dtype, device and memory format as x.
    Raises: SpecError: n, eps or scale out of its range, or both eps and scale; TensorError: an integer, boolean or
        complex tensor, or no tensor.
    Edge cases: f(+inf) = +inf, f(-inf) = 0, f(NaN) = NaN, f'(0) = 0.
    Source: Krause 2026, arXiv:2604.21677; https://gem-activations.github.io/gem-activations/mathematics.html.
    Example:
        >>> import torch
        >>> egem(torch.tensor([-1.0, 0.01, 1.0]))
        tensor([0.0000, 0.0050, 0.9999])
    """
    return apply(x, _spec(n, eps, 0.0, scale), inplace, save, backend)


def segem(
    x: Tensor,
    n: int = 1,
    *,
    eps: float | None = None,
    leak: float = 0.01,
    scale: float | None = None,
    inplace: bool = False,
    save: Save = "auto",
    backend: BackendName = "auto",
) -> Tensor:
    """Apply SE-GEM, x (leak + (1 - leak) F(x)) elementwise, with F(x) = x^(2n) / (eps + x^(2n)) for x > 0, else 0.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0, 1e-4 by default; eps -> 0 gives LeakyReLU(leak).
        leak: Floor of the gate, slope for x < 0 and lower bound of the derivative, 0 <= leak < 1. That the gate is
            floored is our reading of the paper.
        scale: In place of eps: the input at which the gate is halfway, eps = scale^(2n).
        inplace: Write the result into x, and return x; the gradient stays exact.
        save: Kept for the backward pass: "input", "output", or "auto", what costs less; see `activate`.
        backend: "auto", the fastest, or one by name: "plain", "cpu" or "triton".
    Returns: Same shape, dtype, device and memory format as x.
    Raises: SpecError: a parameter out of its range; TensorError: an integer, boolean or complex tensor, or no tensor.
    Edge cases: f(+inf) = +inf, f(-inf) = -inf, f(NaN) = NaN, f'(0) = leak.
    Source: Krause 2026, arXiv:2604.21677; https://gem-activations.github.io/gem-activations/mathematics.html.
    Example:
        >>> import torch
        >>> segem(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.0100,  0.0000,  0.9999])
    """
    return apply(x, _spec(n, eps, leak, scale), inplace, save, backend)


def activate(
    x: Tensor,
    spec: GemSpec,
    *,
    inplace: bool = False,
    save: Save = "auto",
    backend: BackendName = "auto",
) -> Tensor:
    """Apply the activation that `spec` describes: the dispatch that every function and module goes through.

    An eager call on an ordinary tensor uses a kernel, if there is one, and an autograd function with the analytic
    gradient, and so does a call under the transforms of torch.func. A tracer or a tensor subclass is given the plain
    formula, in operations that it can differentiate and fuse.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64.
        spec: A member of the family.
        inplace: Write the result into the storage of x, and return x; the gradient is then taken from the output.
        save: What eager mode keeps for the backward pass: "input", "output" (which the next layer keeps anyway), or
            "auto": the output if a kernel computes the gradient from it as fast as from the input, else the input.
        backend: "plain" (torch operations), "cpu" (the C kernels), "triton" (the GPU kernels), or "auto": the fastest
            that serves x.
    Returns: Same shape, dtype, device and memory format as x.
    Raises: TensorError: an integer, boolean, complex or sparse tensor, or no tensor; save="input" with inplace, or
        another word; BackendError: a forced backend that cannot serve x, or an unknown name.
    Edge cases: f(+inf) = +inf, f(-inf) = 0, or -inf with a leak, f(NaN) = NaN, f'(0) = leak. Where the output is kept,
        it must not be changed in place before the backward pass, as with ReLU.
    Example:
        >>> import torch
        >>> activate(torch.ones(2), GemSpec.from_scale(1, 0.5))
        tensor([0.8000, 0.8000])
    """
    return apply(x, spec, inplace, save, backend)


def apply(x: Tensor, spec: GemSpec, inplace: bool, save: Save, backend: BackendName) -> Tensor:
    """Do what `activate` says."""
    activate_shortly = short_way() if backend == "auto" and not (inplace or is_dynamo_compiling()) else None
    if activate_shortly is not None and save in _SAVES:
        # The usual call on a small tensor takes less time than all the questions that are asked below.
        handle = spec.handle
        y = activate_shortly(DirectActivation.attach, ((handle and handle.choices) or choices(spec))[save], x)
        if y is not None:
            return y
    check_options(save, inplace, backend)
    if not torch.compiler.is_compiling():
        if has_torch_function_unary(x):
            # A proxy of torch.fx, or a tensor subclass: it decides what happens, by torch's own protocol.
            return handle_torch_function(
                segem, (x,), x, n=spec.n, eps=spec.eps, leak=spec.leak, inplace=inplace, save=save, backend=backend
            )
        check_tensor(x)
        if not is_traced(x):
            chosen = choose_backend(backend, x)
            from_output = save == "output" or (save == "auto" and (inplace or chosen.output_is_enough(spec, x.dtype)))
            return apply_eagerly(x, spec, chosen, from_output, inplace)
    check_tensor(x)
    refuse_forced_kernel(backend)
    if x.is_nested and x.layout is torch.strided:
        nested: Any = torch.nested  # torch types it loosely.
        y = nested.as_nested_tensor([apply(part, spec, False, save, backend) for part in x.unbind()])
        return x.copy_(y) if inplace else y
    if is_transformed(x):
        return apply_eagerly(x, spec, choose_backend(backend, x), False, inplace)
    value = compiled.value if is_dynamo_compiling() and not torch.compiler.is_exporting() else formula.value
    return x.copy_(value(x.clone(), spec)) if inplace else value(x, spec)


def gem_glu(
    x: Tensor,
    gate: Tensor,
    *,
    n: int = 1,
    eps: float | None = None,
    leak: float = 0.0,
    scale: float | None = None,
    backend: BackendName = "auto",
) -> Tensor:
    """Apply the gated unit x * f(gate) elementwise, f the member of the family with the given parameters.

    Only the two inputs are kept for the backward pass.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64.
        gate: Same shape, dtype and device as x.
        n: Smoothness order, 1 <= n <= 64.
        eps: Width of the transition, eps > 0; 1 by default.
        leak: Floor of the gate of f, 0 <= leak < 1.
        scale: In place of eps: the input at which the gate of f is 1/2, eps = scale^(2n).
        backend: As for `activate`.
    Returns: Same shape, dtype and device as x, in the memory format of x.
    Raises: SpecError: a parameter out of its range; TensorError: an integer, boolean or complex tensor, or two tensors
        that differ in shape, dtype or device (under autocast too: cast one); BackendError: a forced backend that
        cannot serve x.
    Edge cases: An infinite x at a closed gate gives NaN, inf * 0. Half types are computed in float32 and rounded once.
    Source: Krause 2026, arXiv:2604.21677, for f; Shazeer 2020, arXiv:2002.05202, for gated units.
    Example:
        >>> import torch
        >>> gem_glu(torch.tensor([2.0, 2.0]), torch.tensor([1.0, -1.0]))
        tensor([1., 0.])
    """
    check_options("auto", False, backend)
    return apply_gated(x, gate, _spec(n, eps, leak, scale, 1.0), backend)


def apply_gated(x: Tensor, gate: Tensor, spec: GemSpec, backend: BackendName) -> Tensor:
    """Do what `gem_glu` says, with options that have been checked."""
    if not torch.compiler.is_compiling() and has_torch_function_variadic(x, gate):
        n, eps, leak = spec.n, spec.eps, spec.leak
        return handle_torch_function(gem_glu, (x, gate), x, gate, n=n, eps=eps, leak=leak, backend=backend)
    check_tensor(x)
    check_tensor(gate)
    # torch.jit.trace would record the comparison of shapes, and warn.
    for aspect in ("dtype", "device") if torch.jit.is_tracing() else ("shape", "dtype", "device"):  # pyright: ignore[reportPrivateImportUsage]
        if getattr(x, aspect) != getattr(gate, aspect):
            raise TensorError(
                f"x and gate must agree in {aspect}, got {getattr(x, aspect)} and {getattr(gate, aspect)}"
            )
    if is_traced(x) or is_traced(gate):
        refuse_forced_kernel(backend)
        if not (is_transformed(x) and is_transformed(gate)):
            return PLAIN.glu_forward(x, gate, spec)
    return apply_gated_eagerly(x, gate, spec, choose_backend(backend, x))


def check_tensor(x: Tensor) -> None:
    """Raise TensorError for what is not a dense tensor of a floating dtype."""
    if type(x) is Tensor and x.dtype in DTYPES and x.layout is torch.strided:
        return
    if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]  # an untyped caller may pass anything
        raise TensorError(f"expected a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise TensorError(f"expected a tensor of dtype float16, bfloat16, float32 or float64, got {x.dtype}")
    if x.layout is not torch.strided and not x.is_nested:
        raise TensorError(f"expected a dense tensor, got the layout {x.layout}; convert it by to_dense()")


def check_options(save: Save, inplace: bool, backend: BackendName) -> None:
    """Raise TensorError or BackendError for a way to save or a backend that there is not, or that is contradictory."""
    if save not in _SAVES:
        raise TensorError(f"save={save!r}: expected 'auto', 'input' or 'output'")
    if save == "input" and inplace:
        raise TensorError("save='input' with inplace=True: the input is overwritten; use save='output' or 'auto'")
    check_name(backend)


def _spec(n: int, eps: float | None, leak: float, scale: float | None = None, default: float = 1e-4) -> GemSpec:
    if not is_dynamo_compiling():
        # Other kinds of number may be unhashable or change in place; GemSpec converts or refuses them.
        if type(n) is int and type(eps) in _NUMBERS and type(leak) in _NUMBERS and type(scale) in _NUMBERS:
            return _cached_spec(n, eps, leak, scale, default)
        return GemSpec.of(n, eps, leak, scale, default=default)
    from torch.fx.experimental.symbolic_shapes import guard_scalar  # Loaded by the compiler; slow to import otherwise.

    # The compiler would warn about the cache, and folds the constant anyway. With dynamic shapes it makes symbols of
    # numbers too, but a spec is a constant of the graph.
    numbers: Any = [None if number is None else guard_scalar(number) for number in (n, eps, leak, scale, default)]
    return GemSpec.of(*numbers[:4], default=numbers[4])


_NUMBERS = (float, int, NoneType)
_gem_spec = lru_cache(maxsize=64)(GemSpec)


@lru_cache(maxsize=256)
def _cached_spec(n: int, eps: float | None, leak: float, scale: float | None, default: float) -> GemSpec:
    return GemSpec.of(n, eps, leak, scale, default=default)
