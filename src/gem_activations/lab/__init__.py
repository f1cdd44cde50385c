"""The lab: train one model with several activations under one pipeline, and report what the data allow to say.

`compare` does so with a training function of your own, which gets a `Run`; `analyse` takes results from elsewhere.
`gem-act` is the command line over both.

`recipes` says what is trained by the lab's own experiments, `data` and `models` make it, `training` trains one run and
`runs` all of a comparison, `store` keeps it; `statistics`, `claims` and `report` read the store.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import ComparisonResult, compare
    from .statistics.reading import analyse
    from .training.run import Run

__all__ = ["ComparisonResult", "Run", "analyse", "compare"]


_HOMES = {"ComparisonResult": ".api", "Run": ".training.run", "analyse": ".statistics.reading", "compare": ".api"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: the command line shows its help without a framework."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
