"""Time the gradient from the output beside the gradient from the input: the measurement behind save="auto" on the CPU.

python benchmarks/save_rule.py --out benchmarks/results/cpu_save.jsonl
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from gem_activations import GemSpec
from gem_activations.bench.timing import Call, time_in_turn
from gem_activations.files import write_atomically
from gem_activations.kernels import cpu
from gem_activations.kernels.cpu.library import ISAS
from gem_activations.lab.store.environment import describe_environment
from gem_activations.torch import activate

SIZE, BUFFERS, SECONDS = 2**22, 4, 2.0
SPECS = [GemSpec(n, 1e-2, leak) for n in (1, 2, 3, 4, 6, 8) for leak in (0.0, 0.01)]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def backward(spec: GemSpec, save: str, inputs: list[Tensor], grads: list[Tensor]) -> Call:
    outputs = [activate(x, spec, save=save) for x in inputs]
    return lambda number: torch.autograd.grad(
        outputs[number % BUFFERS], inputs[number % BUFFERS], grads[number % BUFFERS], retain_graph=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    library = cpu.load()
    assert library is not None, cpu.status().reason
    rows = [{"row": "environment", **describe_environment(torch.device("cpu"))}]
    for isa in ISAS[: ISAS.index(library.isa) + 1]:
        library.use_isa(isa)
        for dtype in DTYPES:
            inputs = [torch.randn(SIZE).to(dtype).requires_grad_() for _ in range(BUFFERS)]
            grads = [torch.randn(SIZE).to(dtype) for _ in range(BUFFERS)]
            for spec in SPECS:
                calls = {save: backward(spec, save, inputs, grads) for save in ("input", "output")}
                times = {save: timing.median for save, timing in time_in_turn(calls, SECONDS, 40).items()}
                ratio = times["output"] / times["input"]
                name = str(dtype).removeprefix("torch.")
                rows.append({"row": "save", "isa": isa, "dtype": name, "spec": str(spec), **times, "ratio": ratio})
                print(f"{isa:9} {name:9} {spec!s:32} output / input {ratio:.2f}", flush=True)
    write_atomically(out, "".join(json.dumps(row) + "\n" for row in rows).encode())


if __name__ == "__main__":
    main()
