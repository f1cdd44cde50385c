"""Build the sdist and, from it, the wheel; install the wheel in a clean environment; run the tests against it.

python tools/check_distribution.py dist                    # all tests
python tools/check_distribution.py dist tests/test_spec.py # some of them, as words for pytest
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# All that the tests read, but not src: an import must find the installed package.
NEEDED = (
    "tests",
    "docs",
    "benchmarks",
    "examples",
    "tools",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "Makefile",
    "CITATION.cff",
)
SETTINGS = ("pyproject.toml", "constraints.txt", "setup.py")
KERNELS = "gem_activations/kernels/cpu/gem_kernels"


def run(*words: object, folder: Path = ROOT) -> None:
    print("+", *words, flush=True)
    subprocess.run([str(word) for word in words], cwd=folder, check=True)


def build(out: Path) -> Path:
    for old in (*out.glob("gem_activations-*.whl"), *out.glob("gem_activations-*.tar.gz")):
        old.unlink()
    run(sys.executable, "-m", "build", "--outdir", out)
    (wheel,) = out.glob("gem_activations-*.whl")
    check_contents(wheel)
    return wheel


def check_contents(wheel: Path) -> None:
    """Compare the wheel's package with the files under src that git tracks, and look for the compiled kernels.

    A wheel without them would work by the plain formula, and the tests of the kernels would only be skipped.
    """
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = {name.removeprefix("src/") for name in tracked.split()} | {f"{KERNELS}.so", f"{KERNELS}.so.sha256"}
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if found != wanted:
        raise SystemExit(f"{wheel.name}: missing {sorted(wanted - found)}; not in src {sorted(found - wanted)}")


def install(wheel: Path, environment: Path) -> Path:
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    constraints = ("--constraint", ROOT / "constraints.txt")
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    run(*pip, *constraints, torch)
    run(*pip, *constraints, f"{wheel}[dev]")
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("words", nargs="*", default=["tests"])
    arguments = parser.parse_args()
    wheel = build(arguments.out.resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "checkout")
        folder.mkdir()
        for item in (*NEEDED, *SETTINGS):
            source = ROOT / item
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / item)
        python = install(wheel, Path(name, "environment"))
        run(python, "-c", "import gem_activations; assert 'environment' in gem_activations.__file__", folder=folder)
        run(
            python,
            "-m",
            "pytest",
            "--numprocesses",
            "auto",
            "--dist",
            "loadfile",
            "--no-loadscope-reorder",
            *arguments.words,
            folder=folder,
        )


if __name__ == "__main__":
    main()
