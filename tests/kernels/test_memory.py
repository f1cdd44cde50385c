"""Where an element lies, how many there are, who computes it and over what: none of it may change a bit."""

import ctypes
import os
import struct
import subprocess
import sys
import textwrap
import threading
from itertools import permutations

import numpy as np
import pytest

from gem_activations import GemSpec
from gem_activations.errors import BackendError
from gem_activations.kernels.cpu.library import BACKWARD_SCALED, SpecHandle, spec_handle

from .calls import OPERATIONS, bits, call, encode, place, run

SPECS = [GemSpec(n, eps, leak) for n in (1, 3, 6, 20) for eps, leak in ((1.0, 0.0), (1e-4, 0.01))]
PARALLEL = 100_003  # well above the size from which threads share the work, and no multiple of anything

every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
every_operation = pytest.mark.parametrize("operation", OPERATIONS)


def inputs(operation: str, dtype: str, count: int) -> list[np.ndarray]:
    """Return numbers of both signs over a few decades, with NaN, infinities and zeros among them."""
    generator = np.random.default_rng(count)
    arrays = []
    for _ in range(OPERATIONS[operation].inputs):
        values = generator.standard_normal(count) * 10.0 ** generator.uniform(-4, 2, count)
        special = generator.random(count) < 0.02
        values[special] = generator.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, 3e38], special.sum())
        arrays.append(encode(values, dtype))
    return arrays


def same(got, want) -> bool:
    return all(np.array_equal(bits(a), bits(b)) for a, b in zip(got, want, strict=True))


@every_dtype
@every_operation
def test_an_element_does_not_depend_on_position_count_or_alignment(library, operation, dtype):
    for spec in SPECS:
        arrays = inputs(operation, dtype, 1200)
        whole = run(library, operation, spec, dtype, *arrays)
        generator = np.random.default_rng(1)
        for count in (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 127, 255, 257, 511, 513, 1025):
            start = int(generator.integers(0, 1200 - count))
            offset = int(generator.integers(0, 17))
            parts = [place(array[start : start + count], dtype, offset + k) for k, array in enumerate(arrays)]
            got = run(library, operation, spec, dtype, *parts, offset=offset + 3)
            assert same(got, [array[start : start + count] for array in whole]), (spec, count, start, offset)


@every_dtype
@every_operation
def test_an_output_may_be_any_input(library, operation, dtype):
    shape = OPERATIONS[operation]
    places = list(permutations(range(shape.inputs), shape.outputs))
    for spec in SPECS:
        arrays = inputs(operation, dtype, 700)
        want = run(library, operation, spec, dtype, *arrays)
        for positions in places:
            copies = [array.copy() for array in arrays]
            outputs = [copies[k] for k in positions]
            call(library, operation, spec, dtype, outputs, copies)
            assert same(outputs, want), (spec, positions)


@every_dtype
@every_operation
def test_threads_change_no_bit(library, operation, dtype):
    pytest.importorskip("torch", reason="it brings the OpenMP runtime")
    for spec in (GemSpec(2), GemSpec(5, 1e-4, 0.01)):
        arrays = inputs(operation, dtype, PARALLEL)
        want = run(library, operation, spec, dtype, *arrays)
        for threads in (2, 3, 8):
            assert same(run(library, operation, spec, dtype, *arrays, threads=threads), want)


def test_calls_from_several_python_threads_at_once(built):
    arrays = inputs("backward_from_output", "float32", PARALLEL)
    want = run(built, "backward_from_output", GemSpec(2), "float32", *arrays)
    agreed = []

    def work():
        for _ in range(5):
            agreed.append(same(run(built, "backward_from_output", GemSpec(2), "float32", *arrays, threads=2), want))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert agreed == [True] * 15


def test_a_bad_call_is_refused_and_writes_nothing(built):
    x = np.ones(4, np.float32)
    out = np.zeros(4, np.float32)
    forward = OPERATIONS["forward"]
    half_wide = GemSpec(9)
    object.__setattr__(half_wide, "handle", SpecHandle.from_buffer_copy(spec_handle(GemSpec(9))))
    half_wide.handle.wide, half_wide.handle.address = 0, ctypes.addressof(half_wide.handle)
    for operation, spec, dtype, count in (
        (forward, GemSpec(), 4, 4),
        (forward, GemSpec(), -1, 4),
        (forward, GemSpec(), 0, -4),
        (forward, half_wide, 0, 4),
        (forward._replace(code=BACKWARD_SCALED.code + 1), GemSpec(), 0, 4),
        (forward._replace(code=-1), GemSpec(), 0, 4),
    ):
        with pytest.raises(BackendError, match="refused operation"):
            built.call(operation, spec, dtype, count, 1, out.ctypes.data, x.ctypes.data)
    no_spec = struct.pack("@P4q2P", 0, 0, 0, 4, 1, out.ctypes.data, x.ctypes.data)
    assert built._run(no_spec) < 0
    assert (out == 0).all()


PRELUDE = """
    import os, signal, sys
    import numpy as np
    from gem_activations import GemSpec
    from gem_activations.kernels import cpu

    x = np.linspace(-3, 3, 400_003, dtype=np.float32)
    alone = cpu.forward(x, GemSpec())
"""


def python(script: str) -> str:
    code = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and the scope of libtorch's libgomp")


@linux
@pytest.mark.usefixtures("built")
def test_work_is_shared_with_the_threads_that_pytorch_has():
    pytest.importorskip("torch")
    counts = python("""
        def started(work):
            before = len(os.listdir("/proc/self/task"))
            work()
            return len(os.listdir("/proc/self/task")) - before

        def shared():
            assert np.array_equal(cpu.forward(x, GemSpec(), threads=2), alone)

        print(started(shared))
        import torch
        print(started(shared))
        torch.set_num_threads(2)
        torch.ones(4_000_000).sin()
        print(started(shared))
    """).split()
    assert counts == ["0", "1", "0"]  # alone without a runtime; then one thread more, then PyTorch's own


@linux
@pytest.mark.usefixtures("built")
def test_a_forked_child_computes_alone():
    pytest.importorskip("torch")
    told = python("""
        import torch
        cpu.forward(x, GemSpec(), threads=2)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            good = np.array_equal(cpu.forward(x, GemSpec(), threads=2), alone)
            os._exit(0 if good and len(os.listdir("/proc/self/task")) == 1 else 1)
        print(os.waitpid(child, 0)[1], np.array_equal(cpu.forward(x, GemSpec(), threads=2), alone))
    """)
    assert told == "0 True"
