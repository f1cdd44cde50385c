"""The package as a whole: light to import, every public name documented, the same promises everywhere."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import gem_activations
from gem_activations import errors

SOURCE = Path(gem_activations.__file__).parent
FRAMEWORKS = ("torch", "scipy", "matplotlib", "polars", "sympy", "flint", "tyro")
FRAMEWORKS += ("jax", "keras", "tensorflow", "onnx", "transformers")


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_loads_no_framework():
    code = "import sys, gem_activations, gem_activations.catalog; print(*sys.modules)"
    loaded = run_python(code)
    assert "numpy" in loaded
    assert not set(loaded) & set(FRAMEWORKS)


def test_a_member_asked_of_the_package_is_said_to_be_in_its_fronts():
    with pytest.raises(ImportError, match=r"has no GEM: import it from gem_activations\.torch"):
        exec("from gem_activations import GEM")
    assert not hasattr(gem_activations, "gemm")


def test_a_missing_torch_is_one_clear_error():
    code = """
import sys
sys.modules["torch"] = None
try:
    import gem_activations.torch
except Exception as error:
    print(type(error).__name__, isinstance(error, __import__("gem_activations").GemError), "pip" in str(error))
"""
    assert run_python(code) == ["MissingDependencyError", "True", "True"]


@pytest.mark.parametrize(
    "name",
    [
        *("gem_activations", "gem_activations.catalog", "gem_activations.torch"),
        *("gem_activations.jax", "gem_activations.keras"),
    ],
)
def test_public_names_exist_and_are_documented(name, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for public in module.__all__:
        value = getattr(module, public)
        # `inspect.getdoc` would take the docstring of a base class, which every module class has.
        documentation = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        assert documentation, public
        assert not documentation.startswith(f"{public}("), f"{public}: the signature that dataclass writes is no help"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_are_documented_and_of_a_size_to_read(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "a module docstring is missing"
    assert text.count("\n") <= 500


def test_every_error_of_the_project_is_of_one_family():
    classes = [value for value in vars(errors).values() if inspect.isclass(value)]
    assert len(classes) > 3
    assert all(issubclass(value, gem_activations.GemError) for value in classes)


def test_the_package_is_marked_as_typed():
    assert (SOURCE / "py.typed").exists()
