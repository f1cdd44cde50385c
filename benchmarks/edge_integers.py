"""Integer layers against the exact reference: every input of many settings. One JSON row for each kind of layer.

    python benchmarks/edge_integers.py --out benchmarks/results/edge_integers.jsonl

Settings as the tests draw them: n of 1, 2, 3, 4, 8, 64, with a leak or without, ranges of 1 to 32, transitions of 0.01
to 3. `linear_table` is TFLite's 16-bit lookup, 513 entries and linear interpolation, of the same activations.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.edge.settings import random_settings

from gem_activations.edge import integer, reference

KINDS = [(8, "q31", "udiv"), (8, "q31", "newton"), (8, "q15", "udiv"), (16, "q31", "udiv"), (16, "q31", "newton")]


def sweep(bits, method, division, count):
    reports, seconds = [], []
    for spec, quantization in random_settings(bits, count, seed=11):
        start = time.perf_counter()
        layer = integer(spec, quantization, method, division)
        seconds.append(time.perf_counter() - start)
        q = quantization.inputs()
        recount = np.count_nonzero(layer.apply(q).astype(int) - reference(spec, quantization, q))
        assert recount == layer.report.inexact
        reports.append(layer.report)
    return {
        "bits": bits,
        "method": method,
        "division": division,
        "settings": count,
        "exact_settings": sum(not report.inexact for report in reports),
        "inexact_inputs": sum(report.inexact for report in reports),
        "largest_error": max(report.largest_error for report in reports),
        "median_seconds": round(float(np.median(seconds)), 3),
        "largest_seconds": round(max(seconds), 3),
    }


def linear_table(count):
    errors = []
    for spec, quantization in random_settings(16, count, seed=11):
        q = quantization.inputs()
        knots = np.minimum(np.arange(513) * 128 - 32768, 32767)
        values = reference(spec, quantization, knots).astype(np.int64)
        cell, rest = (q + 32768) >> 7, (q + 32768) & 127
        got = values[cell] + (((values[cell + 1] - values[cell]) * rest + 64) >> 7)
        errors.append(int(np.abs(got - reference(spec, quantization, q)).max()))
    low, mid, high = np.percentile(errors, [5, 50, 95])
    spread = {"error_5_percent": low, "error_median": mid, "error_95_percent": high, "largest_error": max(errors)}
    return {"bits": 16, "method": "linear_table", "settings": count, **spread}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count8", type=int, default=1000)
    parser.add_argument("--count16", type=int, default=240)
    arguments = parser.parse_args()
    rows = [sweep(*kind, arguments.count8 if kind[0] == 8 else arguments.count16) for kind in KINDS]
    rows.append(linear_table(arguments.count16))
    arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(arguments.out.read_text(), end="")


if __name__ == "__main__":
    main()
