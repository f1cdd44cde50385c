"""Time the family under jax.jit beside JAX's own activations, values and gradients checked first.

Run: python benchmarks/jax_speed.py --out benchmarks/results/jax_speed.jsonl

A case is a size, a dtype and a direction: "forward" is the function, "both" is its value and its gradient for a given
cotangent, in one compiled call. The candidates of a case take turns. The first row of the result is the environment,
with the load of the machine: where that is above the number of cores, the ratio of the lower quartiles says more than
the ratio of the medians.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gem_activations import GemSpec
from gem_activations.bench.timing import Call, Timing, time_in_turn
from gem_activations.files import write_atomically
from gem_activations.jax import activate

SPECS = (GemSpec(1), GemSpec(2), GemSpec(3), GemSpec(1, 1e-4), GemSpec(1, 1e-4, 0.01))
RIVALS: dict[str, Callable[[Any], Any]] = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,  # JAX's default: the approximation by tanh
    "gelu(erf)": partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
}
SIZES = {"4096": 2**12, "65536": 2**16, "4194304": 2**22}
DTYPES = {"float32": 2.0**-18, "bfloat16": 2.0**-7, "float16": 2.0**-10}
"""Every dtype with the relative error that a candidate of ours may have before it is timed."""
BUFFER_BYTES = 128 << 20


def both(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def value_and_gradient(x: Any) -> Any:
        value, pull = jax.vjp(function, x)
        return value, pull(jnp.ones_like(value))[0]

    return value_and_gradient


def check(spec: GemSpec, function: Callable[[Any], Any], x: Any, direction: str, allowed: float) -> None:
    """Refuse to time what computes something else."""
    results = function(x) if direction == "both" else (function(x),)
    points = np.asarray(x, np.float64)
    for got, want in zip(results, (spec(points), spec.derivative(points)), strict=False):
        worst = np.max(np.abs(np.asarray(got, np.float64) - want) / np.maximum(np.abs(want), 1e-4))
        if not worst <= allowed:
            sys.exit(f"{spec}, {x.dtype}, {direction}: off by {worst:.2g}, more than {allowed:.2g}; not timed")


def calls(buffers: list[Any], direction: str) -> Iterator[tuple[str, Call]]:
    functions = RIVALS | {str(spec): partial(activate, spec=spec) for spec in SPECS}
    for name, function in functions.items():
        compiled = jax.jit(both(function) if direction == "both" else function)
        if name not in RIVALS:
            check(GemSpec.parse(name), compiled, buffers[0], direction, DTYPES[str(buffers[0].dtype)])
        yield name, lambda number, run=compiled: jax.block_until_ready(run(buffers[number % len(buffers)]))


def measure(size: int, dtype: str, direction: str, seconds: float) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    count = max(2, min(64, BUFFER_BYTES // (size * jnp.dtype(dtype).itemsize)))
    buffers = [jnp.asarray(draw.standard_normal(size, np.float32), dtype) for _ in range(count)]
    timings = time_in_turn(dict(calls(buffers, direction)), seconds)
    return [row(name, timing, size, dtype, direction, timings["gelu"]) for name, timing in timings.items()]


def row(name: str, timing: Timing, size: int, dtype: str, direction: str, gelu: Timing) -> dict[str, Any]:
    return {
        "activation": name,
        "size": size,
        "dtype": dtype,
        "direction": direction,
        "median_us": 1e6 * timing.median,
        "quartiles_us": [1e6 * timing.low, 1e6 * timing.high],
        "rounds": timing.rounds,
        "over_gelu": timing.median / gelu.median,
        "over_gelu_low": timing.low / gelu.low,
    }


def environment() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "row": "environment",
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("gem-activations", "jax", "jaxlib", "numpy")},
        "platform": platform.platform(),
        "device": f"{device.platform} {device.device_kind}",
        "cores": os.cpu_count(),
        "load": [round(each, 2) for each in os.getloadavg()],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file of JSON lines for the result")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each case (default 5)")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES), help="numbers of elements")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        for dtype in options.dtypes:
            for direction in ("forward", "both"):
                measured = measure(SIZES[size], dtype, direction, options.seconds)
                rows += measured
                print(f"\n{size} elements, {dtype}, {direction}")
                for each in measured:
                    print(
                        f"  {each['activation']:32} {each['median_us']:11.1f} us  {each['over_gelu']:6.2f} x gelu, "
                        f"{each['over_gelu_low']:6.2f} by lower quartiles"
                    )
    if options.out:
        lines = [json.dumps(line) for line in (environment(), *rows)]
        write_atomically(options.out, "\n".join([*lines, ""]).encode())


if __name__ == "__main__":
    main()
