"""What continuous integration and `make` do: a fresh clone without leftovers, and one environment for both commands."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Stands for make: prints where it runs and what is around it.
MAKE = """#!/bin/sh
echo "$2: $(git log -1 --format=%s), $(cat tracked), $(cat | wc -c) bytes to read"
for folder in "$HOME" "$TMPDIR" "$RAY_TMPDIR"; do
  test -d "$folder" && test -z "$(ls -A "$folder")" && test "${#folder}" -lt 40 || echo "not fresh: $folder"
done
env | grep -E '^(HF_HOME|XDG_CACHE_HOME|TRITON_CACHE_DIR|GEM_ACTIVATIONS_DATA|RAY_ADDRESS|PYTHONPATH|TMP)=' || true
echo "pip: $PIP_CONFIG_FILE $PIP_CACHE_DIR"
test "$2" != "$FAILING"
"""


def git(folder, *words):
    identity = ("-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    """Return a small repository with the project's .ci/run in it."""
    script = ROOT / ".ci/run"
    if not script.exists() or not shutil.which("git"):
        pytest.skip("needs .ci/run, which only a checkout has, and git")
    folder = tmp_path / "checkout"
    (folder / ".ci").mkdir(parents=True)
    shutil.copy(script, folder / ".ci/run")
    (folder / "tracked").write_text("as committed")
    (tmp_path / "shared").mkdir()
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def run(checkout, **variables):
    make = checkout.parent / "make"
    make.write_text(MAKE)
    make.chmod(0o755)
    home = checkout.parent / "home"
    (home / ".config/pip").mkdir(parents=True, exist_ok=True)
    (home / ".config/pip/pip.conf").touch()
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("PIP_", "XDG_"))}
    environment |= {"HOME": str(home), "MAKE": str(make), "CI": "true", **variables}
    command = [checkout / ".ci/run"]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


def test_the_commands_run_in_a_clone_with_nothing_but_pips_settings_and_cache(checkout):
    kept = dict.fromkeys(
        ("HF_HOME", "TRITON_CACHE_DIR", "GEM_ACTIVATIONS_DATA", "RAY_ADDRESS", "PYTHONPATH", "TMP"), "/x"
    )
    done = run(checkout, **kept)
    home = checkout.parent / "home"
    settings = f"pip: {home}/.config/pip/pip.conf {home}/.cache/pip"
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if not line.startswith(".ci/run: ")]
    expected = [(f"{target}: first, as committed, 0 bytes to read", settings) for target in ("demo", "check", "test")]
    assert shown == [line for pair in expected for line in pair]
    (clone,) = {line.split(" in ")[1] for line in done.stdout.splitlines() if " in /tmp/" in line}
    assert not Path(clone).exists()


def test_what_is_not_committed_is_named_and_not_tested(checkout):
    (checkout / "tracked").write_text("changed")
    done = run(checkout)
    assert done.returncode == 0
    assert "not committed, and so not tested:\n M tracked" in done.stderr
    assert "as committed" in done.stdout


def test_a_shallow_checkout_is_tested(checkout):
    git(checkout, "commit", "-q", "--allow-empty", "-m", "second")
    git(checkout.parent, "clone", "-q", "--depth", "1", checkout.as_uri(), "shallow")
    done = run(checkout.parent / "shallow")
    assert (done.returncode, "test: second" in done.stdout) == (0, True), done.stderr


def test_a_failure_is_the_exit_status_and_stops(checkout):
    done = run(checkout, FAILING="check")
    assert done.returncode != 0
    assert "test:" not in done.stdout


def test_a_broken_checkout_is_said(checkout):
    shutil.rmtree(checkout / ".git/objects")
    done = run(checkout)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f".ci/run: git cannot read {checkout}")
    shutil.rmtree(checkout / ".git")
    assert f"{checkout} is no git checkout" in run(checkout).stderr


def test_the_demo_installs_the_lab_alone_and_the_tests_add_the_rest(tmp_path):
    """Of a stamp and the commands behind it: each is made once, in either order."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)

    def extras(target):
        done = subprocess.run(["make", "--dry-run", target], cwd=tmp_path, capture_output=True, text=True, check=True)
        return [extra for extra in (".[lab]", "gem-activations[dev]") if f'"{extra}"' in done.stdout]

    (tmp_path / ".venv").mkdir()
    assert (extras("demo"), extras("test")) == ([".[lab]"], [".[lab]", "gem-activations[dev]"])
    (tmp_path / ".venv/.installed-lab").touch()
    assert (extras("demo"), extras("test")) == ([], ["gem-activations[dev]"])
    (tmp_path / ".venv/.installed").touch()
    assert (extras("demo"), extras("test")) == ([], [])
