"""A framework that is missing, too old or incomplete is one clear error, and the floors are those of the package."""

import importlib
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from gem_activations.errors import GemError, MissingDependencyError
from gem_activations.extras import framework

ROOT = Path(__file__).parents[1]


@pytest.fixture
def installed(monkeypatch):
    """Let every package have the version that the test names, without installing anything."""

    def say(version):
        def answer(_name):
            if version is None:
                raise metadata.PackageNotFoundError
            return version

        monkeypatch.setattr(metadata, "version", answer)

    return say


def refusal(name, module=None, **options):
    with pytest.raises(MissingDependencyError) as caught, framework(name, **options):
        importlib.import_module(module or name)
    assert isinstance(caught.value, GemError)
    assert isinstance(caught.value, ImportError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing(installed, monkeypatch):
    installed(None)
    monkeypatch.setitem(sys.modules, "netcdf_of_no_one", None)
    said = "netcdf_of_no_one is not installed; run: pip install --upgrade"
    assert refusal("netcdf_of_no_one", at_least="1.0") == f"{said} 'gem-activations[netcdf_of_no_one]'"
    assert refusal("netcdf_of_no_one", at_least="1.0", install="netcdf") == f"{said} netcdf"


@pytest.mark.parametrize("version", ["0.7.9", "0.7", "0.7rc1", "0"])
def test_too_old_is_refused_before_the_import(version, installed, monkeypatch):
    installed(version)
    monkeypatch.setitem(sys.modules, "json", None)  # Importing it would be another error.
    assert refusal("json", at_least="0.8").startswith(f"json {version} is too old, expected 0.8 or later; run: pip")


@pytest.mark.parametrize("version", ["0.8", "0.8.0rc1", "0.10.1", "1.0.dev3+cpu", "2026.1", None])
def test_new_enough_or_of_unknown_version_is_let_through(version, installed):
    installed(version)
    with framework("json", at_least="0.8"):
        assert importlib.import_module("json").loads("1") == 1


def test_a_module_that_is_gone_names_the_version(installed):
    installed("9.1")
    said = refusal("json", at_least="1.0", module="json.gone")
    assert said == "json 9.1 has no json.gone, as 1.0 has; install another version"


@pytest.mark.parametrize("hint", ["", "choose another"])
def test_what_the_framework_needs_itself(hint, installed, monkeypatch):
    installed("1.0")
    monkeypatch.setitem(sys.modules, "csv", None)
    said = refusal("json", at_least="1.0", hint=hint, module="csv.sub")
    remedy = hint or "install it, or run: pip install --upgrade 'gem-activations[json]'"
    assert said == f"json needs csv, which is not installed; {remedy}"


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), framework("json", at_least="0"):
        1 / 0  # noqa: B018


@pytest.mark.parametrize(("name", "version"), [("transformers", "4.46.3"), ("timm", "0.9.16")])
def test_a_library_that_is_too_old_is_refused_where_its_names_are_registered(name, version, installed):
    front = pytest.importorskip("gem_activations.torch", exc_type=ImportError)
    installed(version)
    register = {"transformers": front.register, "timm": front.register_timm}[name]
    floor = floor_of("transformers") if name == "transformers" else "1.0"
    with pytest.raises(
        MissingDependencyError, match=f"^{name} {version} is too old, expected {floor} or later; run: pip"
    ):
        register()


FRONTS = ["torch", "jax", "keras"]
IMPORT = """
import sys
from importlib import metadata
{prepare}
try:
    import gem_activations.{name}
except Exception as error:
    print(type(error).__name__, "{name}" in sys.modules and sys.modules["{name}"] is not None, error)
"""


def say_the_error(name, prepare):
    code = IMPORT.format(name=name, prepare=prepare)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("front", FRONTS)
def test_a_front_whose_framework_is_missing(front):
    said = (
        f"MissingDependencyError False {front} is not installed; run: pip install --upgrade 'gem-activations[{front}]'"
    )
    assert say_the_error(front, f"sys.modules['{front}'] = None") == said


@pytest.mark.parametrize("front", FRONTS)
def test_a_front_whose_framework_is_too_old_does_not_load_it(front):
    said = say_the_error(front, "metadata.version = lambda name: '0.1.2'")
    floor = floor_of(front)
    assert said.startswith(f"MissingDependencyError False {front} 0.1.2 is too old, expected {floor} or later;")


def floor_of(name):
    """Return the first version that the package's extras ask for, that of its developers aside."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [line for extra, lines in extras.items() if extra != "dev" for line in lines]
    (floor,) = {floor for line in lines for floor in re.findall(rf"^{name}>=([\d.]+)$", line)}
    return floor
