"""What a swap of functions cannot serve and says, and what it serves: copies, wrappers, compilers and exporters."""

import copy
import inspect
import io
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from gem_activations.errors import ModelError
from gem_activations.torch import GEM, gem, swap
from gem_activations.torch.swap.calls import find_calls

from .known_warnings import exporting, forward_mode, tracing


class Block(nn.Module):
    """Calls ReLU itself, and has a part that has one."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.act = nn.Linear(3, 3), nn.LayerNorm(3), nn.ReLU()

    def forward(self, x, scale=None):
        y = functional.relu(self.fc(x)) + self.act(self.norm(x))
        return y if scale is None else y * scale


def blocks(activation="gem(n=2)", kind=Block):
    model = nn.Sequential(kind(), kind())
    swap(model, {functional.relu: activation})
    return model, torch.randn(5, 3)


def expected(model, x):
    for block in model:
        x = gem(block.fc(x), n=2) + functional.relu(block.norm(x))
    return x


def gradients(model, run, x):
    model.zero_grad()
    x = x.clone().requires_grad_()
    run(x).square().sum().backward()
    return [x.grad, *(parameter.grad for parameter in model.parameters())]


# What cannot be served is left, with the reason.


class Checkpoints(Block):
    def forward(self, x):
        return checkpoint(self.piece, x, use_reentrant=False)

    def piece(self, x):
        return functional.relu(self.fc(x))


class ChecksSequentially(Block):
    def forward(self, x):
        return checkpoint_sequential([self.fc, self.norm], 1, functional.relu(x), use_reentrant=False)


class OwnGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return functional.relu(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


class OwnBackward(Block):
    def forward(self, x):
        return OwnGelu.apply(x) + functional.relu(x)


class Contains(nn.Sequential):
    def forward(self, x):
        for layer in self:
            x = functional.relu(layer(x))
        return x


class GoesThrough(Block):
    def forward(self, x):
        return functional.relu(sum(child(x) for child in self.children()))


class Waits(Block):
    async def forward(self, x):
        return functional.relu(x)


class Alone(type):
    def __new__(cls, name, bases, names):
        if bases != (nn.Module,):
            raise TypeError("no subclasses")
        return super().__new__(cls, name, bases, names)


class Final(nn.Module, metaclass=Alone):
    def forward(self, x):
        return functional.relu(x)


def wrapped():
    model = Block()
    model.forward = model.forward  # As accelerate does.
    return model


def parametrized():
    class Scaled(Block):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    return parametrize.register_parametrization(Scaled(), "scale", nn.Softplus())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Checkpoints, "uses checkpoint, which computes a piece of it again .*; checkpoint the whole module"),
        (ChecksSequentially, "uses checkpoint"),
        (OwnBackward, "torch.autograd.Function OwnGelu, whose backward would be that of another activation"),
        (Contains, "it is a container"),
        (GoesThrough, "goes through its children"),
        (Waits, "is a coroutine"),
        (Final, "its class cannot have a subclass: no subclasses"),
        (wrapped, "its forward is wrapped"),
        (parametrized, "has changed its class"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_forward_that_cannot_be_served_is_left_and_said(make, words):
    model = nn.Sequential(make())
    kind, attributes = type(model[0]), dict(vars(model[0]))
    with pytest.raises(ModelError, match=rf"nothing was changed; 0: .*{words}.* \(it calls relu\)") as caught:
        swap(model, {functional.relu: "gem"})
    assert "\n" not in str(caught.value)
    assert type(model[0]) is kind
    assert vars(model[0]) == attributes
    report = swap(nn.Sequential(model[0], Block()), {functional.relu: "gem"})
    assert [left.name for left in report.left] == ["0"]
    assert [change.name for change in report.changes] == ["1.relu"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_scripting_a_swapped_module_is_refused_rather_than_given_the_old_function():
    model, _ = blocks()
    for scripted in (model, model[0]):
        with pytest.raises(ModelError, match=r"torch.jit.script cannot see the functions that swap serves in Block"):
            torch.jit.script(scripted)


def test_a_learnt_slope_is_one_for_the_module_and_the_function():
    class Twice(Block):
        def forward(self, x):
            return functional.relu(functional.relu(x) - 1)

    model = Twice()
    report = swap(model, {functional.relu: "prelu"})
    assert [change.new for change in report.changes] == ["PReLU(num_parameters=1)"]
    assert report.notes == ("all calls of one function in one forward share what is learnt: relu",)
    assert "note: all calls of one function" in str(report)


# What can be: copies, replicas, wrappers and transforms call the new activation with the weights that are theirs.


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_block_that_is_checkpointed_as_a_whole_has_the_same_gradients(use_reentrant):
    model, x = blocks()
    wanted = gradients(model, model, x)
    got = gradients(model, lambda x: model[1](checkpoint(model[0], x, use_reentrant=use_reentrant)), x)
    assert all(map(torch.equal, got, wanted))
    assert torch.equal(model(x), expected(model, x))


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: pickle.loads(pickle.dumps(model, protocol=2)),
        lambda model: torch.load(saved(model), weights_only=False),
        lambda model: copy.deepcopy(pickle.loads(pickle.dumps(copy.deepcopy(model)))),
    ],
    ids=["deepcopy", "pickle", "pickle 2", "torch.save", "all"],
)
def test_a_copy_has_the_new_activation_and_its_own_weights(copied):
    model, x = blocks("prelu")
    twin = copied(model)
    wanted = model(x)
    assert torch.equal(twin(x), wanted)
    assert [type(block) for block in twin] == [type(block) for block in model]
    assert isinstance(twin[0], Block)
    twin[0] = copied(model[0])
    twin[0].relu.weight = nn.Parameter(torch.tensor([0.75]))
    assert not torch.equal(twin(x), wanted)
    assert torch.equal(model(x), wanted)
    assert torch.equal(copy.copy(model[0])(x), model[0](x))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


def test_a_replica_of_data_parallel_computes_with_its_own_weights():
    """nn.DataParallel copies modules in this way to each GPU."""
    model, x = blocks()
    replica = model[0]._replicate_for_data_parallel()
    replica.fc = copy.deepcopy(model[0].fc)
    nn.init.zeros_(replica.fc.weight)
    nn.init.ones_(replica.fc.bias)
    assert torch.equal(replica(x), gem(torch.ones(5, 3), n=2) + functional.relu(model[0].norm(x)))
    assert torch.equal(nn.DataParallel(model)(x), expected(model, x))


@pytest.fixture
def _one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
def test_fsdp2_shards_a_swapped_model():
    model, x = blocks("prelu")
    wanted, slopes = gradients(model, model, x), model[0].relu.weight
    for block in model:
        fully_shard(block, mesh=init_device_mesh("cpu", (1,)))
    assert slopes.numel() == 1
    got = gradients(model, model, x)
    assert torch.allclose(got[0], wanted[0])
    assert all(torch.allclose(one.full_tensor(), two) for one, two in zip(got[1:], wanted[1:], strict=True))


def test_hooks_of_the_module_run_outside_of_its_forward():
    model, x = Block(), torch.randn(5, 3)
    model.register_forward_pre_hook(lambda _, given: (functional.relu(given[0]),))
    model.register_forward_hook(lambda *given: functional.relu(given[-1] - 1))
    model.fc.register_forward_hook(lambda *given: functional.relu(given[-1]))
    swap(nn.Sequential(model), {functional.relu: "gem"})
    h = functional.relu(x)
    # A hook of a part runs while this forward does: its call is one of this forward's.
    inner = gem(gem(nn.functional.linear(h, model.fc.weight, model.fc.bias)))
    assert torch.equal(model(x), functional.relu(inner + functional.relu(model.norm(h)) - 1))


class Yields(Block):
    def forward(self, x):
        for scale in (1, 2):
            yield functional.relu(self.fc(x)) * scale


class Lazy(Block):
    def forward(self, x):
        return (functional.relu(y) for y in [x, -x])


class GivesForward(Block):
    @property
    def forward(self):
        return lambda x: functional.relu(self.fc(x))


def test_a_forward_that_is_a_generator_is_served_at_each_step():
    model, x = nn.Sequential(Yields()), torch.randn(5, 3)
    swap(model, {functional.relu: "gem"})
    y = gem(model[0].fc(x))
    assert all(map(torch.equal, model(x), [y, 2 * y]))
    steps = model(x)
    next(steps)
    assert torch._C._len_torch_function_stack() == 0
    lazy = Lazy()
    swap(lazy, {functional.relu: "gem"})
    assert all(map(torch.equal, lazy(x), [gem(x), gem(-x)]))

    class Uses(Block):
        def __init__(self):
            super().__init__()
            self.steps = Yields()

        def forward(self, x):
            return sum(self.steps(functional.tanh(x)))

    outer = Uses()
    swap(outer, {torch.tanh: "gem"})
    assert torch.allclose(outer(x), 3 * functional.relu(outer.steps.fc(gem(x))))


def test_a_forward_that_is_a_property_is_served():
    model, x = GivesForward(), torch.randn(5, 3)
    swap(model, {functional.relu: "gem"})
    assert torch.equal(model(x), gem(model.fc(x)))


@forward_mode
def test_transforms_of_torch_func_see_the_new_activation():
    model, x = blocks()
    tangent, parameters = torch.randn(5, 3), dict(model.named_parameters())
    got = torch.func.jvp(model, (x,), (tangent,))
    wanted = torch.func.jvp(lambda x: expected(model, x), (x,), (tangent,))
    assert all(map(torch.allclose, got, wanted))
    assert torch.allclose(torch.func.vmap(model)(x), expected(model, x))
    per_sample = torch.func.vmap(torch.func.grad(lambda x: model(x).sum()))(x)
    x.requires_grad_()
    assert torch.allclose(per_sample, torch.autograd.grad(expected(model, x).sum(), x)[0])
    zeros = {name: torch.zeros_like(value) for name, value in parameters.items()}
    assert torch.equal(torch.func.functional_call(model, zeros, (x,)), torch.zeros(5, 3))


def test_a_swapped_model_compiles_in_one_graph_also_under_a_default_device():
    model, x = blocks()
    torch._dynamo.reset()
    with torch.device("cpu"):
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected(model, x))
        assert torch._C._len_torch_function_stack() == 1


def test_blocks_are_compiled_apart():
    """torch.compile gives up on one code object after a few modules that share it."""
    kinds = [type(f"Block{number}", (Block,), {}) for number in range(3)]
    model, x = nn.Sequential(*(kind() for kind in kinds)), torch.ones(2, 3)
    swap(model, {functional.relu: "gem(n=2)"})
    codes = {id(type(block).forward.__code__) for block in model}
    assert len(codes) == 3
    torch._dynamo.reset()
    with torch.no_grad():
        wanted = model(x)
        for block in model:
            block.compile(backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(model(x), wanted)


def test_a_graph_break_in_the_middle_of_forward_loses_no_call():
    class Breaks(Block):
        def forward(self, x):
            y = functional.relu(self.fc(x))
            torch._dynamo.graph_break()
            return functional.relu(y - 0.5) + self.act(y)

    model, x = Breaks(), torch.randn(5, 3)
    swap(model, {functional.relu: "gem"})
    y = gem(model.fc(x))
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), gem(y - 0.5) + functional.relu(y))


@exporting
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning")
@pytest.mark.parametrize("strict", [True, False])
def test_a_swapped_model_is_exported(strict):
    model, x = blocks()
    exported = torch.export.export(model, (x,), strict=strict)
    torch.testing.assert_close(exported.module()(x), expected(model, x))
    assert "relu" in str(exported.graph)  # That of the parts.


@tracing
def test_a_swapped_model_is_traced():
    model, x = blocks()
    assert torch.allclose(torch.jit.trace(model, x)(x), expected(model, x))
    assert torch.allclose(torch.fx.symbolic_trace(model)(x), expected(model, x))


def test_trainers_read_the_arguments_of_the_modules_own_forward():
    model, _ = blocks()
    assert inspect.signature(model[0].forward) == inspect.signature(Block().forward)
    assert inspect.getfullargspec(model[0].forward).args == ["self", "x", "scale"]
    assert type(model[0]).__name__ == type(model[0]).__qualname__ == "Block"


def test_the_subclass_is_not_told_to_the_class():
    known = []

    class Registers(nn.Module):
        def __init_subclass__(cls):
            known.append(cls)

    class Mine(Registers):
        def forward(self, x):
            return functional.relu(x)

    swap(nn.Sequential(Mine()), {functional.relu: "gem"})
    assert known == [Mine]


def test_a_class_is_a_key_also_where_its_functions_were_swapped():
    class Own(nn.Module):
        def forward(self, x):
            return functional.relu(x)

    model = nn.Sequential(nn.Linear(2, 2), Own())
    swap(model, {functional.relu: "egem"})
    assert [change.name for change in swap(model, {Own: "gem"}).changes] == ["1"]
    assert type(model[1]) is GEM


def test_reading_a_forward_runs_nothing_of_the_users():
    class Counts(nn.Module):
        calls = 0

        @property
        def act(self):
            Counts.calls += 1
            return functional.relu

        def forward(self, x):
            return self.act(x)

    assert find_calls(Counts()).families == {"relu": False}
    assert Counts.calls == 0


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_the_fast_path_of_torch_within_a_forward_that_is_served():
    class Encodes(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation=nn.GELU(), batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)

        def forward(self, x):
            return functional.gelu(self.encoder(x))

    model, x = Encodes().eval(), torch.randn(2, 4, 8)
    with torch.no_grad():
        h = model.encoder(x)
        swap(model, {functional.gelu: "gem"})
        torch.testing.assert_close(model(x), gem(h), rtol=1e-5, atol=1e-6)
