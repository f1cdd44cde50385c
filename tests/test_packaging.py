"""pyproject.toml and setup.py: declared imports, the public address, the long description, wheels without kernels."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import gem_activations
from gem_activations import cli

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ADDRESS = PROJECT["urls"]["Repository"]


def normal(name):
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name)[0]).lower()


def test_every_import_is_declared():
    declared = {normal(each) for name, extra in EXTRAS.items() if name != "dev" for each in extra}
    declared |= {normal(each) for each in PROJECT["dependencies"]}
    declared |= {"triton"}  # It comes with torch where there is a GPU; where it does not, its import is guarded.
    distributions = packages_distributions()
    missing = {}
    for path in Path(gem_activations.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for root in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names:
                names = {normal(each) for each in distributions.get(root, [root])}
                if root != "gem_activations" and not names & declared:
                    missing.setdefault(root, []).append(path.name)
    assert not missing


def test_the_public_address_is_the_same_everywhere():
    urls = PROJECT["urls"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"repository-code: {ADDRESS}\n" in citation
    assert f"\nurl: {urls['Documentation']}\n" in citation
    owner_and_name = ADDRESS.removeprefix("https://github.com/")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*"), ROOT / "CITATION.cff"]
    for page in pages:
        if page.is_file():
            named = set(re.findall(r"https://github\.com/([\w.-]+/gem-activations)\b", page.read_text()))
            assert named <= {owner_and_name}, page


def test_version_changelog_and_citation_agree():
    version = gem_activations.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\n" in citation
    first = re.search(r"^## (\S+)(?: - (\d{4}-\d\d-\d\d))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None, "CHANGELOG.md: expected a first heading such as '## 1.2.3 - 2026-01-31'"
    if first[1] == "Unreleased":
        # What is not released is a development version, or the first one, which nothing came before.
        assert "dev" in version or "\ndate-released:" not in citation
        return
    assert (first[1], f"\ndate-released: {first[2]}\n" in citation) == (version, True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy of what a wheel is built from."""
    pytest.importorskip("build", reason="needs the package build")
    pytest.importorskip("setuptools", minversion="77", reason="the build needs setuptools 77")
    source = tmp_path_factory.mktemp("source")
    if not (ROOT / ".git").exists() or not (ROOT / "src").exists():
        pytest.skip("needs a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.split("\0"):
        if name.startswith("src/") or name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


def wheel(source, **variables):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", source]
    environment = {**os.environ, "CC": "/nonexistent/cc", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_wheel_without_the_kernels_is_one_for_any_platform_and_says_so(source):
    done = wheel(source)
    assert done.returncode == 0, done.stderr
    (found,) = (source / "dist").glob("*.whl")
    assert found.name == f"gem_activations-{gem_activations.__version__}-py3-none-any.whl"
    assert not [name for name in zipfile.ZipFile(found).namelist() if ".so" in name]
    said = done.stdout + done.stderr
    assert "the C kernels could not be built" in said
    assert "pip install --force-reinstall --no-deps --no-cache-dir" in said
    description = next(
        zipfile.ZipFile(found).read(name).decode()
        for name in zipfile.ZipFile(found).namelist()
        if name.endswith("METADATA")
    )
    targets = re.findall(r"\]\(([^)]+)\)|(?:src|href)=\"([^\"]+)\"", description)
    assert len(targets) > 10
    assert [target for pair in targets for target in pair if target and not re.match(r"https?://|#", target)] == []
    assert f"({ADDRESS}/blob/HEAD/docs/kernels.md)" in description


def test_nodes_of_an_earlier_build_are_left_out(source):
    """They may be for another PyTorch."""
    folder = (
        source / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / "gem_activations/torch"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"nodes{sysconfig.get_config_var('EXT_SUFFIX')}").touch()
    done = wheel(source)
    assert done.returncode == 0, done.stderr
    (found,) = (source / "dist").glob("*.whl")
    assert not [name for name in zipfile.ZipFile(found).namelist() if ".so" in name]


def test_kernels_that_are_required_and_cannot_be_built_are_an_error(source):
    done = wheel(source, GEM_ACTIVATIONS_REQUIRE_KERNELS="1")
    assert done.returncode != 0
    shown = done.stdout + done.stderr
    assert "/nonexistent/cc" in shown
    assert "Install a C compiler (gcc or clang), or unset the variable" in shown


def test_the_extras_that_the_command_line_names_are_there():
    assert set(cli.EXTRAS.values()) <= EXTRAS.keys()
