"""Calls of the C library on NumPy arrays that lie in poisoned memory between guard zones."""

import numpy as np
from numpy.typing import NDArray

from gem_activations import GemSpec
from gem_activations.kernels.cpu import DTYPES, OPERATIONS, Library

STORED = {"float32": np.float32, "float64": np.float64, "bfloat16": np.uint16, "float16": np.float16}
GUARD = 64  # elements on either side that nothing may touch
POISON = 0xA5  # bytes of a guard


def encode(values, dtype: str) -> NDArray:
    """Return values as the library stores them; bfloat16, which NumPy lacks, as the upper half of a float32's bits."""
    if dtype != "bfloat16":
        return np.asarray(values, np.float64).astype(STORED[dtype])
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def decode(stored: NDArray, dtype: str) -> NDArray[np.float64]:
    if dtype == "bfloat16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float64)


def every_pattern(dtype: str) -> NDArray:
    return np.arange(2**16, dtype=np.uint16).view(STORED[dtype])


def bits(array: NDArray) -> NDArray:
    return array.view(f"u{array.itemsize}")


def guarded(count: int, dtype: str, offset: int = 0) -> tuple[NDArray, NDArray]:
    """Return a block of guards and poison, and its view of `count` elements that starts `offset` elements later."""
    kind = np.dtype(STORED[dtype])
    block = np.full((count + offset + 2 * GUARD) * kind.itemsize, POISON, np.uint8).view(kind)
    inside = block[GUARD + offset : GUARD + offset + count]
    bits(inside)[:] = np.iinfo(f"u{kind.itemsize}").max  # a NaN in every dtype
    return block, inside


def place(stored: NDArray, dtype: str, offset: int = 0) -> NDArray:
    """Return a copy of `stored` that starts `offset` elements after a multiple of its item size."""
    _, inside = guarded(stored.size, dtype, offset)
    inside[:] = stored
    return inside


def run(
    library: Library, operation: str, spec: GemSpec, dtype: str, *inputs: NDArray, threads: int = 1, offset: int = 0
):
    """Return the outputs as a list of stored arrays; guards are checked, inputs are checked to be unchanged."""
    inputs = tuple(map(np.ascontiguousarray, inputs))
    count = inputs[0].size
    before = [bits(array).copy() for array in inputs]
    blocks = [guarded(count, dtype, offset) for _ in range(OPERATIONS[operation].outputs)]
    outputs = [inside for _, inside in blocks]
    call(library, operation, spec, dtype, outputs, list(inputs), threads)
    for block, _ in blocks:
        guards = np.concatenate([block[: GUARD + offset], block[GUARD + offset + count :]])
        assert (guards.view(np.uint8) == POISON).all()
    assert all((bits(array) == old).all() for array, old in zip(inputs, before, strict=True))
    return outputs


def call(library: Library, operation: str, spec: GemSpec, dtype: str, outputs, inputs, threads: int = 1) -> None:
    assert all(array.flags.c_contiguous and array.dtype == STORED[dtype] for array in (*outputs, *inputs))
    addresses = [array.ctypes.data for array in (*outputs, *inputs)]
    library.call(OPERATIONS[operation], spec, DTYPES[dtype], inputs[0].size, threads, *addresses)
