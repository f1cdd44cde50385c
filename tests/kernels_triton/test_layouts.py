"""Sizes, strides, storage, and what the launcher refuses."""

import numpy as np
import pytest
import torch

from gem_activations import GemSpec
from gem_activations.errors import TensorError
from gem_activations.torch import formula

SPEC = GemSpec(2)
CLOSE = {"rtol": 2e-6, "atol": 1e-30}


def random(device, *shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def layouts(device):
    """Tensors of many strides: dense ones in some order, and ones with gaps or shared elements."""
    image = random(device, 2, 3, 4, 5)
    return {
        "contiguous": image,
        "channels_last": image.to(memory_format=torch.channels_last),
        "permuted": image.permute(3, 0, 2, 1),
        "strided": random(device, 8, 6)[::2, ::3],
        "offset": random(device, 30)[7:],
        "expanded": random(device, 1, 5).expand(4, 5),
        "one element in a dimension": random(device, 4, 1, 3)[:, :, 1:2],
        "scalar": random(device, 1)[0],
        "lazy negative": torch._neg_view(random(device, 6)),
        "empty": random(device, 0, 3),
    }


NAMES = tuple(layouts("cpu"))


@pytest.mark.parametrize("offset", ["empty", "one", "odd", "block - 1", "block", "block + 1"])
@pytest.mark.usefixtures("poisoned")
def test_sizes(kernels, device, offset):
    block = kernels.BLOCK
    size = {"empty": 0, "one": 1, "odd": 37, "block - 1": block - 1, "block": block, "block + 1": block + 1}[offset]
    x, grad = random(device, size), random(device, size, seed=1)
    y = kernels.forward(x, SPEC)
    torch.testing.assert_close(y, formula.value(x, SPEC), **CLOSE)
    expected = grad * formula.derivative(x, SPEC)
    torch.testing.assert_close(kernels.backward(grad, x, SPEC, False), expected, **CLOSE)
    torch.testing.assert_close(kernels.backward(grad, y, SPEC, True), expected, rtol=1e-5, atol=1e-20)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("poisoned")
def test_layouts(kernels, device, name):
    x = layouts(device)[name]
    before = x.clone()
    y = kernels.forward(x, SPEC)
    torch.testing.assert_close(y, formula.value(x, SPEC), **CLOSE)
    assert torch.equal(x, before)
    assert y.stride() == torch.empty_like(x).stride()
    expected = formula.derivative(x, SPEC)
    for grad in (torch.ones_like(x), torch.ones((), device=device).expand(x.shape)):
        slope = kernels.backward(grad, x, SPEC, False)
        torch.testing.assert_close(slope, expected, **CLOSE)
        assert slope.stride() == y.stride()
    mixed = kernels.glu_forward(x.contiguous(), x, SPEC)
    torch.testing.assert_close(mixed, x * y, rtol=4e-6, atol=1e-30)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "expanded"])
def test_in_place_writes_into_the_storage_and_counts_a_version(kernels, device, name):
    x = layouts(device)[name]
    expected, address, version = formula.value(x, SPEC), x.data_ptr(), x._version
    y = kernels.forward(x, SPEC, True)
    assert y is x
    assert x.data_ptr() == address
    assert x._version > version or x.numel() == 0
    torch.testing.assert_close(x, expected, **CLOSE)


def test_in_place_leaves_the_rest_of_the_storage_alone(kernels, device):
    whole = random(device, 100)
    before = whole.clone()
    kernels.forward(whole[5:38], SPEC, True)
    assert torch.equal(whole[:5], before[:5])
    assert torch.equal(whole[38:], before[38:])
    columns = random(device, 6, 6)
    before = columns.clone()
    kernels.forward(columns[:, ::2], SPEC, True)
    assert torch.equal(columns[:, 1::2], before[:, 1::2])


def test_in_place_on_shared_elements_is_refused(kernels, device):
    with pytest.raises(RuntimeError, match="single memory location"):
        kernels.forward(random(device, 1, 5).expand(4, 5), SPEC, True)


def test_wrong_tensors_are_refused(kernels, device):
    x = random(device, 4)
    for wrong, message in ((x.int(), "not torch.int32"), (x.to("meta"), "not one on meta")):
        with pytest.raises(TensorError, match=message):
            kernels.forward(wrong, SPEC)
        assert kernels.reason_not_served(wrong) is not None
    assert kernels.reason_not_served(x) is None
    for other in (x[:3], x.double(), x[:, None]):
        with pytest.raises(TensorError, match="one shape, dtype and device"):
            kernels.backward(other, x, SPEC, False)
        with pytest.raises(TensorError, match="one shape, dtype and device"):
            kernels.glu_backward(x, x, other, SPEC)


def test_more_elements_than_32_bits_can_count(kernels, device):
    if device.type != "cuda" or torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs a CUDA device with 12 GiB free; test_compiled.py looks at the width of the addresses")
    size = 2**31 + 5
    x = torch.zeros(size, dtype=torch.float16, device=device)
    x[-5:] = torch.tensor([1.0, -1.0, 0.5, 2.0, 3.0])
    y = kernels.forward(x, SPEC)
    assert np.allclose(y[-5:].double().cpu().numpy(), SPEC(x[-5:].double().cpu().numpy()), rtol=1e-3)
    assert int(torch.count_nonzero(y)) == 4
