"""A library that is missing, damaged, of another machine or version, or wrong is refused with the reason."""

import ast
import copy
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gem_activations import GemSpec
from gem_activations.errors import BackendError, TensorError
from gem_activations.kernels import cpu
from gem_activations.kernels.cpu import loader
from gem_activations.kernels.cpu.library import ABI_VERSION, spec_handle

RUN = "int gem_run(const void *call) { return 0; }\n"


@pytest.fixture
def copied(built, tmp_path) -> Path:
    """Return a copy of the library and its checksum."""
    path = tmp_path / "gem_kernels.so"
    shutil.copy(built.path, path)
    shutil.copy(built.path.with_name(built.path.name + ".sha256"), tmp_path)
    return path


def reason(path: Path) -> str:
    """Return why a fresh process refuses the library, so that a crash is seen as such."""
    script = (
        "import sys, pathlib\n"
        "from gem_activations.errors import BackendError\n"
        "from gem_activations.kernels.cpu import loader\n"
        "loader.LIBRARY = pathlib.Path(sys.argv[1])\n"
        "assert loader.load() is None\n"
        "print(loader.status().reason)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


def test_a_copy_is_accepted(copied):
    library = loader.open_library(copied)
    assert (library.path, library.isa) == (copied, cpu.status().isa)


def test_missing(tmp_path):
    assert "were not built" in reason(tmp_path / "gem_kernels.so")


def status(path: Path) -> cpu.Status:
    """Return the status in a fresh process: a library that was loaded once is not loaded from another path."""
    script = (
        "import sys, pathlib\n"
        "from gem_activations.kernels.cpu import loader\n"
        "loader.LIBRARY = pathlib.Path(sys.argv[1])\n"
        "print(tuple(loader.status()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    return cpu.Status(*ast.literal_eval(done.stdout))


def test_a_stripped_library_is_in_use_and_said_to_be_altered(copied):
    assert status(copied) == (True, "", cpu.status().isa, str(copied), False)
    if shutil.which("strip") is None:
        pytest.skip("no strip")
    before = copied.read_bytes()
    subprocess.run(["strip", "--strip-all" if sys.platform == "linux" else "-x", copied], check=True)
    assert copied.read_bytes() != before
    assert status(copied) == (True, "", cpu.status().isa, str(copied), True)


def test_a_library_with_something_added_is_in_use(copied):
    with copied.open("ab") as file:
        file.write(b"a signature" * 100)
    assert status(copied)[::4] == (True, True)


@pytest.mark.parametrize("checksum_text", [None, b"", b"\xff\xfe\n"])
def test_without_a_readable_checksum_it_is_in_use(copied, checksum_text):
    beside = copied.with_name(copied.name + ".sha256")
    beside.unlink()
    if checksum_text is not None:
        beside.write_bytes(checksum_text)
    assert status(copied)[::4] == (True, True)


@pytest.mark.skipif(sys.platform != "linux", reason="cuts an ELF file")
@pytest.mark.parametrize("kept", [20, 9000, -1])
def test_truncated(copied, kept):
    copied.write_bytes(copied.read_bytes()[:kept])
    assert "its end is missing" in reason(copied)


def test_text_instead_of_a_library(copied):
    copied.write_text("<html>404</html>\n" * 1000)
    assert "not this package's kernel library for this machine" in reason(copied)


@pytest.mark.skipif(sys.platform != "linux", reason="edits an ELF header")
def test_of_another_machine(copied):
    content = bytearray(copied.read_bytes())
    content[18] = 0xF3 if content[18] != 0xF3 else 0x3E  # e_machine: RISC-V
    copied.write_bytes(content)
    assert "not this package's kernel library for this machine" in reason(copied)


def compiled(tmp_path: Path, source: str) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    path, text = tmp_path / "gem_kernels.so", tmp_path / "other.c"
    text.write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, text], check=True)
    return path


def test_another_library(tmp_path):
    path = compiled(tmp_path, "int unrelated(void) { return 7; }\n")
    assert "not this package's kernel library" in reason(path)


def test_another_version(tmp_path):
    path = compiled(tmp_path, f"int gem_abi_version(void) {{ return {ABI_VERSION + 1}; }}\n{RUN}")
    assert f"has version {ABI_VERSION + 1} of the kernel interface, expected {ABI_VERSION}" in reason(path)


def test_wrong_values(tmp_path):
    path = compiled(tmp_path, f"int gem_abi_version(void) {{ return {ABI_VERSION}; }}\n{RUN}")
    assert "computes wrong values" in reason(path)


def test_status_of_the_library_in_use(built):
    status = cpu.status()
    assert (status.available, status.reason, status.path) == (True, "", str(built.path))
    assert status.isa in ("baseline", "avx2", "avx512")


def test_an_unknown_instruction_set(built):
    with pytest.raises(BackendError, match="expected one of baseline, avx2, avx512"):
        built.use_isa("sse9")


def test_a_spec_keeps_its_handle_and_copies_make_their_own():
    spec = GemSpec(2, 1.0)
    assert spec_handle(spec) is spec_handle(spec) is spec.handle
    assert copy.deepcopy(spec).handle is None
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.usefixtures("built")
def test_arrays_keep_shape_and_dtype_and_any_layout():
    x = np.linspace(-2, 2, 24).reshape(2, 3, 4)
    spec = GemSpec(2, 1.0, 0.1)
    for array in (x, x.T, x[:, ::2], x[0, 0, 0], x[:0]):
        y = cpu.forward(array, spec)
        assert (y.shape, y.dtype) == (array.shape, array.dtype)
        np.testing.assert_allclose(y, spec(array), rtol=1e-14)
    grad_x, grad_gate = cpu.glu_backward(x, x, x.astype(float), spec)
    np.testing.assert_allclose(grad_x, x * spec(x), rtol=1e-13)
    np.testing.assert_allclose(grad_gate, x * x * spec.derivative(x), rtol=1e-13)
    to_grad, to_x = cpu.second(x, x, x, spec)
    np.testing.assert_allclose(to_grad, x * spec.derivative(x), rtol=1e-13)
    np.testing.assert_allclose(to_x, x * x * spec.second_derivative(x), rtol=1e-13)


@pytest.mark.usefixtures("built")
def test_arrays_of_other_or_mixed_kinds_are_refused():
    x = np.ones(3, np.float32)
    with pytest.raises(TensorError, match=r"got int64\[3\]"):
        cpu.forward(np.arange(3), GemSpec())
    with pytest.raises(TensorError, match=r"got float32\[3\], float64\[3\]"):
        cpu.backward(x, x.astype(float), GemSpec())
    with pytest.raises(TensorError, match=r"got float32\[3\], float32\[2\]"):
        cpu.glu_forward(x, x[:2], GemSpec())
