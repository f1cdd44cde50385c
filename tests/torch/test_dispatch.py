"""The dispatch: which backend serves a call, what is kept, what is refused and told."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from gem_activations import GemError, GemSpec
from gem_activations.errors import BackendError, TensorError
from gem_activations.torch import (
    EGEM,
    GEM,
    GEMGLU,
    SEGEM,
    PlainFallbackWarning,
    activate,
    backend_info,
    backends,
    egem,
    functional,
    gem,
    gem_glu,
    segem,
)
from gem_activations.torch.backends import PLAIN, load_cpu

from . import known_warnings

needs_cpu_kernels = pytest.mark.skipif(
    load_cpu() is None, reason="the C kernels are not built: no C compiler was there"
)


def kept_tensors(function, x):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = function(x)
    return y, kept


def test_backend_info_names_every_backend():
    info = backend_info()
    assert set(info) == {"plain", "cpu", "triton"}
    assert info["cpu"].startswith("in use") == (load_cpu() is not None)


@needs_cpu_kernels
def test_cpu_tensors_are_served_by_the_c_kernels():
    assert backends.choose_backend("auto", torch.ones(2)) is load_cpu()
    assert backends.choose_backend("cpu", torch.ones(2)) is load_cpu()
    assert backends.choose_backend("plain", torch.ones(2)) is PLAIN


@needs_cpu_kernels
@pytest.mark.parametrize(("n", "leak", "output"), [(1, 0, True), (4, 0, True), (5, 0, False), (1, 0.01, False)])
def test_auto_keeps_the_output_where_a_kernel_is_as_fast_from_it(n, leak, output):
    x = torch.randn(8, requires_grad=True)
    y, kept = kept_tensors(lambda x: segem(x, n=n, leak=leak), x)
    assert len(kept) == 1
    assert kept[0].data_ptr() == (y if output else x).data_ptr()


@pytest.mark.parametrize("save", ["input", "output"])
@pytest.mark.parametrize("backend", ["auto", "plain"])
def test_one_tensor_is_kept_and_it_is_the_one_asked_for(save, backend):
    x = torch.randn(8, requires_grad=True)
    y, kept = kept_tensors(lambda x: gem(x, save=save, backend=backend), x)
    assert [tensor.data_ptr() for tensor in kept] == [(x if save == "input" else y).data_ptr()]


def test_the_output_kept_is_the_one_the_next_layer_keeps():
    """Two linear layers around GEM keep what they keep around ReLU: no tensor more."""

    def distinct(activation):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), activation, nn.Linear(8, 2))
        _, kept = kept_tensors(model, torch.randn(3, 4))
        return len({tensor.untyped_storage().data_ptr() for tensor in kept})

    assert distinct(GEM(save="output")) == distinct(nn.ReLU())
    assert distinct(GEM(save="input")) == distinct(nn.ReLU()) + 1


@pytest.mark.parametrize("backend", ["gpu", "", None, "CPU"])
def test_unknown_backends_are_refused(backend):
    with pytest.raises(BackendError, match="expected one of auto, plain, cpu, triton"):
        gem(torch.ones(1), backend=backend)


@pytest.mark.parametrize("save", ["both", "", None])
def test_unknown_ways_to_save_are_refused(save):
    with pytest.raises(TensorError, match="expected 'auto', 'input' or 'output'"):
        gem(torch.ones(1), save=save)


def test_the_input_cannot_be_kept_in_place():
    with pytest.raises(TensorError, match="overwritten"):
        gem(torch.ones(1), save="input", inplace=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_forced_kernel_that_cannot_serve_is_refused():
    with pytest.raises(BackendError, match="triton"):
        gem(torch.ones(1), backend="triton")


def test_a_forced_kernel_is_refused_under_a_transform():
    with pytest.raises(BackendError, match="traced, transformed or fake"):
        torch.func.grad(lambda x: gem(x, backend="cpu"))(torch.tensor(1.0))


def test_without_the_library_the_plain_formula_serves_and_says_so_once(monkeypatch):
    monkeypatch.setattr(backends, "load_cpu", lambda: None)
    monkeypatch.setattr(functional, "short_way", lambda: None)
    monkeypatch.setattr(backends, "_told", set())
    monkeypatch.setattr(backends.cpu, "status", lambda: backends.cpu.Status(False, "it was not built", "", ""))
    layer = torch.nn.Sequential(GEM())
    with pytest.warns(PlainFallbackWarning, match="plain formula: it was not built") as caught:
        first = layer(torch.tensor([2.0]))
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = gem(torch.tensor([2.0]))
    assert first.item() == second.item() == pytest.approx(1.6)
    monkeypatch.setattr(backends, "_told", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert layer(torch.tensor([2.0])).item() == first.item()
    with pytest.raises(BackendError, match="it was not built"):
        gem(torch.ones(1), backend="cpu")
    assert backend_info()["cpu"] == "not in use: it was not built"


@needs_cpu_kernels
def test_a_removed_library_is_noticed_in_a_fresh_process(tmp_path):
    code = f"""
