"""The list of routes itself: a route that is skipped must not go unnoticed."""

import shutil

import pytest

from gem_activations.kernels import cpu

from .routes import ROUTES


def test_names_are_different():
    assert len({route.name for route in ROUTES}) == len(ROUTES)


@pytest.mark.skipif(not (shutil.which("gcc") or shutil.which("clang")), reason="the kernels need a C compiler")
def test_the_kernels_are_in_use_where_there_is_a_compiler():
    assert cpu.status().available, cpu.status().reason
