import copy
import dataclasses

import pytest
import torch
from torch import nn

from gem_activations.lab.models import build_language_model, build_model, scale_to_gain
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.training.tasks import load_task
from gem_activations.torch import calculate_gain, make_activation

FACTOR = calculate_gain("gem(n=2)") / calculate_gain("relu")


def changed(model: nn.Module, before: nn.Module) -> dict[str, float]:
    """Return name -> factor of every parameter that is no longer what it was; each must be scaled as a whole."""
    factors = {}
    old = dict(before.named_parameters())
    for name, parameter in model.named_parameters():
        if not torch.equal(parameter, old[name]):
            ratio = (parameter / old[name]).detach()
            torch.testing.assert_close(ratio, torch.full_like(ratio, ratio.flatten()[0].item()), rtol=1e-5, atol=0)
            factors[name] = float(ratio.flatten()[0])
    return factors


@pytest.mark.parametrize(
    ("recipe", "shape", "expected"),
    [
        # All but the first layer; of the residual networks all but stem and head, which is behind a pooling.
        ("digits", (1, 8, 8), ["3", "5"]),
        ("mnist", (1, 28, 28), ["3", "6", "9", "13"]),
        ("cifar10-resnet56", (3, 16, 16), [f"stages.{block}.conv{k}" for block in range(27) for k in (1, 2)]),
        (
            "cifar10-lee14",
            (3, 16, 16),
            [f"stages.{block}.conv{k}" for block in range(6) for k in (1, 2)]
            + ["stages.2.shortcut", "stages.4.shortcut"],
        ),
        # Of a transformer block the layer behind the activation, and not attention or what reads a LayerNorm.
        ("cifar10-vit", (3, 16, 16), ["blocks.0.reduce", "blocks.1.reduce"]),
    ],
)
def test_weights_that_read_the_activation_are_scaled(recipe, shape, expected) -> None:
    model = build_model(make_recipe(recipe, scale="smoke").model, "gem(n=2)", shape, 10, 0)
    before = copy.deepcopy(model)
    state = torch.get_rng_state()
    names = scale_to_gain(model, "gem(n=2)", torch.zeros(1, *shape))
    assert sorted(names) == sorted(expected)
    factors = changed(model, before)
    assert factors.keys() == {f"{name}.weight" for name in expected}
    assert list(factors.values()) == pytest.approx([FACTOR] * len(factors), rel=1e-5)
    assert all(map(torch.equal, model.buffers(), before.buffers()))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("gpt2-124m", [f"model.transformer.h.{block}.mlp.c_proj" for block in range(2)]),
        ("bert-small", [f"model.bert.encoder.layer.{block}.output.dense" for block in range(2)]),
    ],
)
def test_of_language_models_the_layer_behind_the_activation_is_scaled(recipe, expected) -> None:
    plan = dataclasses.replace(make_recipe(recipe, scale="smoke").model, width=16, vocabulary=32)
    model = build_language_model(plan, "gem(n=2)", 0)
    before = copy.deepcopy(model)
    example = torch.zeros(1, plan.context + (recipe == "bert-small"), dtype=torch.int64)
    assert scale_to_gain(model, "gem(n=2)", example) == expected
    assert changed(model, before).keys() == {f"{name}.weight" for name in expected}


@pytest.mark.parametrize("activation", ["gem", "gem(n=3)", "egem(eps=10)", "segem", "gelu", "sigmoid", "tanh"])
def test_second_moments_are_those_of_relu(activation) -> None:
    layer = nn.Linear(512, 512, bias=False)
    z = torch.randn(512, 512, generator=torch.Generator().manual_seed(1))
    layer.requires_grad_(False)
    wanted = layer(torch.relu(z)).square().mean()
    model = nn.Sequential(make_activation(activation), copy.deepcopy(layer))
    assert scale_to_gain(model, activation, z[:1]) == ["1"]
    # The mean of f passes through the sum of each row's weights; over 512 rows that spreads by a few percent.
    assert float(model(z).square().mean() / wanted) == pytest.approx(1, abs=0.15)


def test_relu_stays_and_a_shared_weight_is_scaled_once() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), shared, nn.SiLU(), nn.Dropout(), nn.Flatten(), shared).eval()
    before = copy.deepcopy(model)
    assert scale_to_gain(model, "relu", torch.zeros(1, 4)) == ["2"]
    assert changed(model, before) == {}
    scale_to_gain(model, "silu", torch.zeros(1, 4))
    assert list(changed(model, before).values()) == pytest.approx([calculate_gain("silu") / calculate_gain("relu")])
    assert not model.training


def test_a_recipe_says_which_initialisation_it_has() -> None:
    recipe = make_recipe("digits")
    task = load_task(recipe, None)
    task_with_gain = load_task(dataclasses.replace(recipe, initialisation="gain"), None)
    plain, scaled = task.make_model("gem(n=2)", 7), task_with_gain.make_model("gem(n=2)", 7)
    assert changed(scaled, plain) == pytest.approx({"3.weight": FACTOR, "5.weight": FACTOR}, rel=1e-5)
    for mine, other in zip(
        task_with_gain.make_model("relu", 7).parameters(), task.make_model("relu", 7).parameters(), strict=True
    ):
        assert torch.equal(mine, other)
