"""Tables of measurements: which activation for a small network on a few hundred rows?

    gem-act compare examples/tabular.py:train --activations relu gelu silu selu gem "gem(n=2)" \
      --metric relative_loss --better lower --seeds 10 --out runs/tabular --table wine

The tables are those that come with scikit-learn: the progress of diabetes (442 patients, ten measurements), the
kind of a tumour (569, thirty) and the origin of a wine (178, thirteen). Rows are split by the seed, and features made
of mean 0 and variance 1 by the training rows alone. The loss is that on rows not seen, over that of a constant guess;
the weights are those of the epoch with the least loss on the validation rows. One run takes a second on a core.
"""

import copy

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from torch import Tensor, nn

from gem_activations.lab import Run

TABLES = {"diabetes": load_diabetes, "tumour": load_breast_cancer, "wine": load_wine}


def read_table(name: str) -> tuple[list[Tensor], list[Tensor], int]:
    """Return features and targets of training, validation and test rows (3/5, 1/5, 1/5), and the number of outputs.

    Targets are classes, or for "diabetes" numbers of mean 0 and variance 1 over the training rows.
    """
    features, targets = (torch.from_numpy(part) for part in TABLES[name](return_X_y=True))
    order = torch.randperm(len(features))
    count = len(order) // 5
    parts = [order[2 * count :], order[:count], order[count : 2 * count]]
    x, y = features.float(), targets.float() if name == "diabetes" else targets.long()
    x = (x - x[parts[0]].mean(0)) / x[parts[0]].std(0)
    if name == "diabetes":
        y = ((y - y[parts[0]].mean()) / y[parts[0]].std())[:, None]
    return [x[part] for part in parts], [y[part] for part in parts], 1 if name == "diabetes" else len(y.unique())


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy if the targets are classes, else the mean square of the error."""
    if targets.dtype == torch.long:
        return nn.functional.cross_entropy(outputs, targets)
    return nn.functional.mse_loss(outputs, targets)


def constant_loss(known: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of one guess for all rows: the classes' shares, or the mean, over the known targets."""
    if targets.dtype == torch.long:
        share = torch.bincount(known).float().log()
        return loss_of(share.expand(len(targets), -1), targets)
    return loss_of(known.mean().expand_as(targets), targets)


def train(
    run: Run,
    table: str = "diabetes",
    epochs: int = 60,
    width: int = 64,
    learning_rate: float = 3e-3,
    scored: str = "test",
) -> dict[str, float]:
    """Fit one table; return the loss on its `scored` rows, "test" or "validation", over that of a constant guess."""
    (x, held, unseen), (y, held_y, unseen_y), outputs = read_table(table)
    network = nn.Sequential(
        nn.Linear(x.shape[1], width),
        run.activation(),
        nn.Linear(width, width),
        run.activation(),
        nn.Linear(width, outputs),
    )
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-2)
    least, best = float("inf"), copy.deepcopy(network.state_dict())
    for epoch in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            loss = loss_of(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            validation = float(loss_of(network(held), held_y))
        if validation < least:
            least, best, chosen = validation, copy.deepcopy(network.state_dict()), epoch
    network.load_state_dict(best)
    inputs, targets = (unseen, unseen_y) if scored == "test" else (held, held_y)
    with torch.no_grad():
        outcome = network(inputs)
    figures = {"relative_loss": float(loss_of(outcome, targets) / constant_loss(y, targets)), "epoch": float(chosen)}
    if targets.dtype == torch.long:
        figures["error"] = float((outcome.argmax(1) != targets).float().mean())
    return figures
