"""Swapping activations in models that exist already: what changes, what stays, what is refused."""

import copy
import io
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from gem_activations import GemSpec
from gem_activations.errors import ActivationNameError, ModelError
from gem_activations.torch import EGEM, GEM, gem, make_activation, swap

from .known_warnings import tracing


def layers():
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(model, before):
    after = model.state_dict()
    return list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


class Shared(nn.Module):
    """One activation under two names, called twice."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)
        self.also = self.act

    def forward(self, x):
        return self.also(self.two(self.act(self.one(x))))


class Calls(nn.Module):
    """Calls every spelling of ReLU, and GELU with an option."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        x = torch.relu(functional.relu(self.one(x))) + x.relu()
        x = functional.gelu(x * self.scale, approximate="tanh")
        x = functional.dropout(x, 0.5, training=self.training)
        return self.drop(functional.relu(input=x, inplace=True)) + x.shape[0]


def helper(x):
    return functional.relu(x)


class CallsThroughAHelper(nn.Module):
    def forward(self, x):
        return self.inner(x) + 1

    def inner(self, x):
        return helper(x)


@pytest.mark.parametrize(
    ("choices", "changed"),
    [
        ({nn.GELU: "gem(n=2)"}, ["1"]),
        ({"1": "gem(n=2)"}, ["1"]),
        ({"*": "gem(n=2)"}, ["1", "4"]),
        ({"[0-3]": "gem(n=2)"}, ["1"]),
        ({lambda _, module: isinstance(module, nn.Tanh): "gem(n=2)"}, ["4"]),
        ({nn.Tanh: "gem(n=2)", nn.GELU: GemSpec(2)}, ["4", "1"]),
    ],
)
def test_keys_choose_what_they_say_and_nothing_else(choices, changed):
    model = layers()
    before, kinds = state(model), [type(module) for module in model]
    report = swap(model, choices)
    assert [change.name for change in report.changes] == changed
    assert report.model is model
    for number, module in enumerate(model):
        if str(number) in changed:
            assert isinstance(module, GEM)
            assert module.n == 2
        else:
            assert type(module) is kinds[number]
    assert same_state(model, before)
    report.undo()
    assert [type(module) for module in model] == kinds


def test_the_output_is_that_of_the_new_activation():
    model = layers().eval()
    swap(model, {"*": "gem(n=2)"})
    x = torch.randn(5, 4)
    assert torch.equal(model(x), model[5](gem(model[3](gem(model[0](x), n=2)), n=2)))


def test_the_first_key_counts_where_two_ask_for_one_place():
    model = layers()
    swap(model, {"1": "egem", nn.GELU: "gem", "*": "segem"})
    assert isinstance(model[1], EGEM)
    assert repr(model[4]).startswith("SEGEM")


def test_a_copy_leaves_the_model_as_it_was():
    model = layers()
    report = swap(model, {nn.GELU: "gem"}, inplace=False)
    assert isinstance(model[1], nn.GELU)
    assert isinstance(report.model[1], GEM)
    assert report.model[0].weight is not model[0].weight
    report.undo()
    assert isinstance(report.model[1], nn.GELU)


def test_a_module_used_twice_stays_one():
    model = Shared()
    report = swap(model, {nn.ReLU: "egem"})
    assert model.act is model.also
    assert isinstance(model.act, EGEM)
    assert model.act.inplace
    assert [change.name for change in report.changes] == ["act"]
    by_alias = swap(model, {"also": "gem"})
    assert model.act is model.also
    by_alias.undo()
    report.undo()
    assert type(model.act) is nn.ReLU
    assert model.act is model.also


def test_hooks_go_on_working_and_their_handles_remove_them():
    model, calls = layers(), []
    old = model[1]
    handles = [
        old.register_forward_pre_hook(lambda *_: calls.append("pre")),
        old.register_forward_hook(lambda *_: calls.append("forward"), with_kwargs=True),
        old.register_full_backward_hook(lambda *_: calls.append("backward")),
        old.register_full_backward_pre_hook(lambda *_: calls.append("backward pre")),
    ]
    report = swap(model, {nn.GELU: "gem"})
    model(torch.randn(3, 4)).sum().backward()
    assert calls == ["pre", "forward", "backward pre", "backward"]
    for handle in handles:
        handle.remove()
    model(torch.randn(3, 4)).sum().backward()
    assert len(calls) == 4
    model[1].register_forward_hook(lambda *_: calls.append("later"))
    report.undo()
    model(torch.randn(3, 4))
    assert calls[4:] == ["later"]


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_kept_where_it_is(training):
    model = layers().train(not training)
    model[1].train(training)
    swap(model, {"*": "rrelu"})
    assert [model[1].training, model[4].training] == [training, not training]


