"""Every backend of Keras in a process of its own, which runs backend_cases.py; and what fails before that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("backend_cases.py")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The one place of all backends: each finds the model that the one before it has saved."""
    return tmp_path_factory.mktemp("keras")


@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_backend(backend, folder):
    own = {"KERAS_BACKEND": backend, "KERAS_HOME": str(folder / backend), "GEM_KERAS_FOLDER": str(folder)}
    program = [sys.executable, "-m", "pytest", str(CASES), "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {**os.environ, **QUIET, **own}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def test_tflite():
    program = [sys.executable, "-m", "pytest", str(CASES.with_name("tflite_cases.py")), "-p", "no:cacheprovider"]
    environment = {**os.environ, **QUIET, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def say_the_error(prepare="", backend="torch"):
    code = f"""
import sys
{prepare}
try:
    import gem_activations.keras
except Exception as error:
    print(type(error).__name__, isinstance(error, __import__("gem_activations").GemError), error)
"""
    environment = {**os.environ, **QUIET, "KERAS_BACKEND": backend}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


def test_a_missing_backend_says_how_to_choose_another():
    said = say_the_error("sys.modules['torch'] = None").stdout
    assert said.startswith("MissingDependencyError True keras needs torch, which is not installed; install it, or")
    assert "KERAS_BACKEND" in said


@pytest.mark.parametrize("backend", ["nonsense", "mlx"])
def test_an_unknown_backend_says_how_to_choose_another(backend):
    said = say_the_error(backend=backend).stdout
    assert said.startswith(f"BackendError True keras cannot be imported (Unable to import backend : {backend}); set")
    assert "KERAS_BACKEND to tensorflow, jax or torch" in said
