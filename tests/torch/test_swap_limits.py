"""What swap leaves although a key asks for it, and what undo gives back after a model was used in between."""

import gc

import pytest
import torch
from torch import nn
from torch.ao.nn import quantized
from torch.nn import functional
from torch.nn.utils import parametrize

from gem_activations.errors import ModelError
from gem_activations.torch import GEM, swap

from .known_warnings import tracing


def pair(activation):
    return nn.Sequential(nn.Linear(2, 2), activation)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_swaps_of_two_layers_of_an_encoder_are_undone_in_order():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=nn.ReLU(), batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(2, 4, 8), torch.tensor([[False] * 4, [False] * 2 + [True] * 2])
    with torch.no_grad():
        before = model(x, src_key_padding_mask=padding)
        first = swap(model, {"layers.0.activation": "gem(n=2)"})
        second = swap(model, {"layers.1.activation": "gem(n=2)"})
        # The first layer alone would make a nested tensor, which the second could not take.
        with pytest.raises(ModelError, match="undo the later change first"):
            first.undo()
        assert model(x, src_key_padding_mask=padding).shape == x.shape
        second.undo()
        first.undo()
        assert torch.equal(model(x, src_key_padding_mask=padding), before)


def test_undo_keeps_the_training_mode_and_the_hooks_of_now():
    model, calls = pair(nn.RReLU()).train(), []
    report = swap(model, {nn.RReLU: "gem"})
    model.eval()
    model[1].register_full_backward_hook(lambda *_: calls.append("backward"))
    report.undo()
    assert not model[1].training
    model(torch.ones(1, 2)).sum().backward()
    assert calls == ["backward"]


def test_an_activation_with_a_hook_that_is_bound_to_it_is_left():
    model, calls = nn.Sequential(nn.GELU(), nn.GELU()), []
    model[1].register_load_state_dict_pre_hook(lambda module, *_: calls.append(type(module)))
    left = swap(model, {nn.GELU: "gem"}).left
    assert [(place.name, place.reason) for place in left] == [("1", "a hook for load_state_dict is bound to it")]
    gc.collect()
    model.load_state_dict(model.state_dict())
    assert calls == [nn.GELU]


@pytest.mark.parametrize("key", ["*", nn.Softplus, lambda _, module: isinstance(module, nn.Softplus)])
def test_an_activation_that_computes_a_weight_is_left(key):
    model = nn.Sequential(nn.Linear(2, 2), nn.Softplus())
    parametrize.register_parametrization(model[0], "weight", nn.Softplus())
    weight = model[0].weight.detach().clone()
    report = swap(model, {key: "gem"})
    assert [change.name for change in report.changes] == ["1"]
    assert [place.name for place in report.left] == ["0.parametrizations.weight.0"]
    assert torch.equal(model[0].weight, weight)


def test_functions_inside_what_is_replaced_are_no_changes_of_their_own():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = functional.gelu

        def forward(self, x):
            return functional.relu(self.act(x))

    model = pair(Own())
    report = swap(model, {functional.gelu: "egem", functional.relu: "egem", Own: "gem"})
    assert [(change.name, change.new) for change in report.changes] == [("1", "GEM(n=1)")]
    report.undo()
    shared = nn.Sequential(model, nn.Sequential(model[1]))
    assert len(swap(shared, {functional.gelu: "egem", functional.relu: "egem", Own: "gem"}).changes) == 1
    assert isinstance(shared[1][0], GEM)


@tracing
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_scripted_part_is_left():
    with pytest.raises(ModelError, match=r"1: it is scripted; swap before torch.jit.script"):
        swap(pair(torch.jit.script(nn.GELU())), {"1": "gem"})


def test_an_activation_of_quantised_tensors_is_not_taken_by_a_pattern():
    model = nn.Sequential(quantized.ReLU6(), nn.ReLU6())
    assert [change.name for change in swap(model, {"*": "gem"}).changes] == ["1"]


def test_a_pattern_that_meets_functions_only_names_them():
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 1, 4, activation="gelu", batch_first=True))
    with pytest.raises(ModelError, match=r"'\*.activation'.* functions it holds: torch.nn.functional.gelu"):
        swap(model, {"*.activation": "gem"})
