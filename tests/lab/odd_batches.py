"""The command line, with a digits recipe whose batches split unevenly: started by torchrun in test_distributed.py."""

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gem_activations.lab.recipes import registry as recipes

_digits = recipes.RECIPES["digits"]


def odd(*choices: Any) -> recipes.Recipe:
    """The recipe with 33 examples a step, 12 in the last one, and micro-batches of 8: 17 and 16 examples a process."""
    recipe = _digits.make(*choices)
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, batch_size=33, micro_batch=8))


def install(setitem: Callable[..., None]) -> None:
    """Put it in the place of the recipe."""
    setitem(recipes.RECIPES, "digits", _digits._replace(make=odd))


if __name__ == "__main__":
    from gem_activations.cli import main
    from gem_activations.lab.report import document

    document.comparison_figures = lambda *_: {}  # No test looks at them.
    install(lambda table, name, value: table.update({name: value}))
    out = Path(sys.argv[sys.argv.index("--out") + 1])
    (out / f"process-{os.environ['RANK']}").write_text(str(os.getpid()))
    sys.exit(main())
