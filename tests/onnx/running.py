"""Export as a user does, and run what comes out in ONNX Runtime."""

from typing import Any

import onnx
import onnxruntime
import torch


def export(model: torch.nn.Module, *inputs: torch.Tensor, dynamic: Any = None, **options: Any) -> onnx.ModelProto:
    """Return the ONNX model of a PyTorch model in evaluation mode, with no setting that the activation would need."""
    program = torch.onnx.export(model.eval(), inputs, dynamo=True, verbose=False, dynamic_shapes=dynamic, **options)
    assert program is not None
    return program.model_proto


def start(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session with the settings that ONNX Runtime has by itself, on the CPU."""
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, *inputs: torch.Tensor) -> list[Any]:
    """Return the outputs as NumPy arrays."""
    names = [each.name for each in session.get_inputs()]
    return session.run(None, {name: each.numpy() for name, each in zip(names, inputs, strict=True)})


def assert_standard(model: onnx.ModelProto) -> None:
    """Check that the model is valid and made of operators of the ONNX standard alone."""
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert {each.domain for each in model.opset_import} == {""}
    assert not model.functions
