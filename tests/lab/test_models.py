import pytest
import torch

from gem_activations import catalog
from gem_activations.lab.models import Model, build_model, count_parameters
from gem_activations.lab.recipes.pipeline import Cnn, Mlp

MODELS: list[Model] = [Mlp((12, 9)), Cnn((4, 6))]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.kind)
def test_arms_of_one_seed_share_their_initial_weights(model: Model) -> None:
    relu = build_model(model, "relu", (1, 7, 7), 10, seed=3).state_dict()
    other = build_model(model, "relu", (1, 7, 7), 10, seed=4).state_dict()
    assert any(not torch.equal(relu[key], other[key]) for key in relu)
    for arm in ("gelu", "gem(n=2)", "segem(eps=1e-4)", "rrelu", "prelu"):
        state = build_model(model, arm, (1, 7, 7), 10, seed=3).state_dict()
        # An arm may have parameters of its own (PReLU's slope); they come on top of the shared ones.
        assert set(relu) <= set(state)
        assert all(torch.equal(relu[key], state[key]) for key in relu)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.kind)
@pytest.mark.parametrize("name", catalog.ENTRIES)
def test_every_activation_gives_finite_logits_and_gradients(model: Model, name: str) -> None:
    network = build_model(model, name, (1, 8, 8), 10, seed=0)
    logits = network(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (5, 10)
    logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_building_leaves_the_global_random_state() -> None:
    before = torch.get_rng_state()
    build_model(MODELS[0], "gem", (1, 8, 8), 10, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_parameters_are_counted() -> None:
    assert count_parameters(build_model(Mlp((12, 9)), "relu", (1, 8, 8), 10, seed=0)) == 65 * 12 + 13 * 9 + 10 * 10
    convolutions = 9 * (4 + 16 + 24 + 36) + 2 * (4 + 4 + 6 + 6)
    assert count_parameters(build_model(Cnn((4, 6)), "relu", (1, 7, 7), 10, seed=0)) == convolutions + 10 * (6 * 4 + 1)
