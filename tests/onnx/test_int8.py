"""int8 by ONNX Runtime's own static quantisation: what a trained model with GEM loses, beside the same one with GELU.

Matrix products and convolutions are quantised, and all else stays in float32, as `op_types_to_quantize` says. Without
it the tool quantises sums and products as well, the residual stream of a transformer among them, and spoils a GPT-2
with either activation (logits off by 18 % of their spread).
"""

import argparse
import inspect
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from sklearn.datasets import load_digits
from torch import nn

from gem_activations.torch import init_, make_activation, register

from ..tolerances import INT8_ACCURACY, INT8_LOGITS, INT8_LOSS, INT8_OVER_GELU, RUNTIME
from ..torch.known_warnings import exporting
from .running import export, start

transformers = pytest.importorskip("transformers")
pytestmark = exporting

WHAT = ["Conv", "Gemm", "MatMul"]


class Batches(CalibrationDataReader):
    """Hands the tool one batch after the other."""

    def __init__(self, name: str, batches: list[torch.Tensor]) -> None:
        self._left = iter([{name: batch.numpy()} for batch in batches])

    def get_next(self) -> Any:
        return next(self._left, None)


def quantise(model, batches, folder):
    """Return the session of the int8 model, and how many weights of it are int8."""
    onnx.save(model, folder / "float.onnx")
    reader = Batches(model.graph.input[0].name, batches)
    quantize_static(folder / "float.onnx", folder / "int8.onnx", reader, op_types_to_quantize=WHAT)
    quantised = onnx.load(folder / "int8.onnx")
    weights = [each for each in quantised.graph.initializer if each.data_type == onnx.TensorProto.INT8 and each.dims]
    return start(quantised), sum(len(each.dims) > 1 for each in weights)


def outputs(session, x):
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def relative_error(got, want):
    """Return the root mean square of the difference in units of the spread of what is right."""
    return float(np.sqrt(np.mean((got - want) ** 2)) / want.std())


TEXT = torch.tensor(list(inspect.getsource(argparse).encode("ascii", "replace")[:60_000]))
TAUGHT, LENGTH = 50_000, 48


def pieces(generator, count, first, last):
    starts = torch.randint(first, last - LENGTH, (count,), generator=generator)
    return torch.stack([TEXT[start : start + LENGTH] for start in starts])


def language_model(activation):
    """Return a GPT-2 of two layers that has read Python for a few seconds."""
    register()
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4}
    plain = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    tokens = {"bos_token_id": 0, "eos_token_id": 0}
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**sizes, **plain, **tokens, activation_function=activation)
    )
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(80):
        batch = pieces(generator, 16, 0, TAUGHT)
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
    return model.eval()


def language_model_in_int8(activation, folder):
    """Return the relative error of the logits and the change of the loss on text not taught."""
    model = language_model(activation)
    generator = torch.Generator().manual_seed(2)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    example = {"input_ids": pieces(generator, 2, 0, TAUGHT)}
    proto = export(model, kwargs=example, dynamic={"input_ids": free})
    test = pieces(generator, 32, TAUGHT, len(TEXT))
    with torch.no_grad():
        want = model(test).logits.numpy()
    np.testing.assert_allclose(outputs(start(proto), test), want, rtol=0, atol=RUNTIME * np.abs(want).max())
    session, count = quantise(proto, [pieces(generator, 8, 0, TAUGHT) for _ in range(8)], folder)
    assert count == 4 * 2 + 1  # Four linear maps a layer, and the head.
    got = outputs(session, test)
    loss, before = (cross_entropy(logits, test) for logits in (got, want))
    assert before < 2.7  # Far below log(128) = 4.9: the logits have a meaning to lose.
    return relative_error(got, want), abs(loss - before)


def cross_entropy(logits, text):
    return nn.functional.cross_entropy(torch.tensor(logits[:, :-1]).flatten(0, 1), text[:, 1:].flatten()).item()


def test_the_logits_of_a_gpt2_are_kept(tmp_path):
    error, change = language_model_in_int8("gem(n=2)", tmp_path)
    gelu, _ = language_model_in_int8("gelu_new", tmp_path)
    assert 0 < error < INT8_LOGITS
    assert change < INT8_LOSS
    assert error < INT8_OVER_GELU * gelu


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.tensor(data.images[order], dtype=torch.float32)[:, None] / 16
    return images, torch.tensor(data.target[order])


def image_model_in_int8(activation, digits, folder):
    """Return the relative error of the logits and the accuracies on held-out digits, in float32 and int8."""
    torch.manual_seed(0)
    images, labels = digits
    convolutions = [nn.Conv2d(1, 12, 3, padding=1), make_activation(activation), nn.MaxPool2d(2)]
    convolutions += [nn.Conv2d(12, 24, 3, padding=1), make_activation(activation), nn.Flatten()]
    model = nn.Sequential(*convolutions, nn.Linear(24 * 16, 48), make_activation(activation), nn.Linear(48, 10))
    init_(model, activation)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for start_at in [*range(0, 1400, 64)] * 8:
        batch = slice(start_at, min(start_at + 64, 1400))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    proto = export(model, images[:4], dynamic=({0: torch.export.Dim("batch")},))
    session, count = quantise(proto, list(images[:512].split(64)), folder)
    assert count == 4
    with torch.no_grad():
        want = model(images[1400:]).numpy()
    got = outputs(session, images[1400:])
    before, after = ((logits.argmax(1) == labels[1400:].numpy()).mean() for logits in (want, got))
    return relative_error(got, want), before, after


def test_the_accuracy_of_a_convolutional_network_is_kept(digits, tmp_path):
    error, before, after = image_model_in_int8("gem(n=2)", digits, tmp_path)
    gelu, gelu_before, gelu_after = image_model_in_int8("gelu", digits, tmp_path)
    assert min(before, gelu_before) > 0.9
    assert 0 < error < INT8_LOGITS
    assert abs(after - before) <= INT8_ACCURACY
    assert abs(gelu_after - gelu_before) <= INT8_ACCURACY
    assert error < INT8_OVER_GELU * gelu
