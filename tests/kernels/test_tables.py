"""The coefficients: the committed header is what the script makes, and the table is laid out as the kernels assume."""

import ctypes
import gc
import importlib.util
from pathlib import Path

import pytest

from gem_activations import GemSpec
from gem_activations.kernels import cpu
from gem_activations.kernels.cpu.library import spec_handle
from gem_activations.kernels.cpu.tables import gradient_table

SCRIPT = Path(__file__).parents[2] / "tools" / "make_gradient_tables.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_gradient_tables", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_headers_are_what_the_script_makes(script):
    source = Path(cpu.__file__).with_name("source")  # Of the package that is tested, be it installed.
    for path, text in script.headers().items():
        assert (source / path.name).read_text() == text


def test_sixteen_bits_hold_the_reciprocal_of_every_period(script):
    for layout in (*script.LAYOUTS, *script.LONG_LAYOUTS):
        reciprocal = 65536 // layout.period + 1
        assert all(x * reciprocal >> 16 == x // layout.period for x in range(256))


@pytest.mark.parametrize("n", range(1, 9))
def test_common_leaks_have_a_table_and_lie_within_its_error(n):
    for leak in (1e-3, 0.01, 0.1, 0.25, 0.5, 0.9, 0.99, 1 - 2.0**-53):
        table = gradient_table(n, leak)
        assert table is not None, leak
        assert ctypes.addressof(table) % 64 == 0
        assert (table.high - table.low) << table.log2_parts <= 64


def test_no_table_where_it_would_be_inexact_or_is_committed():
    assert gradient_table(8, 1e-6) is None
    assert gradient_table(9, 0.01) is None
    assert gradient_table(2, 0.0) is None
    assert gradient_table(1, 5e-324) is None


def test_a_handle_keeps_its_table_alive():
    handle = spec_handle(GemSpec(2, 1.0, 0.123))
    gradient_table.cache_clear()
    gc.collect()
    assert handle.table.contents.log2_parts == gradient_table(2, 0.123).log2_parts
