"""Draw level lines of fields that `sdf.py` learns with three activations: `python examples/sdf_picture.py OUT.png`.

Above a star in two dimensions, below the plane y = 0 through the axis of a torus in three. In a row each network sees
the same points from the same first weights. The surface is the thick line, levels are a tenth apart; the exact ones are
on the left. It takes a minute on a core.
"""

import sys
from types import SimpleNamespace

import torch
from matplotlib import pyplot as plt
from sdf import fit
from shapes import SHAPES

from gem_activations.torch import make_activation

SHAPES_SHOWN = {"star": ([0, 1], 0), "torus": ([0, 2], 3)}
"""Shapes, the coordinates that are drawn (a third one is 0), and the seed."""
ARMS = {  # The activations and their learning rates as docs/examples/sdf.md has them.
    "E-GEM, n = 2": ("egem(n=2, eps=8.1e-7)", 3e-3),
    "Softplus, beta = 1000": ("softplus(beta=1000)", 3e-3),
    "ReLU": ("relu", 1e-3),
}


def main(path: str, steps: int = 600) -> None:
    """Learn the fields and write the picture."""
    line = torch.linspace(-1, 1, 200)
    levels = [number / 10 for number in range(-4, 10)]
    figure, rows = plt.subplots(len(SHAPES_SHOWN), 1 + len(ARMS), figsize=(12, 6.5), layout="constrained")
    for (shape, (drawn, seed)), axes in zip(SHAPES_SHOWN.items(), rows, strict=True):
        distance, sample = SHAPES[shape]()
        grid = torch.zeros(200 * 200, sample(1)[0].shape[1])
        grid[:, drawn] = torch.cartesian_prod(line, line)
        fields = {"exact": distance(grid)}
        for title, (name, rate) in ARMS.items():
            torch.manual_seed(seed)
            model, _ = fit(SimpleNamespace(activation=lambda name=name: make_activation(name)), shape, steps, rate)
            with torch.no_grad():
                fields[title] = model(grid).squeeze(1)
        for axis, (title, field) in zip(axes, fields.items(), strict=True):
            values = field.reshape(200, 200).T
            axis.contour(line, line, values, levels, cmap="viridis", linewidths=0.8)
            axis.contour(line, line, values, [0], colors="black", linewidths=2)
            error = (field - fields["exact"]).abs().mean()
            label = title if title == "exact" else f"{title}\nmean error here {error:.4f}"
            axis.set(title=label, aspect="equal", xticks=[], yticks=[])
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(sys.argv[1])
