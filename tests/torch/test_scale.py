"""Scales as tensors: learnt, scheduled, one a channel; and scale= as another spelling of eps=."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from gem_activations import GemSpec
from gem_activations.errors import GemError, ModelError, SettingError, SpecError, TensorError
from gem_activations.torch import (
    EGEM,
    GEM,
    GEMGLU,
    SEGEM,
    ScaleSchedule,
    activate_scaled,
    egem,
    exported,
    gem_glu,
    segem,
    weight_decay_groups,
)

from ..tolerances import GRADCHECK


def test_scale_is_eps_in_every_function_and_module():
    x = torch.randn(50)
    assert torch.equal(egem(x, scale=0.1), egem(x, eps=0.01))
    assert torch.equal(egem(x, n=2, scale=0.1), egem(x, n=2))
    assert torch.equal(segem(x, scale=0.5, leak=0.2), segem(x, eps=0.25, leak=0.2))
    assert torch.equal(gem_glu(x, x, n=2, scale=3), gem_glu(x, x, n=2, eps=81))
    assert EGEM(scale=0.1).spec == EGEM(eps=0.01).spec == GemSpec.of(1, None, scale=0.1)
    assert SEGEM(n=2, scale=0.1).spec == SEGEM(n=2).spec
    assert GEMGLU(2, 2, n=2, scale=3).spec == GemSpec(2, 81)
    assert repr(EGEM(scale=0.1)) == "EGEM(n=1, eps=0.01)"
    assert torch.equal(
        torch.compile(lambda x: egem(x, scale=0.1), backend="eager", fullgraph=True)(x), egem(x, eps=0.01)
    )


@pytest.mark.parametrize("call", [
    lambda: egem(torch.ones(1), eps=1, scale=1), lambda: segem(torch.ones(1), eps=1e-4, scale=1),
    lambda: gem_glu(torch.ones(1), torch.ones(1), eps=1, scale=1), lambda: EGEM(eps=1e-4, scale=1),
    lambda: SEGEM(eps=1, scale=1), lambda: GEMGLU(1, 1, eps=1, scale=1),
], ids=range(6))  # fmt: skip
def test_both_given_is_an_error(call):
    with pytest.raises(SpecError, match="give one of them"):
        call()


CASES = [(1, 0.0), (2, 0.0), (3, 0.1), (8, 0.0)]


@pytest.mark.parametrize(("n", "leak"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_values_and_gradients_are_those_of_the_plain_module(n, leak, dtype):
    x = (3 * torch.randn(2000, dtype=torch.float64)).to(dtype).requires_grad_()
    plain, learnt = SEGEM(n, 0.2, leak), SEGEM(n, 0.2, leak, trainable=True)
    y = learnt(x)
    wanted = plain(x)
    tolerance = {"rtol": 4 * torch.finfo(dtype).eps + 2e-7 * 2 * n, "atol": 0}
    torch.testing.assert_close(y, wanted, **tolerance)
    grad = torch.randn_like(y)
    (by_x,), (plainly,) = torch.autograd.grad(y, x, grad, retain_graph=True), torch.autograd.grad(wanted, x, grad)
    torch.testing.assert_close(by_x, plainly, rtol=tolerance["rtol"] * 2 * n, atol=1e-6)
    # The derivative by log a in float64: f(x) - x f'(x).
    spec = GemSpec(n, 0.2, leak)
    exact = spec(x.detach().double().numpy()) - x.detach().double().numpy() * spec.derivative(
        x.detach().double().numpy()
    )
    (by_scale,) = torch.autograd.grad(y, learnt.log_scale, grad)
    terms = grad.double().numpy() * exact
    assert by_scale.item() == pytest.approx(terms.sum(), abs=1e-5 * abs(terms).sum())


@pytest.mark.parametrize(("n", "leak"), CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_of_both_orders(n, leak, channels):
    x = torch.tensor([[-1.3, 0.4, 0.9], [0.7, 1.6, 2.3]], dtype=torch.float64, requires_grad=True)
    s = torch.linspace(-0.4, 0.3, channels, dtype=torch.float64).requires_grad_()

    def f(x, s):
        return activate_scaled(x, s, n, leak)

    assert torch.autograd.gradcheck(f, (x, s), **GRADCHECK)
    assert torch.autograd.gradgradcheck(f, (x, s), **GRADCHECK)


def test_extreme_inputs_have_finite_gradients():
    x = torch.tensor([-3e38, -1.0, -1e-30, 0.0, 1e-30, 1.0, 1e10, 3e38], requires_grad=True)
    for scale in (1e-6, 1.0, 1e6):
        module = EGEM(n=2, scale=scale, trainable=True)
        for y in (module(x), torch.func.functional_call(module, dict(module.named_parameters()), (x,))):
            by_x, by_scale = torch.autograd.grad(y.sum(), (x, module.log_scale))
            assert torch.isfinite(by_x).all()
            assert torch.isfinite(by_scale).all()


def test_transforms_compile_and_copies():
    model = nn.Sequential(nn.Linear(4, 6), EGEM(n=2, scale=0.5, trainable=True), nn.Linear(6, 1))
    x = torch.randn(8, 4)
    model(x).sum().backward()
    wanted = model[1].log_scale.grad.clone()
    twin = copy.deepcopy(model)
    twin.zero_grad()
    torch.compile(twin, backend="aot_eager", fullgraph=True)(x).sum().backward()
    torch.testing.assert_close(twin[1].log_scale.grad, wanted)
    for made in (twin, pickle.loads(pickle.dumps(model))):
        assert made[1].log_scale._no_weight_decay
        torch.testing.assert_close(made(x), model(x))
    weights = dict(model.named_parameters())

    def loss(weights, x):
        return torch.func.functional_call(model, weights, (x,)).sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    torch.testing.assert_close(each["1.log_scale"].sum(0), wanted)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_the_state_dict_holds_the_scale_and_freeze_leaves_it_out():
    module = EGEM(n=2, scale=0.5, trainable=True)
    assert list(module.state_dict()) == ["log_scale"]
    assert module.log_scale.shape == (1,)
    other = EGEM(n=2, trainable=True)
    other.load_state_dict(module.state_dict())
    assert other.spec.scale == pytest.approx(0.5, rel=1e-6)
    frozen = module.freeze()
    assert not list(frozen.parameters())
    assert frozen.spec.scale == pytest.approx(0.5, rel=1e-6)
    x = torch.randn(20)
    torch.testing.assert_close(frozen(x), module(x))
    assert repr(module) == "EGEM(n=2, eps=0.0625, trainable=True)"
    with pytest.raises(SettingError, match="3 scales have no plain module"):
        EGEM(trainable=True, channels=3).freeze()


@pytest.mark.parametrize("x", [torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.complex64), "x"], ids=str)
def test_what_is_no_floating_tensor_is_refused(x):
    with pytest.raises(TensorError, match="expected a"):
        EGEM(trainable=True)(x)


@pytest.mark.parametrize("shape", [(4, 5), (3,)], ids=str)
def test_not_as_many_channels_as_scales_is_one_clear_error(shape):
    with pytest.raises(TensorError, match="3 scales, one a channel: expected as many along dimension 1"):
        EGEM(trainable=True, channels=3)(torch.ones(shape))


@pytest.mark.parametrize("leak", [0.0, 0.1])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_exported_graph_stays_finite_if_a_converter_makes_it_float16(channels, leak):
    module = SEGEM(n=3, scale=0.25, leak=leak, trainable=True, channels=channels)
    x = torch.tensor([-6e4, -1.0, 0.0, 0.1, 0.3, 2.0, 300.0, 6e4])[:, None].expand(8, 3).contiguous()
    program = torch.export.export(module, (x,)).module()
    torch.testing.assert_close(program(x), module(x), rtol=1e-5, atol=0)
    # What the converter does to the operations; the program itself asserts its dtypes.
    y = exported.scaled_value(x.half(), module.log_scale.half().exp(), 3, leak)
    torch.testing.assert_close(y.float(), module(x.half().float()), rtol=5e-3, atol=1e-6)


def test_a_traced_model_keeps_its_scale():
    model = nn.Sequential(nn.Linear(2, 3), EGEM(scale=0.5, trainable=True))
    traced, x = torch.fx.symbolic_trace(model), torch.randn(4, 2)
    torch.testing.assert_close(traced(x), model(x))


def test_a_scale_that_is_learnt_finds_the_one_that_made_the_data():
    torch.manual_seed(0)
    module = EGEM(n=2, scale=0.2, trainable=True)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    x = torch.randn(4096)
    for _ in range(150):
        optimizer.zero_grad()
        (module(x) - egem(x, n=2, scale=1.0)).square().mean().backward()
        optimizer.step()
    assert module.spec.scale == pytest.approx(1.0, rel=0.01)


def test_weight_decay_leaves_scales_alone():
    model = nn.Sequential(nn.Linear(2, 2), EGEM(trainable=True), nn.Sequential(SEGEM(trainable=True, channels=2)))
    decayed, kept = weight_decay_groups(model, 0.1)
    assert kept["weight_decay"] == 0
    assert [id(parameter) for parameter in kept["params"]] == [id(model[1].log_scale), id(model[2][0].log_scale)]
    assert (len(decayed["params"]), decayed["weight_decay"]) == (2, 0.1)
    assert len(weight_decay_groups(nn.Linear(2, 2), 0.1)) == 1
    with pytest.raises(SettingError, match="no parameter"):
        weight_decay_groups(nn.ReLU(), 0.1)


def test_transformers_rule_by_name_leaves_scales_alone_once_it_is_told_their_name():
    rules = pytest.importorskip("transformers.trainer_pt_utils", reason="transformers is not installed")
    model = nn.Sequential(nn.Linear(2, 2), EGEM(trainable=True), nn.Sequential(SEGEM(trainable=True, channels=2)))
    assert rules.get_parameter_names(model, [nn.LayerNorm], [r"bias", r"log_scale"]) == ["0.weight"]


@pytest.mark.parametrize(("make", "words"), [
    (lambda: EGEM(trainable=True, inplace=True), "keeps the input"), (lambda: EGEM(channels=3), "trainable=True"),
    (lambda: EGEM(trainable=True, save="output"), "keeps the input"),
], ids=range(3))  # fmt: skip
def test_options_that_contradict_are_one_clear_error(make, words):
    with pytest.raises(GemError, match=words):
        make()


@pytest.mark.parametrize(("shape", "scales"), [
    ("linear", [1, 0.775, 0.55, 0.325, 0.1]), ("exponential", [10 ** (-k / 4) for k in range(5)]),
    ("cosine", [0.1 + 0.9 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(5)]),
])  # fmt: skip
def test_a_schedule_goes_from_start_to_end(shape, scales):
    model = nn.Sequential(nn.Linear(2, 2), EGEM(n=2), GEM())
    x = torch.randn(50, 2)
    schedule = ScaleSchedule(model, 1.0, 0.1, 4, shape)
    for scale in (*scales, scales[-1]):
        assert schedule.scale == pytest.approx(scale)
        assert model[1].spec.scale == pytest.approx(scale, rel=1e-6)
        torch.testing.assert_close(model[1](x), egem(x, n=2, scale=scale), rtol=1e-4, atol=1e-6)
        schedule.step()
    assert not [name for name in model.state_dict() if "scale" in name]
    schedule.freeze()
    assert [model[1].spec, model[2].spec] == [GemSpec.from_scale(2, 0.1), GemSpec.from_scale(1, 0.1)]
    assert not list(model[1].buffers())


def test_a_schedule_is_resumed_and_refuses_what_it_cannot_move():
    model = nn.Sequential(EGEM())
    schedule = ScaleSchedule(model, 1.0, 0.1, 4)
    schedule.step()
    other = ScaleSchedule(nn.Sequential(EGEM()), 1.0, 0.1, 4)
    other.load_state_dict(schedule.state_dict())
    assert other.scale == schedule.scale
    for arguments, error, words in [
        ((nn.ReLU(), 1, 0.1, 4), ModelError, "no GEM"), ((EGEM(trainable=True), 1, 0.1, 4), ModelError, "trainable"),
        ((EGEM(), 0, 0.1, 4), SpecError, "scale"), ((EGEM(), 1, 0.1, 0), SettingError, "steps=0"),
        ((EGEM(), 1, 0.1, 4, "step"), SettingError, "shape='step'"),
    ]:  # fmt: skip
        with pytest.raises(error, match=words):
            ScaleSchedule(*arguments)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
def test_a_schedule_is_not_compiled_again():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model = nn.Sequential(nn.Linear(4, 4), EGEM(n=2), nn.Linear(4, 1))
    schedule = ScaleSchedule(model, 1.0, 0.1, 5)
    compiled, x = torch.compile(model, backend=backend, fullgraph=True), torch.randn(8, 4)
    for _ in range(5):
        torch.testing.assert_close(compiled(x), model(x))
        schedule.step()
    assert len(graphs) == 1


def test_a_tensor_that_is_not_contiguous_has_the_same_gradients():
    x, grad = torch.randn(6, 5, 4, 3), torch.randn(6, 5, 4, 3)
    found = []
    for change in (lambda t: t, lambda t: t.to(memory_format=torch.channels_last), lambda t: t.mT.contiguous().mT):
        module = EGEM(n=2, scale=0.5, trainable=True)
        leaf = change(x).detach().requires_grad_()
        module(leaf).backward(change(grad))
        found.append((leaf.grad, module.log_scale.grad))
    for by_x, by_scale in found[1:]:
        assert torch.equal(by_x, found[0][0])
        torch.testing.assert_close(by_scale, found[0][1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3, 2), (3, 5, 7), (0, 5), (2, 5, 0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_scales_for_channels_are_computed_by_the_kernels_in_every_usual_layout(shape, dtype):
    """As it is, with the channels last in memory or in shape; and by torch operations otherwise."""
    for change, channel_dim, kernel in (
        (lambda t: t, 1, True),
        (lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1), 1, True),
        (lambda t: t.movedim(1, -1).contiguous(), -1, True),
        (lambda t: t.movedim(1, -1).contiguous(), len(shape) - 1, True),
        (lambda t: torch.stack((t, t), -1)[..., 0], 1, False),
    ):
        values = torch.randn(shape, dtype=torch.float64).to(dtype)
        grad = torch.randn(shape, dtype=torch.float64).to(dtype)
        log_scale = torch.linspace(-1, 1, 5, dtype=torch.promote_types(dtype, torch.float32)).requires_grad_()
        x = change(values).detach().requires_grad_()
        y = activate_scaled(x, log_scale, 2, 0.1, channel_dim=channel_dim)
        assert y.shape == x.shape
        assert y.stride() == x.stride() or not (kernel and x.numel())
        found = torch.autograd.grad(y, (x, log_scale), change(grad))
        wide, exact = values.double().requires_grad_(), log_scale.detach().double().requires_grad_()
        z = activate_scaled(wide, exact, 2, 0.1, backend="plain")
        wanted = torch.autograd.grad(z, (wide, exact), grad.double())
        tolerance = 4 * torch.finfo(dtype).eps + 1e-12
        torch.testing.assert_close(y.double(), change(z), rtol=tolerance, atol=0)
        torch.testing.assert_close(found[0].double(), change(wanted[0]), rtol=4 * tolerance, atol=1e-7)
        torch.testing.assert_close(found[1].double(), wanted[1], rtol=1e-5, atol=1e-5)  # Terms of both signs.


def test_a_scale_that_has_left_its_range_is_one_clear_error():
    module = EGEM(trainable=True, channels=3)
    with torch.no_grad():
        module.log_scale[1] = 80.0
    with pytest.raises(SpecError, match="has left the range"):
        module(torch.ones(2, 3))


def test_a_model_in_half_precision_learns_its_scales():
    for channels in (1, 3):
        model = EGEM(scale=0.5, trainable=True, channels=channels).bfloat16()
        x = torch.randn(64, 3, dtype=torch.bfloat16)
        model(x).sum().backward()
        twin = EGEM(scale=0.5, trainable=True, channels=channels)
        twin(x).sum().backward()
        assert model.log_scale.grad.dtype == torch.bfloat16
        torch.testing.assert_close(model.log_scale.grad.float(), twin.log_scale.grad, rtol=0.02, atol=0.02)


def test_a_relative_schedule_moves_each_module_from_its_own_scale():
    model = nn.Sequential(EGEM(scale=2.0), nn.Linear(3, 3), EGEM(n=2, scale=0.01))
    schedule = ScaleSchedule(model, 1.0, 0.1, 2, "exponential", relative=True)
    schedule.step(to=2)
    assert [model[0].spec.scale, model[2].spec.scale] == pytest.approx([0.2, 0.001], rel=1e-6)
    schedule.freeze()
    assert [model[0].spec.scale, model[2].spec.scale] == pytest.approx([0.2, 0.001], rel=1e-12)
