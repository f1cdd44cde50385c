"""Time training steps that differentiate a network twice, under jax.jit, beside softplus(100 x) / 100 and others.

Run: python benchmarks/jax_second_order.py --out benchmarks/results/jax_second_order.jsonl
With one thread: taskset -c 0 env XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python benchmarks/jax_second_order.py

"eikonal" is the gradient, by the weights of an MLP with 8 hidden layers of 256, of the mean of (|grad f| - 1)^2 over a
batch of points in space, as for a signed distance field. "laplacian" is that of the mean square of the Laplacian, by
`jax.hessian` under vmap, of one with 4 layers of 128 over the plane, as for a physics-informed network. In every round
each activation takes one step, in an order drawn anew; a ratio is the median of the ratios within rounds, which other
work on the machine moves little. "square", 0.3 x^2, is the floor of the Eikonal step: all products with
the weights, and next to no arithmetic of its own.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax_speed import environment

from gem_activations import GemSpec
from gem_activations.files import write_atomically
from gem_activations.jax import activate

Network = Callable[[Any, Any], Any]
SPECS = (GemSpec(1), GemSpec(2), GemSpec(1, 1e-4), GemSpec(2, 1e-4), GemSpec(1, 1e-4, 0.01))
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "softplus(100)": lambda x: jax.nn.softplus(100 * x) / 100,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "square": lambda x: 0.3 * x * x,
    **{str(spec): partial(activate, spec=spec) for spec in SPECS},
}


def network(activation: Callable[[Any], Any]) -> Network:
    def value(weights: Any, x: Any) -> Any:
        for matrix, shift in weights[:-1]:
            x = activation(x @ matrix + shift)
        matrix, shift = weights[-1]
        return (x @ matrix + shift)[0]

    return value


def eikonal(value: Network) -> Network:
    def loss(weights: Any, points: Any) -> Any:
        slopes = jax.vmap(jax.grad(value, argnums=1), (None, 0))(weights, points)
        return jnp.mean((jnp.linalg.norm(slopes, axis=-1) - 1) ** 2)

    return loss


def laplacian(value: Network) -> Network:
    def loss(weights: Any, points: Any) -> Any:
        curvatures = jax.vmap(jax.hessian(value, argnums=1), (None, 0))(weights, points)
        return jnp.mean(jnp.trace(curvatures, axis1=-2, axis2=-1) ** 2)

    return loss


CASES = {"eikonal": (eikonal, 3, 256, 8), "laplacian": (laplacian, 2, 128, 4)}
"""Loss, dimensions of space, width and number of the hidden layers."""


def measure(case: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    make_loss, dimensions, width, depth = CASES[case]
    draw = np.random.default_rng(0)
    sizes = [dimensions, *[width] * depth, 1]
    weights = [
        (
            jnp.asarray(draw.standard_normal((rows, columns)) * (2 / rows) ** 0.5, jnp.float32),
            jnp.asarray(draw.standard_normal(columns) * 0.1, jnp.float32),
        )
        for rows, columns in pairwise(sizes)
    ]
    points = jnp.asarray(draw.uniform(-1, 1, (batch, dimensions)), jnp.float32)
    steps = {name: jax.jit(jax.grad(make_loss(network(each)))) for name, each in ACTIVATIONS.items()}
    for step in steps.values():
        jax.block_until_ready(step(weights, points))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            start = time.perf_counter()
            jax.block_until_ready(steps[name](weights, points))
            seconds[name].append(time.perf_counter() - start)

    def over(name: str, rival: str) -> float:
        return statistics.median(own / other for own, other in zip(seconds[name], seconds[rival], strict=True))

    return [
        {
            "case": case,
            "batch": batch,
            "activation": name,
            "median_ms": 1e3 * statistics.median(seconds[name]),
            "rounds": rounds,
            **{f"over_{rival}": over(name, rival) for rival in ("softplus(100)", "relu", "silu", "tanh")},
        }
        for name in steps
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file of JSON lines for the result")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--batches", nargs="+", type=int, default=[256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=100, help="steps of each activation (default 100)")
    options = parser.parse_args()
    rows = []
    for case in options.cases:
        for batch in options.batches:
            measured = measure(case, batch, options.rounds)
            rows += measured
            print(f"\n{case}, batch of {batch}{'':16}ms  / softplus(100)  / ReLU  / SiLU  / tanh", flush=True)
            for each in measured:
                ratios = "  ".join(f"{each[key]:6.3f}" for key in each if key.startswith("over_"))
                print(f"  {each['activation']:30} {each['median_ms']:8.2f}  {ratios}", flush=True)
    if options.out:
        lines = [json.dumps(line) for line in (environment(), *rows)]
        write_atomically(options.out, "\n".join([*lines, ""]).encode())


if __name__ == "__main__":
    main()