import warnings
from gem_activations.kernels.cpu import loader
loader.LIBRARY = __import__("pathlib").Path({str(tmp_path)!r}) / "gem_kernels.so"
import torch
from gem_activations.torch import backend_info, gem
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(gem(torch.tensor([1.0])).item(), len(caught), "not built" in backend_info()["cpu"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.5", "1", "True"]


@needs_cpu_kernels
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_kernels_and_plain_formula_agree_at_a_size_that_threads_share(dtype, threads):
    before = torch.get_num_threads()
    x = (3 * torch.randn(100_003, generator=torch.Generator().manual_seed(1))).to(dtype)
    grad = torch.randn_like(x)
    tolerance = {"rtol": 1e-5, "atol": 1e-7} if dtype == torch.float32 else {}
    try:
        torch.set_num_threads(threads)
        for spec in (GemSpec(1), GemSpec(3, 1e-4), GemSpec(2, 10.0, 0.1)):
            results = []
            for backend in ("cpu", "plain"):
                leaf = x.clone().requires_grad_()
                y = activate(leaf, spec, backend=backend, save="input")
                results.append((y.detach(), *torch.autograd.grad(y, leaf, grad)))
            for ours, plain in zip(*results, strict=True):
                torch.testing.assert_close(ours, plain, **tolerance)
    finally:
        torch.set_num_threads(before)


class TestGatedUnit:
    @known_warnings.forward_mode
    @pytest.mark.parametrize("backend", ["auto", "plain"])
    @pytest.mark.parametrize("spec", [GemSpec(1), GemSpec(2, 0.3, 0.1)], ids=str)
    def test_gradients_of_first_and_second_order(self, backend, spec):
        x = torch.linspace(-1, 3, 7, dtype=torch.float64, requires_grad=True)
        gate = torch.linspace(-2, 2.1, 7, dtype=torch.float64, requires_grad=True)

        def unit(x, gate):
            return gem_glu(x, gate, n=spec.n, eps=spec.eps, leak=spec.leak, backend=backend)

        torch.testing.assert_close(unit(x, gate), x * torch.from_numpy(spec(gate.detach().numpy())))
        assert torch.autograd.gradcheck(unit, (x, gate), check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(unit, (x, gate))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_equals_the_oracle_in_every_dtype_and_layout(self, dtype):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 3, 5, 4, generator=generator).to(dtype)
        gate = 3 * torch.randn(2, 3, 5, 4, generator=generator).to(dtype)
        want = x.double() * torch.from_numpy(GemSpec(2)(gate.double().numpy()))
        for layout in (torch.contiguous_format, torch.channels_last):
            for other in (gate, gate.transpose(2, 3).contiguous().transpose(2, 3)):
                got = gem_glu(x.contiguous(memory_format=layout), other, n=2)
                torch.testing.assert_close(got.double(), want, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
                assert got.is_contiguous(memory_format=layout)

    def test_keeps_its_two_inputs_and_nothing_else(self):
        x, gate = torch.randn(2, 8, requires_grad=True), torch.randn(2, 8, requires_grad=True)
        _, kept = kept_tensors(lambda x: gem_glu(x, gate), x)
        assert {tensor.data_ptr() for tensor in kept} == {x.data_ptr(), gate.data_ptr()}
        assert len(kept) == 2

    def test_transforms_and_compilation(self):
        x, gate = torch.randn(4, 3), torch.randn(4, 3)
        want = gem_glu(x, gate, n=2)
        torch.testing.assert_close(torch.func.vmap(lambda a, b: gem_glu(a, b, n=2))(x, gate), want)
        compiled = torch.compile(lambda a, b: gem_glu(a, b, n=2), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, gate), want)

    @pytest.mark.parametrize(
        ("x", "gate", "aspect"),
        [
            (torch.ones(2), torch.ones(3), "shape"),
            (torch.ones(2), torch.ones(2, dtype=torch.float64), "dtype"),
            (torch.ones(2), torch.ones(2, device="meta"), "device"),
            (torch.ones(2), torch.ones(2, dtype=torch.int64), "dtype"),
            (torch.ones(2), [1.0, 2.0], "Tensor"),
        ],
    )
    def test_inputs_that_do_not_fit_are_refused(self, x, gate, aspect):
        with pytest.raises(TensorError, match=aspect):
            gem_glu(x, gate)

    def test_module_has_two_maps_and_their_gradients(self):
        module = GEMGLU(4, 8, n=2, eps=0.5)
        y = module(torch.randn(3, 4))
        y.sum().backward()
        assert y.shape == (3, 8)
        placed = GEMGLU(4, 8, device="meta", dtype=torch.float64)
        assert {(p.device.type, p.dtype) for p in placed.parameters()} == {("meta", torch.float64)}
        assert {name for name, _ in module.named_parameters()} == {
            f"{part}.{kind}" for part in ("value", "gate") for kind in ("weight", "bias")
        }
        assert all(parameter.grad is not None for parameter in module.parameters())
        assert "egem(n=2, eps=0.5)" in repr(module)
        with pytest.raises(GemError):
            GEMGLU(4, 8, n=0)


def test_modules_pass_their_settings_on():
    x = torch.randn(8, requires_grad=True)
    for module in (GEM(save="input"), EGEM(save="input"), SEGEM(save="input")):
        _, kept = kept_tensors(module, x)
        assert kept[0].data_ptr() == x.data_ptr()
        assert "save='input'" in repr(module)
    for factory in (GEM, EGEM, SEGEM):
        with pytest.raises(BackendError):
            factory(backend="x")
        with pytest.raises(TensorError):
            factory(save="x")


@pytest.mark.parametrize("function", [gem, egem, segem])
def test_in_place_over_shared_elements_is_refused_as_by_torch(function):
    with pytest.raises(RuntimeError, match="more than one element"):
        function(torch.ones(1).expand(4), inplace=True)


def test_gradients_with_a_negative_bit_are_read_right():
    """imag() of a conjugate is a lazy negation: its memory holds the opposite sign."""
    x = torch.randn(5, dtype=torch.float64)
    negated = torch.complex(x, -x).conj().imag
    assert negated.is_neg()
    torch.testing.assert_close(gem(negated), gem(x.clone()))
    leaf = torch.ones(5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(gem(leaf), leaf, negated)
    torch.testing.assert_close(gradient, x * 1.0)


@pytest.mark.parametrize("save", ["input", "output"])
@pytest.mark.parametrize("kept_as", [torch.bfloat16, torch.float64], ids=str)
def test_hooks_that_keep_another_dtype_are_met_as_by_relu(save, kept_as):
    x = torch.linspace(-2, 2, 9, requires_grad=True)
    gate = torch.linspace(2, -2, 9, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.to(kept_as), lambda tensor: tensor):
        y, z = gem(x, save=save), gem_glu(x, gate)
    (slope,) = torch.autograd.grad(y.sum(), x)
    rounding = 0.05 if kept_as == torch.bfloat16 else 1e-5
    want = torch.from_numpy(GemSpec().derivative(x.detach().numpy())).float()
    torch.testing.assert_close(slope, want, rtol=rounding, atol=rounding)
    from_x, from_gate = torch.autograd.grad(z.sum(), (x, gate))
    torch.testing.assert_close(from_x, gem(gate).detach(), rtol=rounding, atol=rounding)
    want = x.detach() * torch.from_numpy(GemSpec().derivative(gate.detach().numpy())).float()
    torch.testing.assert_close(from_gate, want, rtol=rounding, atol=rounding)


def test_a_tensor_subclass_is_compiled():
    class Named(torch.Tensor):
        pass

    x = torch.randn(4)
    compiled = torch.compile(GEM(n=2), fullgraph=True, backend="eager")
    torch.testing.assert_close(torch.Tensor(compiled(x.as_subclass(Named))), gem(x, n=2))


@pytest.mark.parametrize("save", ["input", "output", "auto"])
def test_options_are_checked_under_tracers_too(save):
    with pytest.raises(TensorError):
        torch.func.vmap(lambda x: gem(x, save=save + "s"))(torch.ones(2))
    with pytest.raises(BackendError, match="expected one of"):
        torch.func.vmap(lambda x: gem(x, backend="foo"))(torch.ones(2))


def test_half_precision_gated_unit_does_not_overflow_where_the_gate_is_closed():
    x = torch.full((2,), 1000.0, dtype=torch.float16, requires_grad=True)
    gate = torch.tensor([-1.0, 1.0], dtype=torch.float16, requires_grad=True)
    grad = torch.tensor([100.0, 0.001], dtype=torch.float16)
    plain = torch.autograd.grad(gem_glu(x, gate), gate, grad)[0]
    again = torch.autograd.grad(gem_glu(x, gate), gate, grad, create_graph=True)[0]
    transformed = torch.func.grad(lambda gate: (gem_glu(x.detach(), gate) * grad).sum())(gate.detach())
    assert plain.tolist() == again.tolist() == transformed.tolist()
    assert plain.isfinite().all()


def test_sparse_tensors_are_refused():
    with pytest.raises(TensorError, match="dense tensor"):
        gem(torch.eye(2).to_sparse())


def test_symbolic_tracing_records_the_call_with_its_parameters():
    model = nn.Sequential(nn.Linear(4, 4), GEM(n=2), SEGEM(save="input"), GEMGLU(4, 3, eps=0.5))
    graph = torch.fx.symbolic_trace(model)
    x = torch.randn(3, 4)
    torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)
    calls = [node.kwargs for node in graph.graph.nodes if node.op == "call_function"]
    assert [(call["n"], call["eps"], call["leak"]) for call in calls] == [(2, 1.0, 0.0), (1, 1e-4, 0.01), (1, 0.5, 0.0)]
    assert calls[1]["save"] == "input"


def test_a_tensor_subclass_keeps_its_type():
    class Named(torch.Tensor):
        pass

    x = torch.randn(4).as_subclass(Named)
    assert type(gem(x)) is Named
    assert type(gem_glu(x, x)) is Named
    assert gem(x).tolist() == gem(torch.Tensor(x)).tolist()
