from functools import lru_cache, partial

import mpmath as mp
import pytest

pytest.importorskip("sympy")
pytest.importorskip("flint")

from gem_activations.analysis import certify

mp.mp.dps = 50


def proved(certificate, key):
    """Return the row of a certificate; the test is skipped if the row, or the group that it belongs to, is open."""
    rows = {row.key: row for row in certificate.properties}
    if key in rows and rows[key].value.kind != "open":
        return rows[key]
    assert key in rows or any(name.endswith("_open") for name in rows), f"{certificate.name} has no row {key}"
    pytest.skip("the certificate leaves this row open")


@pytest.fixture(scope="session")
def certificate():
    """Return the certificate of a catalog string, made once a session, with time enough for a busy machine."""
    return lru_cache(maxsize=None)(partial(certify, budget=300))
