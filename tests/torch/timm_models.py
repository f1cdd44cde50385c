"""Models of the real timm with activations of ours: test_timm.py runs this file in a process of its own."""

import importlib

import pytest
import torch
from torch import nn

from gem_activations.torch import EGEM, GEM, act_layer, register_timm, swap


def declare_torchvision_operators():
    """Let torchvision be imported where its own operators do not load: its build for CUDA beside a torch without.

    The import only asks that these two exist. No model here calls them.
    """
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@pytest.fixture(scope="module")
def timm():
    try:
        importlib.import_module("torchvision")
        library = None
    except RuntimeError:  # operator torchvision::nms does not exist
        library = declare_torchvision_operators()
    register_timm()
    yield importlib.import_module("timm")
    del library


def resnet(timm, **options):
    return timm.create_model("resnet18", num_classes=4, **options)


def vit(timm, **options):
    return timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=4, depth=3, **options)


@pytest.mark.parametrize(
    ("make", "pattern", "places"), [(resnet, {nn.ReLU: "gem(n=2)"}, 17), (vit, {"blocks.*.mlp.act": "gem(n=2)"}, 3)]
)
def test_a_swapped_model_is_the_one_built_with_our_name(timm, make, pattern, places):
    x = torch.randn(2, 3, 32, 32)
    named, factory = make(timm, act_layer="gem(n=2)").eval(), make(timm, act_layer=act_layer("gem(n=2)")).eval()
    swapped = make(timm).eval()
    before, names = swapped(x), list(swapped.state_dict())
    done = swap(swapped, pattern)
    assert len(done.changes) == places
    assert sum(type(module) is GEM for module in swapped.modules()) == places
    assert list(swapped.state_dict()) == names
    for other in (named, factory):
        other.load_state_dict(swapped.state_dict())
        assert torch.equal(swapped(x), other(x))
    assert not torch.equal(swapped(x), before)
    done.undo()
    assert torch.equal(swapped(x), before)


@pytest.mark.parametrize("make", [resnet, vit])
def test_a_model_built_with_our_name_trains(timm, make):
    torch.manual_seed(0)
    model = make(timm, act_layer="egem(n=2, eps=1e-4)").train()
    assert any(type(module) is EGEM for module in model.modules())
    x, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_scripts_of_timm_give_the_name_as_text(timm):
    """The training script of timm hands `--model-kwargs act_layer=...` on as a string."""
    model = timm.create_model("resnet18", **{"act_layer": "segem"}, num_classes=4)
    assert sum("SEGEM" in type(module).__name__ for module in model.modules()) == 17


def test_timm_leaves_learnt_scales_without_weight_decay(timm):
    model = nn.Sequential(nn.Linear(2, 2), EGEM(trainable=True), nn.Sequential(EGEM(trainable=True, channels=2)))
    kept, decayed = importlib.import_module("timm.optim").param_groups_weight_decay(model, 0.1)
    assert (kept["weight_decay"], decayed["weight_decay"]) == (0.0, 0.1)
    assert [id(parameter) for parameter in decayed["params"]] == [id(model[0].weight)]
    del timm  # It lets the package be imported.
