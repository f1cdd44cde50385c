"""Where the arithmetic of an eager call runs, outside autograd: the plain formula, the C or the Triton kernels.

`choose_backend` is the whole rule for ordinary tensors; `is_traced` and `is_transformed` tell which tensors are others.
"""

import contextlib
import ctypes
import importlib
import math
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function_unary  # pyright: ignore[reportUnknownVariableType] -- torch types it loosely

from ..errors import BackendError, MissingDependencyError
from ..kernels import cpu
from ..kernels.cpu import BACKWARD_SCALED, FORWARD_SCALED, OPERATIONS, Operation, Scales, spec_handle
from ..spec import GemSpec
from . import formula

BackendName = Literal["auto", "plain", "cpu", "triton"]

_NAMES = get_args(BackendName)
_told: set[str] = set()
_OURS_AND_TORCHS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))
_FORWARD = OPERATIONS["forward"]
_BACKWARD, _SECOND, _THIRD, _TANGENT = (
    (OPERATIONS[name], OPERATIONS[f"{name}_from_output"]) for name in ("backward", "second", "third", "tangent")
)
PLAINLY, IN_PLACE = range(2)
"""How `Cpu.compute` takes a call: as it is, or into its input."""
RECORDERS: Any = (
    torch._C._are_functorch_transforms_active,  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    torch._C._len_torch_dispatch_stack,  # pyright: ignore[reportPrivateUsage]
    torch._C._get_tracing_state,  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
)
"""They tell of transforms of torch.func, of dispatch modes and of torch.jit.trace; false, 0 or None: there is none."""
_transforms_active, _dispatch_modes, _tracing_state = RECORDERS
_functorch: Any = torch._C._functorch  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_has_storage: Any = torch._C._has_storage  # pyright: ignore[reportPrivateUsage]
_ORDINARY = (Tensor, torch.nn.Parameter)
_threads = torch.get_num_threads
_is_copy_on_write: Any = torch._C._is_cow_tensor  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_storage_address: Any = torch._C._data_address  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_GATED = (OPERATIONS["glu_forward"].code, OPERATIONS["glu_backward"].code)
_CODES = {getattr(torch, name): code for name, code in cpu.DTYPES.items()}


