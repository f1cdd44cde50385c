"""Fixtures of more than one room; those without PyTorch must be able to load this file."""

import contextlib

import pytest

with contextlib.suppress(ModuleNotFoundError):  # The tests of the GPU kernels do without.
    from hypothesis import settings

    settings.register_profile("busy machine", deadline=None)
    settings.load_profile("busy machine")

# Files that take longest, the longest first: of those that start last, one would run on alone while a core has no work.
SLOWEST = (
    "test_documentation.py",
    "test_known_numbers.py",
    "test_backends.py",
    "test_engine_ray.py",
    "test_compare.py",
    "test_distributed.py",
    "test_interpreted.py",
    "test_report.py",
    "test_examples.py",
    "test_bench.py",
    "test_monitor_callbacks.py",
    "test_compile.py",
    "test_huggingface.py",
)


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture
def poisoned():
    """Let PyTorch fill fresh memory with NaN, so that an element which no kernel writes is seen."""
    import torch

    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fills
