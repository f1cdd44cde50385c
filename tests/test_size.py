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


def figures(package):
    done = subprocess.run([sys.executable, TOOL, package], capture_output=True, text=True, check=True)
    return {line[:40].strip(): float(line[40:].replace(",", "")) for line in done.stdout.splitlines()}


def test_the_table_of_a_small_package(tmp_path):
    (tmp_path / "room").mkdir()
    (tmp_path / "first.py").write_text(FIRST)
    (tmp_path / "room/second.py").write_text(SECOND)
    found = figures(tmp_path)
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