def test_a_learnt_slope_gets_device_and_dtype_of_the_weights_around_it():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()).to(torch.bfloat16))
    model[0].to(torch.float64)
    swap(model, {nn.ReLU: "prelu"})
    assert model[1][1].weight.dtype == torch.bfloat16
    meta = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.ReLU())
    swap(meta, {nn.ReLU: "prelu"})
    assert meta[1].weight.is_meta
    bare = nn.Sequential(nn.ReLU())
    swap(bare, {nn.ReLU: "prelu"})
    assert bare[0].weight.dtype == torch.float32


def test_an_option_that_the_new_one_has_not_is_dropped():
    model = nn.Sequential(nn.SiLU(inplace=True))
    swap(model, {nn.SiLU: "gelu"})
    assert type(model[0]) is nn.GELU


def test_an_activation_of_the_users_own_is_chosen_by_its_class():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x * self.slope

    model = nn.Sequential(nn.Linear(2, 2), Own())
    with pytest.raises(ModelError, match="'1' is chosen, a Own with parts of its own"):
        swap(model, {"1": "gem"})
    report = swap(model, {Own: "gem"})
    assert isinstance(model[1], GEM)
    assert str(report) == "1 x Own -> GEM(n=1, save='input'): 1"


def test_functions_in_every_spelling_become_child_modules():
    model = Calls()
    before, x = state(model), torch.randn(6, 4)
    report = swap(model, {torch.relu: "gem(n=2)", functional.gelu: "egem"})
    assert same_state(model, before)
    assert [(change.name, change.old) for change in report.changes] == [
        ("relu", "calls of relu"),
        ("gelu", "calls of gelu"),
    ]

    def expected(x):
        x = gem(gem(model.one(x), n=2), n=2) + gem(x, n=2)
        x = functional.dropout(make_activation("egem")(x * model.scale), 0.5, training=model.training)
        gem(x, n=2, inplace=True)
        return model.drop(x) + x.shape[0]

    for training in (True, False):
        model.train(training)
        torch.manual_seed(1)
        got = model(x)
        torch.manual_seed(1)
        assert torch.equal(got, expected(x))
    report.undo()
    assert type(model) is Calls
    assert not hasattr(model, "relu")
    assert torch.equal(model.eval()(x), Calls.forward(model, x))


def test_a_call_in_a_method_or_a_helper_is_found():
    model = nn.Sequential(CallsThroughAHelper())
    swap(model, {functional.relu: "gem"})
    assert torch.equal(model(torch.tensor([2.0])), torch.tensor([2.6]))
    assert isinstance(model[0].relu, GEM)


def test_a_copy_of_a_swapped_model_calls_its_own_weights():
    model = Calls().eval()
    report = swap(model, {functional.relu: "gem"}, inplace=False)
    twin = copy.deepcopy(report.model)
    nn.init.zeros_(twin.one.weight)
    nn.init.zeros_(twin.one.bias)
    x = -torch.ones(1, 4)
    assert torch.equal(twin(x), torch.ones(1, 4))
    assert not torch.equal(report.model(torch.ones(1, 4)), torch.ones(1, 4))
    assert type(model) is Calls


def test_functions_held_as_attributes_are_replaced():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = functional.relu
            self.other = partial(functional.gelu, approximate="tanh")

        def forward(self, x, scale=1.0):
            return self.other(self.act(x)) * scale

    model = Holds()
    report = swap(model, {functional.relu: "gem", functional.gelu: "gem(n=2)"})
    x = torch.randn(9)
    assert torch.equal(model(x), gem(gem(x), n=2))
    assert str(report).splitlines()[0] == "1 x the function relu -> GEM(n=1): act"
    report.undo()
    assert model.act is functional.relu
    assert model.other.func is functional.gelu


def encoder(activation, **options):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=activation, batch_first=True)
    return nn.TransformerEncoder(layer, 2, **options).eval()


