"""Attack the networks of examples/robust.py with AutoAttack too, to see what its three attacks miss.

    pip install --no-deps torchattacks==3.5.1
    OMP_NUM_THREADS=1 python benchmarks/autoattack.py

`--no-deps`, since it asks for an old requests. Each arm is trained at the rate that the study chose, from seeds 0 to 2;
the rows go to benchmarks/results/examples/robust/autoattack.csv. It takes some five minutes on a core.
"""

import csv
import random
from types import SimpleNamespace
from typing import Any

import examples_study as study
import numpy as np
import torch
import torchattacks  # pyright: ignore[reportMissingImports]

from gem_activations.torch import make_activation


def main() -> None:
    torch.set_num_threads(1)
    example, calibrated = study.load("robust"), study.load("calibrated")
    given: list[Any] = []
    attack = example.search

    def search(model: Any, x: Any, labels: Any, radius: float, steps: int) -> Any:
        given[:] = model, x, labels, radius
        return attack(model, x, labels, radius, steps)

    example.search = search
    rows = []
    for row in study.read("robust", "chosen"):
        name, rate = row["activation"], float(row["learning_rate"])
        factory = getattr(calibrated, name, lambda name=name: make_activation(name))
        for seed in range(3):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            figures = example.train(SimpleNamespace(activation=factory, seed=seed), learning_rate=rate)
            model, x, labels, radius = given
            found = torchattacks.AutoAttack(model, eps=radius, n_classes=10, seed=0)(x, labels)
            assert (found - x).abs().max() <= radius + 1e-6
            with torch.no_grad():
                error = float((model(found).argmax(1) != labels).float().mean())
            rows.append(
                [name, rate, seed, *(round(figures[key], 3) for key in ("error", "attacked_error")), round(error, 3)]
            )
            print(*rows[-1], flush=True)
    table = study.RESULTS / "robust" / "autoattack.csv"
    with table.with_suffix(".part").open("w", newline="") as file:
        head = ["activation", "learning_rate", "seed", "error", "attacked_error", "autoattack_error"]
        csv.writer(file, lineterminator="\n").writerows([head, *rows])
    table.with_suffix(".part").replace(table)


if __name__ == "__main__":
    main()
