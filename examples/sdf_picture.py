"""Draw level lines of fields that `sdf.py` learns with three activations: `python examples/sdf_picture.py OUT.png`.

Each network sees the same points of one shape from the same first weights. The surface is the thick line, levels are a
tenth apart; the exact ones are on the left. It takes a minute on a core.
"""

import sys
from types import SimpleNamespace

import torch
from matplotlib import pyplot as plt
from sdf import fit
from shapes import SHAPES

from gem_activations.torch import make_activation

SHAPE = "star"
ARMS = {  # The activations and their learning rates as docs/examples/sdf.md has them.
    "E-GEM, n = 2": ("egem(n=2, eps=8.1e-7)", 3e-3),
    "Softplus, beta = 1000": ("softplus(beta=1000)", 3e-3),
    "ReLU": ("relu", 1e-3),
}


def main(path: str, steps: int = 600) -> None:
    """Learn the fields and write the picture."""
    line = torch.linspace(-1, 1, 200)
    grid = torch.cartesian_prod(line, line)
    fields = {"exact": SHAPES[SHAPE]()[0](grid)}
    for title, (name, rate) in ARMS.items():
        torch.manual_seed(0)
        run = SimpleNamespace(activation=lambda name=name: make_activation(name))
        model, _ = fit(run, SHAPE, steps, rate)
        with torch.no_grad():
            fields[title] = model(grid).squeeze(1)
    figure, axes = plt.subplots(1, len(fields), figsize=(3 * len(fields), 3.2), layout="constrained")
    levels = [number / 10 for number in range(-4, 10)]
    for axis, (title, field) in zip(axes, fields.items(), strict=True):
        values = field.reshape(200, 200).T
        axis.contour(line, line, values, levels, cmap="viridis", linewidths=0.8)
        axis.contour(line, line, values, [0], colors="black", linewidths=2)
        error = (field - fields["exact"]).abs().mean()
        axis.set(title=title if title == "exact" else f"{title}: {error:.4f}", aspect="equal", xticks=[], yticks=[])
    figure.savefig(path, dpi=75)


if __name__ == "__main__":
    main(sys.argv[1])