def plain_layer(layer, x):
    """A transformer layer in the order of its definition, without the fast path."""
    x = layer.norm1(x + layer.self_attn(x, x, x, need_weights=False)[0])
    return layer.norm2(x + layer.linear2(gem(layer.linear1(x), n=2)))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize(
    ("activation", "key"),
    [("relu", functional.relu), ("gelu", torch.nn.functional.gelu), (nn.ReLU(), nn.ReLU), (nn.GELU(), nn.GELU)],
    ids=["relu", "gelu", "ReLU", "GELU"],
)
def test_the_fast_path_of_transformers_does_not_skip_the_new_activation(activation, key):
    model = encoder(activation)
    before, x = state(model), torch.randn(3, 5, 8)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])
    with torch.no_grad():
        old, old_padded = model(x), model(x, src_key_padding_mask=padding)
        report = swap(model, {key: "gem(n=2)"})
        assert same_state(model, before)
        assert [change.name for change in report.changes] == ["layers.0.activation", "layers.1.activation"]
        wanted = x
        for layer in model.layers:
            wanted = plain_layer(layer, wanted)
        # On the fast path this differs from `wanted` by 0.01 and more.
        torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-6)
        assert (model(x) - old).abs().max() > 0.01
        # Padding turned the input into a nested tensor before.
        padded = model(x, src_key_padding_mask=padding)
        torch.testing.assert_close(padded[0], wanted[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model.layers[0](x), plain_layer(model.layers[0], x), rtol=1e-5, atol=1e-6)
        report.undo()
        assert torch.equal(model(x), old)
        assert torch.equal(model(x, src_key_padding_mask=padding), old_padded)


def test_whole_transformers_and_decoders_are_swapped():
    model = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True).eval()
    report = swap(model, {functional.relu: "gem(n=2)"})
    assert [change.name for change in report.changes] == [
        "encoder.layers.0.activation",
        "decoder.layers.0.activation",
    ]
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        memory = model.encoder.norm(plain_layer(model.encoder.layers[0], x))
        torch.testing.assert_close(model.encoder(x), memory, rtol=1e-5, atol=1e-6)
        first = model(x, x)
        report.undo()
        assert not torch.equal(model(x, x), first)


@pytest.mark.parametrize("make", [layers, Calls, lambda: encoder("relu")], ids=["modules", "calls", "encoder"])
def test_a_swapped_model_compiles_in_one_graph(make):
    model = make().eval()
    key = nn.GELU if isinstance(model, nn.Sequential) else functional.relu
    swap(model, {key: "gem(n=2)"})
    x = torch.randn(2, 5, 8) if isinstance(model, nn.TransformerEncoder) else torch.randn(6, 4)
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_trained_model_is_saved_and_loaded_under_the_same_names():
    model, file = layers(), io.BytesIO()
    swap(model, {nn.GELU: "gem(n=2)"})
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = layers()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    swap(fresh, {nn.GELU: "gem(n=2)"})
    x = torch.randn(3, 4)
    assert torch.equal(fresh.eval()(x), model.eval()(x))


