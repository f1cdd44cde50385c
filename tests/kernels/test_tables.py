"""The coefficients: the committed header is what the script makes, and the table is laid out as the kernels assume."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "make_gradient_tables.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_gradient_tables", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_header_is_what_the_script_makes(script):
    assert script.HEADER.read_text() == script.header()


def test_two_registers_hold_a_row_and_sixteen_bits_hold_the_period(script):
    for layout in script.LAYOUTS:
        assert layout.columns <= 32
        reciprocal = 65536 // layout.period + 1
        assert all(x * reciprocal >> 16 == x // layout.period for x in range(256))