class Backend(Protocol):
    """What computes values and gradients on ordinary tensors (not traced, not wrapped), outside autograd."""

    def output_is_enough(self, spec: GemSpec, dtype: torch.dtype) -> bool:
        """Return whether the gradient from the output takes at most 1.2 times as long as the one from the input."""
        ...

    def forward(self, x: Tensor, spec: GemSpec, inplace: bool) -> Tensor:
        """Return f(x) in the dtype and memory format of x; x itself, overwritten, if `inplace`."""
        ...

    def backward(self, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Return grad * f'(x), where `kept` is x, or f(x) if `from_output`; all of one dtype and shape."""
        ...

    def second(
        self, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Return gg d1 and gg grad d2, the backward pass of `backward`: d1 = f'(x), d2 is its derivative by `kept`.

        d2 is f''(x), or f''(x) / f'(x) from the output: its gradient is multiplied by f'(x) on its way to x.
        """
        ...

    def third(
        self, a: Tensor, b: Tensor, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a d1 + b grad d2, b gg d2 and a gg d2 + b gg grad d3: the backward pass of `second`."""
        ...

    def tangent(self, a: Tensor, b: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Return a d1 + b grad d2, the tangent of `backward`."""
        ...

    def inverse(self, y: Tensor, spec: GemSpec) -> Tensor:
        """Return the x with f(x) = y in the dtype of y; 0 for y <= 0 if leak is 0."""
        ...

    def glu_forward(self, x: Tensor, gate: Tensor, spec: GemSpec) -> Tensor:
        """Return x * f(gate) in the memory format of x."""
        ...

    def glu_backward(self, grad: Tensor, x: Tensor, gate: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
        """Return grad * f(gate) and grad * x * f'(gate)."""
        ...


class Plain:
    """The plain formula in torch operations, on any device."""

    def output_is_enough(self, spec: GemSpec, dtype: torch.dtype) -> bool:  # noqa: ARG002 -- Backend's signature
        """Tell that it is not: the inverse is an iteration over whole tensors."""
        return False

    def forward(self, x: Tensor, spec: GemSpec, inplace: bool) -> Tensor:
        """Return f(x); see Backend."""
        y = formula.value(x, spec)
        return x.copy_(y) if inplace else y

    def backward(self, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Return grad * f'(x); see Backend."""
        x = formula.inverse(kept, spec) if from_output else formula.widen(kept)
        return (grad * formula.derivative(x, spec)).to(grad.dtype)

    def second(
        self, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Return gg d1 and gg grad d2; see Backend."""
        d1, d2, _ = self._derivatives(kept, spec, from_output)
        return (grad_grad * d1).to(kept.dtype), (formula.widen(grad_grad) * grad * d2).to(kept.dtype)

    def third(
        self, a: Tensor, b: Tensor, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the backward pass of `second`; see Backend."""
        d1, d2, d3 = self._derivatives(kept, spec, from_output)
        grad_grad, grad = formula.widen(grad_grad), formula.widen(grad)
        results = a * d1 + b * grad * d2, b * grad_grad * d2, grad_grad * (a * d2 + b * grad * d3)
        first, second, third = (result.to(kept.dtype) for result in results)
        return first, second, third

    def tangent(self, a: Tensor, b: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Return a d1 + b grad d2; see Backend."""
        d1, d2, _ = self._derivatives(kept, spec, from_output)
        return (a * d1 + formula.widen(b) * grad * d2).to(kept.dtype)

    def inverse(self, y: Tensor, spec: GemSpec) -> Tensor:
        """Return x; see Backend."""
        return formula.inverse(y, spec).to(y.dtype)

    def _derivatives(self, kept: Tensor, spec: GemSpec, from_output: bool) -> tuple[Tensor, Tensor, Tensor]:
        x = formula.inverse(kept, spec) if from_output else formula.widen(kept)
        return formula.derivatives(x, spec, from_output)

    def glu_forward(self, x: Tensor, gate: Tensor, spec: GemSpec) -> Tensor:
        """Return x * f(gate); see Backend."""
        return (formula.widen(x) * formula.value(formula.widen(gate), spec)).to(x.dtype)

    def glu_backward(self, grad: Tensor, x: Tensor, gate: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
        """Return both gradients; see Backend."""
        wide = formula.widen(gate)
        grad_x = grad * formula.value(wide, spec)
        grad_gate = formula.widen(grad) * x * formula.derivative(wide, spec)
        return grad_x.to(x.dtype), grad_gate.to(gate.dtype)


PLAIN = Plain()


class Cpu:
    """The C library on ordinary CPU tensors.

    `compute(operation, address of the spec, how, *inputs)` is the short way, in C, for contiguous tensors of one shape
    and dtype; it declines all others, by None. They go the long way: memory is read and written in place if it is
    dense, whatever the order of its dimensions (channels_last, say); a tensor with gaps or repeated elements is first
    copied to dense memory, as its result is dense anyway.
    """

    def __init__(self, library: cpu.Library) -> None:
        self._library = library
        self._has_table_lookup = library.isa == "avx512"
        self.module = library.bind(
            Tensor,
            torch.nn.Parameter,
            getattr(Tensor, "__dlpack_c_exchange_api__", None),
            torch.empty_like,
            _threads,
            torch.is_grad_enabled,
            Tensor.is_neg,
            _is_copy_on_write,
            has_torch_function_unary,
            forward_ad,
            RECORDERS,
        )
        self.compute: Any = self.module.compute if self.module else lambda *_: None

    @property
    def run_address(self) -> int:
        """The address of the library's gem_run."""
        return self._library.run_address

    def output_is_enough(self, spec: GemSpec, dtype: torch.dtype) -> bool:
        """Return whether it is, as measured (benchmarks/results/cpu_save.jsonl): see Backend.

        These are the cases that read a table held in registers, and wait for the memory rather than for the
        arithmetic; half precision is half the memory.
        """
        return self._has_table_lookup and dtype == torch.float32 and spec.leak == 0 and spec.n <= 4

    def forward(self, x: Tensor, spec: GemSpec, inplace: bool) -> Tensor:
        """Return f(x); see Backend."""
        address = (spec.handle or spec_handle(spec)).address
        out = self.compute(_FORWARD.code, address, IN_PLACE if inplace else PLAINLY, x)
        if out is not None:
            return out
        if inplace and (x.is_neg() or not (x.is_contiguous() or _is_dense(x))):
            return x.copy_(self.forward(x, spec, False))
        return self._run(_FORWARD, spec, x, out=x if inplace else None)

    def backward(self, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Return grad * f'(x); see Backend."""
        return self._run(_BACKWARD[from_output], spec, grad, kept)

    def scaled_forward(self, x: Tensor, log_scale: Tensor, spec: GemSpec) -> Tensor:
        """Return f(x) with scales from memory: one, or one for each of the channels of a contiguous (N, C, *).

        `log_scale` is contiguous, of shape (C,), float32 or float64; of `spec` only n and leak count.
        """
        return self._run(FORWARD_SCALED, spec, x, scales=_scales(log_scale, x))

    def scaled_backward(self, grad: Tensor, x: Tensor, log_scale: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
        """Return grad * f'(x), and the gradient by log_scale: sums of grad (f(x) - x f'(x))."""
        to_scale = torch.empty_like(log_scale)
        scales = _scales(log_scale, x)
        scales.gradient = to_scale.data_ptr()
        return self._run(BACKWARD_SCALED, spec, grad, x, scales=scales), to_scale

    def second(
        self, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Return gg d1 and gg grad d2; see Backend."""
        return self._run(_SECOND[from_output], spec, grad_grad, grad, kept)

    def third(
        self, a: Tensor, b: Tensor, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the backward pass of `second`; see Backend."""
        return self._run(_THIRD[from_output], spec, a, b, grad_grad, grad, kept)

    def tangent(self, a: Tensor, b: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Return a d1 + b grad d2; see Backend."""
        return self._run(_TANGENT[from_output], spec, a, b, grad, kept)

    def inverse(self, y: Tensor, spec: GemSpec) -> Tensor:
        """Return x; see Backend."""
        return self._run(OPERATIONS["inverse"], spec, y)

    def glu_forward(self, x: Tensor, gate: Tensor, spec: GemSpec) -> Tensor:
        """Return x * f(gate); see Backend."""
        return self._run(OPERATIONS["glu_forward"], spec, x, gate)

    def glu_backward(self, grad: Tensor, x: Tensor, gate: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
        """Return both gradients; see Backend."""
        return self._run(OPERATIONS["glu_backward"], spec, grad, x, gate)

    def _run(
        self,
        operation: Operation,
        spec: GemSpec,
        *inputs: Tensor,
        out: Tensor | None = None,
        scales: Scales | None = None,
    ) -> Any:
        """Return the output, or a tuple of them: `out`, or new ones laid out as the tensor that was kept."""
        address = (spec.handle or spec_handle(spec)).address
        declined = out is not None or scales is not None
        result = None if declined else self.compute(operation.code, address, PLAINLY, *inputs)
        if result is not None:
            return result
        kept = inputs[-2] if operation.code in _GATED else inputs[-1]
        outputs = (out,) if out is not None else tuple(torch.empty_like(kept) for _ in range(operation.outputs))
        first = outputs[0]
        contiguous, itemsize = first.is_contiguous(), first.itemsize
        copies: list[Tensor] = []
        addresses = [output.data_ptr() for output in outputs]
        for tensor in inputs:
            # Unlike data_ptr(), the address of the storage leaves a copy-on-write tensor shared. Of zeros that are not
            # stored it is 0.
            start = _storage_address(tensor)
            alike = tensor.is_contiguous() if contiguous else tensor.stride() == first.stride()
            if start and alike and not tensor.is_neg():
                addresses.append(start + tensor.storage_offset() * itemsize)
            else:
                copies.append(torch.empty_like(first).copy_(tensor))
                addresses.append(copies[-1].data_ptr())
        addresses += [ctypes.addressof(scales)] if scales is not None else []
        self._library.call(operation, spec, _CODES[first.dtype], first.numel(), _threads(), *addresses)
        return outputs if operation.outputs > 1 else first


class Triton:
    """The Triton kernels on CUDA tensors."""

    def __init__(self, kernels: Any) -> None:
        self.forward = kernels.forward
        self.backward = kernels.backward
        self.second = kernels.second
        self.third = kernels.third
        self.inverse = kernels.inverse
        self.glu_forward = kernels.glu_forward
        self.glu_backward = kernels.glu_backward
        self.scaled_forward = kernels.scaled_forward
        self.scaled_backward = kernels.scaled_backward
        self.reason_not_served = kernels.reason_not_served

    def tangent(self, a: Tensor, b: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Return a d1 + b grad d2; see Backend."""
        return self.third(a, b, grad, grad, kept, spec, from_output)[0]

    def output_is_enough(self, spec: GemSpec, dtype: torch.dtype) -> bool:
        """Return whether it is, as measured on an H100 (benchmarks/results/gpu_kernels.jsonl): see Backend.

        In float32 both wait for the memory; in bfloat16 more steps of the inverse than n = 1 takes are seen.
        """
        return spec.leak == 0 and (spec.n <= 4 if dtype == torch.float32 else dtype == torch.bfloat16 and spec.n == 1)


@cache
def load_cpu() -> Cpu | None:
    """Return the C library's backend, or None if the library cannot be used."""
    library = cpu.load()
    return None if library is None else Cpu(library)


@cache
def load_nodes() -> tuple[Any, str]:
    """Return the module of nodes.cpp, or None and the reason."""
    try:
        nodes: Any = importlib.import_module(f"{__package__}.nodes")  # compiled, where PyTorch was at hand
    except ImportError as error:
        built = any(Path(__file__).parent.glob("nodes.*.so"))
        return None, f"they do not load: {error}" if built else "not built"
    if nodes.torch_version != torch.__version__:
        return None, f"built for PyTorch {nodes.torch_version}"
    if nodes.kernel_interface != cpu.ABI_VERSION:
        return None, f"built for version {nodes.kernel_interface} of the kernel interface"
    return nodes, ""


@cache
def load_triton() -> tuple[Triton | None, str]:
    """Return the Triton backend, or None and the reason."""
    try:
        from ..kernels import triton
    except MissingDependencyError as error:
        return None, str(error)
    return Triton(triton), ""


def _scales(log_scale: Tensor, x: Tensor) -> Scales:
    channels = log_scale.numel()
    inner = math.prod(x.shape[2:]) if channels > 1 else 1
    return Scales(log_scale.data_ptr(), None, _CODES[log_scale.dtype], channels, max(inner, 1))


def _is_dense(x: Tensor) -> bool:
    """Return whether the elements of x fill their memory in some order, each once."""
    return x.stride() == torch.empty_like(x, device="meta").stride()


class PlainFallbackWarning(RuntimeWarning):
    """The kernels that would serve a tensor are not there: the plain formula computes the same, slower. Given once."""


def choose_backend(name: BackendName, x: Tensor) -> Backend:
    """Return the backend for an ordinary tensor x: the kernels of its device, else the plain formula.

    Raises: BackendError: a backend forced by name that cannot serve x.
    """
    if name == "plain":
        return PLAIN
    kernels, reason = _kernels(x) if name == "auto" else _forced(name, x)
    if kernels is not None:
        return kernels
    if name != "auto":
        raise BackendError(f"backend={name!r} cannot serve this call: {reason}; use backend='auto' or 'plain'")
    if reason and reason not in _told:
        _told.add(reason)
        level, frame = 1, sys._getframe()  # The line shown is the user's.
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS_AND_TORCHS):
            level, frame = level + 1, frame.f_back
        message = f"gem_activations computes by the slower plain formula: {reason}"
        with contextlib.suppress(PlainFallbackWarning):  # A forward pass does not fail if warnings are errors.
            warnings.warn(message, PlainFallbackWarning, stacklevel=level)
    return PLAIN


def check_name(name: BackendName) -> None:
    """Raise BackendError for a name that is no backend's."""
    if name not in _NAMES:
        raise BackendError(f"backend={name!r}: expected one of {', '.join(_NAMES)}")


def backend_info() -> dict[str, str]:
    """Tell what serves eager calls: for each backend "in use", with details, or why it is not.

    Returns: Keys plain, cpu and triton, each with one sentence.
    Example:
        >>> sorted(backend_info())
        ['cpu', 'plain', 'triton']
    """
    library = cpu.status()
    triton, reason = load_triton()
    nodes, lack = load_nodes()
    altered = ", altered since it was built (stripped or signed, for instance)" if library.altered else ""
    served = f"in use for CPU tensors: instruction set {library.isa}, {library.path}{altered}; nodes of autograd "
    served += "in C++" if nodes else f"in Python, as those in C++ are not in use: {lack}"
    cuda = "in use for CUDA tensors" if torch.cuda.is_available() else "installed; there is no CUDA device"
    return {
        "plain": "in use for every other tensor, and under tracers and transforms",
        "cpu": served if library.available else f"not in use: {library.reason}",
        "triton": f"not in use: {reason}" if triton is None else cuda,
    }


def _kernels(x: Tensor) -> tuple[Backend | None, str]:
    """Return the kernels for the device of x, or None and the reason; no reason for a device that has none."""
    if x.is_cpu:
        kernels = load_cpu()
        return kernels, "" if kernels else cpu.status().reason
    return load_triton() if x.is_cuda else (None, "")


def _forced(name: str, x: Tensor) -> tuple[Backend | None, str]:
    if name == "cpu":
        return _kernels(x) if x.is_cpu else (None, f"it takes CPU tensors, not one on {x.device}")
    kernels, reason = load_triton()
    refusal = reason if kernels is None else kernels.reason_not_served(x) or ""
    return (None, refusal) if refusal else (kernels, "")


def refuse_forced_kernel(name: BackendName) -> None:
    """Raise BackendError for a kernel forced by name if a tracer or a transform needs torch operations."""
    if name not in ("auto", "plain"):
        raise BackendError(
            f"backend={name!r} cannot serve a traced, transformed or fake tensor, which needs torch operations; "
            "use backend='auto' or 'plain'"
        )


def is_traced(x: Tensor) -> bool:
    """Return whether x is no ordinary tensor with data of its own, or whether what is done with it is being recorded.

    A tensor without storage is sparse, or the batch that vmap makes of the gradients of a backward pass.
    """
    return (
        torch.compiler.is_compiling()
        or type(x) not in _ORDINARY
        or _transforms_active()
        or _dispatch_modes() > 0
        or _tracing_state() is not None
        or not _has_storage(x)
        or x.is_nested
        or x.is_meta
    )


def is_transformed(x: Tensor) -> bool:
    """Return whether torch.func's transforms, and nothing else, stand between x and an ordinary tensor."""
    if torch.compiler.is_compiling() or not _transforms_active() or _dispatch_modes() > 0:
        return False
    if any(layer.key() == _functorch.TransformType.Functionalize for layer in _functorch.get_interpreter_stack()):
        return False
    while _functorch.is_functorch_wrapped_tensor(x):
        x = _functorch.get_unwrapped(x)
    return type(x) in _ORDINARY and _has_storage(x) and not (x.is_nested or x.is_meta)
