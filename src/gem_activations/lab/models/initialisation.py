"""Initial weights corrected for an activation's gain: the control for arms that start at another scale than ReLU."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...torch.init import calculate_gain
from ...torch.inventory import named_activations


def scale_to_gain(model: nn.Module, activation: str, example: Tensor) -> list[str]:
    """Scale the weights that read an activation's output by its gain over ReLU's, in place; return the layers' names.

    The recipes' models draw weights for ReLU, or whatever the activation. After the scaling a layer that reads f(z) of
    a standard normal z gives the second moment that it would give with ReLU. Weights are multiplied, not drawn anew:
    the arms of a seed keep their common draw, and ReLU's arm stays as it is. One forward pass of the example in
    evaluation mode tells which layers read what: an activation's output itself or a view of it. A layer behind a
    pooling or a normalisation is left as it is, and so are biases. Activations are modules; see `is_activation`.

    Edge cases: If BatchNorm follows the layer, the scaling changes no output; it makes the steps relatively smaller.
    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 2))
        >>> scale_to_gain(model, "silu", torch.zeros(1, 4))
        ['2']
    """
    readers = _find_readers(model, example)
    factor = calculate_gain(activation) / calculate_gain("relu")
    with torch.no_grad():
        for weight in {id(weight): weight for weight in readers.values()}.values():  # Shared ones once.
            weight.mul_(factor)
    return list(readers)


def _find_readers(model: nn.Module, example: Tensor) -> dict[str, nn.Parameter]:
    """Return the layers whose input lies in the memory of an activation's output: name -> weight matrix or kernel."""
    outputs: list[Tensor] = []  # Kept, so that their memory is not given to another tensor.
    readers: dict[str, nn.Parameter] = {}

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        outputs.append(output)

    def note(name: str, weight: nn.Parameter) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def hook(_: nn.Module, arguments: tuple[object, ...]) -> None:
            inputs = {_memory(argument) for argument in arguments if isinstance(argument, Tensor)}
            if not inputs.isdisjoint(map(_memory, outputs)):
                readers[name] = weight

        return hook

    handles = [module.register_forward_hook(keep) for _, module in named_activations(model)]
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() >= 2:
            handles.append(module.register_forward_pre_hook(note(name, weight)))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return readers


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
