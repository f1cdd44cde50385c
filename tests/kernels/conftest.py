"""The library under test, once for every instruction set that this machine has."""

import numpy as np
import pytest

from gem_activations.errors import BackendError
from gem_activations.kernels import cpu
from gem_activations.kernels.cpu.library import ISAS
from gem_activations.kernels.cpu.loader import LIBRARY


@pytest.fixture(scope="session")
def built():
    library = cpu.load()
    if library is None:
        if LIBRARY.exists():
            pytest.fail(cpu.status().reason)
        pytest.skip(cpu.status().reason)
    return library


@pytest.fixture(params=ISAS)
def library(request, built):
    best = built.isa
    try:
        built.use_isa(request.param)
    except BackendError as error:
        pytest.skip(str(error))
    yield built
    built.use_isa(best)


@pytest.fixture(autouse=True)
def _quiet_numpy():
    """Infinities, NaN and overflow are met on purpose."""
    with np.errstate(all="ignore"):
        yield
