import hashlib
import os
from functools import cache

import mpmath as mp
import pytest

pytest.importorskip("sympy")
pytest.importorskip("flint")

from filelock import FileLock

from gem_activations.analysis import Certificate, certify

mp.mp.dps = 50


def proved(certificate, key):
    """Return the row of a certificate; the test is skipped if the row, or the group that it belongs to, is open."""
    rows = {row.key: row for row in certificate.properties}
    if key in rows and rows[key].value.kind != "open":
        return rows[key]
    assert key in rows or any(name.endswith("_open") for name in rows), f"{certificate.name} has no row {key}"
    pytest.skip("the certificate leaves this row open")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Return what proves a target, with time enough for a busy machine: once a session, for all of its processes."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "certificates"
    folder.mkdir(exist_ok=True)

    @cache
    def prove(target):
        file = folder / f"{hashlib.sha256(repr(target).encode()).hexdigest()[:16]}.json"
        with FileLock(f"{file}.lock"):
            if not file.exists():
                text = certify(target, budget=300).to_json()
                file.write_text(text, encoding="utf-8")
        return Certificate.from_json(file.read_text(encoding="utf-8"))

    return prove
