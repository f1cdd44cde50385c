from functools import lru_cache

import mpmath as mp
import pytest

pytest.importorskip("sympy")
pytest.importorskip("flint")

from gem_activations.analysis import certify

mp.mp.dps = 50


@pytest.fixture(scope="session")
def certificate():
    """Give the certificate of a catalog string, made once a session."""
    return lru_cache(maxsize=None)(certify)
