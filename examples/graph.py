"""Classify nodes of a graph with few labels: which activation between two rounds of message passing?

    gem-act compare examples/graph.py:train --activations relu gelu silu gem "gem(n=2)" \
      --metric error --better lower --seeds 10 --out runs/graph

The nodes are scikit-learn's 1,797 handwritten digits, the edges join each to its nearest neighbours by pixels. Five
nodes of each class have a label; the network sees the pixels and the edges of all (Kipf and Welling 2017,
arXiv:1609.02907). A round of message passing is written out in plain torch: a node adds what it says itself to the
mean of what its neighbours say. Labelled, validation and test nodes are drawn by the seed. One run takes two seconds
on a core.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph
from torch import Tensor, nn

from gem_activations.lab import Run


class MessagePassing(nn.Module):
    """Map features (nodes, inputs) to (nodes, outputs): W x + V (mean of x over the neighbours)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own, self.neighbours = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Sum over the edges (2, E), each from a source to a target, and divide by their number."""
        source, target = edges
        total = torch.zeros_like(x).index_add(0, target, x[source])
        count = torch.bincount(target, minlength=len(x)).clamp(min=1)
        return self.own(x) + self.neighbours(total / count[:, None])


class GraphNetwork(nn.Module):
    """Two rounds of message passing with the activation and dropout between them."""

    def __init__(self, run: Run, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = MessagePassing(inputs, width), MessagePassing(width, classes)
        self.between = nn.Sequential(run.activation(), nn.Dropout(0.5))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Map features (nodes, inputs) to logits (nodes, classes)."""
        return self.second(self.between(self.first(x, edges)), edges)


def make_graph(neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return features (nodes, 64) of mean 0 and variance 1, classes (nodes,) and edges (2, E) in both directions."""
    pixels, labels = load_digits(return_X_y=True)
    near = kneighbors_graph(pixels, neighbours).tocoo()
    edges = torch.stack([torch.from_numpy(near.row), torch.from_numpy(near.col)]).long()
    x = torch.from_numpy(pixels).float()
    return (x - x.mean()) / x.std(), torch.from_numpy(labels), torch.cat([edges, edges.flip(0)], 1).unique(dim=1)


def split_nodes(labels: Tensor, each: int, held: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places of `each` labelled nodes a class, of `held` nodes for validation, and of the others."""
    order = torch.randperm(len(labels))
    chosen = torch.cat([order[labels[order] == label][:each] for label in labels.unique()])
    rest = order[~torch.isin(order, chosen)]
    return chosen, rest[:held], rest[held:]


def train(
    run: Run,
    labelled: int = 5,
    neighbours: int = 8,
    steps: int = 100,
    width: int = 64,
    learning_rate: float = 1e-2,
    scored: str = "test",
) -> dict[str, float]:
    """Learn from the labelled nodes; return error and loss on the `scored` ones, "test" or "validation"."""
    x, labels, edges = make_graph(neighbours)
    chosen, validation, test = split_nodes(labels, labelled, 300)
    network = GraphNetwork(run, x.shape[1], width, len(labels.unique()))
    optimizer = torch.optim.Adam(network.parameters(), learning_rate, weight_decay=5e-4)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(network(x, edges)[chosen], labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    places = test if scored == "test" else validation
    with torch.no_grad():
        logits = network(x, edges)[places]
    return {
        "error": float((logits.argmax(1) != labels[places]).float().mean()),
        "cross_entropy": float(nn.functional.cross_entropy(logits, labels[places])),
        "loss": float(loss.detach()),
    }
