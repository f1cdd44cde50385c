"""Attack the networks of examples/robust.py with AutoAttack too, to see what its three attacks miss.

    pip install --no-deps torchattacks==3.5.1
    OMP_NUM_THREADS=1 python benchmarks/autoattack.py

`--no-deps`, since it asks for an old requests. Each arm is trained at the rate that the study chose, from seeds 0 to 2;
the rows go to benchmarks/results/examples/robust/autoattack.csv. It takes some five minutes on a core.
"""

import math
from typing import Any

import examples_study as study
import torch
import torchattacks  # pyright: ignore[reportMissingImports]


def main() -> None:
    given: list[Any] = []

    def keep(example: Any) -> None:
        attack = example.search

        def search(*arguments: Any) -> Any:
            given[:] = arguments  # The network, images, labels, radius and steps of the example's last attack.
            return attack(*arguments)

        example.search = search

    rows = []
    for arm in study.read("robust", "chosen"):
        for seed in range(3):
            job = ("robust", arm["arm"], arm["activation"], float(arm["learning_rate"]), {}, seed, math.inf)
            row = study.run_one(job, keep)
            assert row is not None
            model, x, labels, radius, _ = given
            found = torchattacks.AutoAttack(model, eps=radius, n_classes=10, seed=0)(x, labels)
            assert (found - x).abs().max() <= radius + 1e-6
            with torch.no_grad():
                row["autoattack_error"] = float((model(found).argmax(1) != labels).float().mean())
            errors = {key: round(row[key], 3) for key in ("error", "attacked_error", "autoattack_error")}
            rows.append({key: row[key] for key in ("activation", "learning_rate", "seed")} | errors)
            print(rows[-1], flush=True)
    study.write("robust", "autoattack", rows)


if __name__ == "__main__":
    main()
