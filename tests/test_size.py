"""tools/size.py counts lines, lengths and uses as its table says."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[1] / "tools/size.py"

FIRST = '''"""One."""

from .room.second import _shared


def _once(x):
    """Take away one.

    Here.
    """
    return _once(x - 1)


def _twice(x):
    return x


def public(x):
    return _once(_twice(x)) + _twice(_shared(x))
'''
SECOND = """def _shared(x):
    return x


class Other:
    def _shared(self):
        return 1
"""


def run(*arguments):
    done = subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def small(folder):
    (folder / "room").mkdir()
    (folder / "first.py").write_text(FIRST)
    (folder / "room/second.py").write_text(SECOND)
    return folder


def test_the_table_of_a_small_package(tmp_path):
    found = {line[:40].strip(): float(line[40:].replace(",", "")) for line in run(small(tmp_path))}
    lines = {"first.py": FIRST.count("\n"), "room": SECOND.count("\n")}
    assert {room: found.pop(f"lines in {room}") for room in lines} == lines
    assert found == {
        "lines of source": sum(lines.values()),
        "files": 2,
        "lines of a file, median": sum(lines.values()) / 2,
        "lines of a file, 90th percentile": max(lines.values()),
        "functions": 5,
        "lines of a function, median": 2,
        "lines of a function, 90th percentile": 2,
        "functions at the level of a module": 4,
        # `_once` by `public`, not by itself, and `_shared` from another file.
        "of them private with one use, %": 50,
        "one use among the private ones, %": 66.7,
    }


def test_private_functions_with_one_use_are_listed_by_file(tmp_path):
    assert run(small(tmp_path), "--one-use") == [
        "first.py: 1",
        "    _once (2 lines, from line 6)",
        "room/second.py: 1",
        "    _shared (2 lines, from line 1)",
    ]


def test_help_is_printed():
    assert any("--one-use" in line for line in run("--help"))