def test_gradients_flow_through_what_was_swapped():
    model = Calls()
    swap(model, {functional.relu: "gem", functional.gelu: "egem(n=2)"})
    model(torch.randn(6, 4)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("make", "choices", "error", "words"),
    [
        (layers, {nn.SiLU: "gem"}, ModelError, r"no module is of the class SiLU; its activations are 1 GELU, 1 Tanh"),
        (layers, {nn.Module: "gem"}, ModelError, "no module is of the class Module"),
        (layers, {"*.act": "gem"}, ModelError, r"matches the pattern '\*.act'; .* one is called '1'"),
        (layers, {"0*": "gem"}, ModelError, "no activation has a name that matches"),
        (layers, {"act": "gem"}, ModelError, "no module is called 'act'"),
        (layers, {"0": "gem"}, ModelError, "'0' is chosen, a Linear with parts of its own"),
        (layers, {nn.Linear: "gem"}, ModelError, "'0' is chosen, a Linear with parts of its own"),
        (layers, {lambda *_: False: "gem"}, ModelError, "the predicate chooses no module"),
        (layers, {lambda *_: True: "gem"}, ModelError, "Linear with parts of its own"),
        (layers, {helper: "gem"}, ModelError, "helper is no activation function of torch"),
        (layers, {functional.relu: "gem"}, ModelError, "no module holds or calls relu"),
        (layers, {}, ModelError, "nothing to swap: give what"),
        (layers, {nn.GELU: "gme"}, ActivationNameError, "did you mean"),
        (layers, {nn.GELU: "gem", nn.Tanh: "gme"}, ActivationNameError, "did you mean"),
        (
            layers,
            {"act": "gem", nn.SiLU: "gem"},
            ModelError,
            "no module is called 'act'; .*; no module is of the class SiLU",
        ),
        (layers, {3: "gem"}, ModelError, "3 is no key"),
        (layers, {int: "gem"}, ModelError, "is no key"),
        (layers, {"1": "gelu"}, ModelError, "nothing was changed; 1: it is gelu already"),
        (lambda: nn.Sequential(GEM(2)), {"0": "gem(n=2)"}, ModelError, r"0: it is gem\(n=2\) already"),
        (lambda: nn.Sequential(GEM(2)), {nn.GELU: "gem(n=2)"}, ModelError, r"its activations are 1 GEM\(n=2\)"),
        (lambda: nn.Linear(2, 2), {nn.GELU: "gem"}, ModelError, "no module that is known to be an activation"),
        (lambda: encoder("gelu"), {nn.GELU: "gem"}, ModelError, "functions it holds: torch.nn.functional.gelu"),
        (nn.GELU, {nn.GELU: "gem"}, ModelError, "the model itself is the activation GELU"),
        (lambda: "model", {nn.GELU: "gem"}, ModelError, "expected a torch.nn.Module as the model, got str"),
    ],
)
def test_bad_input_is_one_clear_error_and_changes_nothing(make, choices, error, words):
    model = make()
    before = repr(model)
    with pytest.raises(error, match=words) as caught:
        swap(model, choices)
    assert "\n" not in str(caught.value)
    assert repr(model) == before


@tracing
def test_a_scripted_model_is_refused():
    with pytest.raises(ModelError, match=r"swap before torch.jit"):
        swap(torch.jit.trace(layers().eval(), torch.ones(1, 4)), {nn.GELU: "gem"})


def test_a_second_swap_of_functions_says_that_the_first_was_there():
    model = nn.Sequential(CallsThroughAHelper())
    swap(model, {functional.relu: "gem"})
    with pytest.raises(ModelError, match=r"modules in place of functions already \(relu by 'relu'\); give their names"):
        swap(model, {functional.relu: "gem"})
    assert swap(model, {GEM: "egem"}).changes[0].name == "0.relu"
    assert torch.equal(model(torch.tensor([2.0])), make_activation("egem")(torch.tensor([2.0])) + 1)


def test_a_wrapped_forward_is_left():
    model = layers()
    model[1].forward = model[1].forward
    with pytest.raises(ModelError, match="its forward is wrapped"):
        swap(model, {nn.GELU: "gem"})
    assert len(swap(model, {"*": "gem"}).left) == 1


def test_a_swap_that_breaks_off_leaves_the_model_as_it_was(monkeypatch):
    model = layers()
    before, kinds = repr(model), list(model)
    made = []

    def fail(*arguments, **_):
        made.append(arguments)
        if len(made) == 2:
            raise MemoryError
        return GEM()

    monkeypatch.setattr(sys.modules["gem_activations.torch.swap.keys"], "make_activation", fail)
    with pytest.raises(MemoryError):
        swap(model, {"*": "gem"})
    assert len(made) == 2
    assert repr(model) == before
    assert list(model) == kinds


def test_undo_is_refused_twice_and_out_of_order():
    model = layers()
    first = swap(model, {nn.GELU: "gem"})
    second = swap(model, {GEM: "egem"})
    with pytest.raises(ModelError, match="undo the later change first"):
        first.undo()
    assert isinstance(model[1], EGEM)
    second.undo()
    first.undo()
    assert isinstance(model[1], nn.GELU)
    with pytest.raises(ModelError, match="undone before"):
        first.undo()


def test_a_report_is_frozen_and_compares_by_what_it_says():
    reports = [swap(layers(), {nn.GELU: "gem"}) for _ in range(2)]
    assert reports[0] == reports[1]
    with pytest.raises(AttributeError):
        reports[0].changes = ()
    assert "Change(name='1', old='GELU', new=\"GEM(n=1, save='input')\")" in repr(reports[0])
