"""Quantise a GPT-2 of full size to int8 by ONNX Runtime's own static quantisation, and say what its logits lose.

    python benchmarks/int8_gpt2.py --out benchmarks/results/int8_gpt2.jsonl

The model has the 124 million weights of GPT-2 small, initial ones that were taught the standard library of Python as
bytes for `--steps` steps: pretrained weights belong to GELU and are not here. Matrix products are quantised, all else
stays in float32. A row is refused where the model in float32 does not give PyTorch's own logits.
"""

import argparse
import json
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from torch import Tensor, nn

from gem_activations.lab.store.environment import describe_environment
from gem_activations.torch import register

LENGTH, HELD_OUT, CALIBRATION = 128, 1 / 10, 8
AGREES = 1e-3  # Largest difference of the two float32 models, in units of the largest logit.
QUANTISED = ["Gemm", "MatMul"]


class Text:
    """The standard library of the running Python, cut into pieces of bytes; the last tenth is for scoring alone."""

    def __init__(self) -> None:
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        data = b"".join(file.read_bytes() for file in files)
        self.tokens = torch.frombuffer(bytearray(data), dtype=torch.uint8).long()
        self.border = int(len(self.tokens) * (1 - HELD_OUT))

    def pieces(self, generator: torch.Generator, count: int, *, held_out: bool = False) -> Tensor:
        first, last = (self.border, len(self.tokens)) if held_out else (0, self.border)
        starts = torch.randint(first, last - LENGTH, (count,), generator=generator)
        return torch.stack([self.tokens[start : start + LENGTH] for start in starts.tolist()])


class Batches(CalibrationDataReader):
    """What the tool sees of the text."""

    def __init__(self, batches: Iterator[Tensor]) -> None:
        self._left = ({"input_ids": batch.numpy()} for batch in batches)

    def get_next(self) -> Any:
        return next(self._left, None)


def taught(activation: str, text: Text, steps: int) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        activation_function=activation, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False
    )
    model = transformers.GPT2LMHeadModel(config).train()
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), 6e-4)
    for step in range(steps):
        batch = text.pieces(generator, 4)
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == steps - 1:
            print(f"{activation}: step {step + 1} of {steps}, loss {loss.item():.3f}", flush=True)
    return model.eval()


def logits_of(path: Path, tokens: Tensor) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input_ids": piece.numpy()})[0] for piece in tokens.split(1)])


def cross_entropy(logits: NDArray[np.float32], tokens: Tensor) -> float:
    return nn.functional.cross_entropy(torch.from_numpy(logits[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).item()


def measure(activation: str, text: Text, steps: int) -> dict[str, object]:
    model = taught(activation, text, steps)
    generator = torch.Generator().manual_seed(2)
    test = text.pieces(generator, 8, held_out=True)
    with torch.no_grad():
        want = model(test).logits.numpy()
    with tempfile.TemporaryDirectory() as name:
        plain, small = Path(name, "float.onnx"), Path(name, "int8.onnx")
        free = {"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}}
        program = torch.onnx.export(
            model, kwargs={"input_ids": test[:2]}, dynamo=True, verbose=False, dynamic_shapes=free
        )
        assert program is not None
        program.save(plain, external_data=True)
        off = float(np.abs(logits_of(plain, test) - want).max() / np.abs(want).max())
        if off > AGREES:
            raise SystemExit(f"{activation}: the exported model differs by {off:.1e} of the largest logit: no row")
        batches = (text.pieces(generator, 1) for _ in range(CALIBRATION))
        quantize_static(plain, small, Batches(batches), op_types_to_quantize=QUANTISED, use_external_data_format=True)
        initial = onnx.load(small, load_external_data=False).graph.initializer
        matrices = sum(each.data_type == onnx.TensorProto.INT8 and len(each.dims) > 1 for each in initial)
        got = logits_of(small, test)
    return {
        "model": "GPT-2 small",
        "weights": sum(weight.numel() for weight in model.parameters()),
        "activation": activation,
        "steps": steps,
        "matrices_in_int8": matrices,
        "float32_off": off,
        "loss": cross_entropy(want, test),
        "loss_int8": cross_entropy(got, test),
        "logits_rms_error": float(np.sqrt(np.mean((got - want) ** 2)) / want.std()),
        "same_first_choice": float((got.argmax(-1) == want.argmax(-1)).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file of JSON lines to append the result to")
    parser.add_argument("--activations", nargs="+", default=["gelu_new", "gem(n=2)"])
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    register()
    text, rows = Text(), []
    for activation in options.activations:
        rows.append(measure(activation, text, options.steps))
        print(json.dumps(rows[-1], indent=2), flush=True)
    if options.out:
        record = {"environment": describe_environment(torch.device("cpu")), "rows": rows}
        record["environment"]["packages"]["onnxruntime"] = onnxruntime.__version__
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
