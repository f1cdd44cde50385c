"""Scales from a batch: what is measured, what is set, what is warned of."""

import copy
import math

import pytest
import torch
from torch import nn

from gem_activations import GemSpec, catalog
from gem_activations.errors import ModelError, SettingError, SpecError
from gem_activations.torch import EGEM, GEM, GEMGLU, SEGEM, calibrate_, check_scale, make_activation
from gem_activations.torch.init import calculate_chi, calculate_gain
from gem_activations.torch.monitor import DeadUnitMonitor
from gem_activations.torch.monitor.counting import LayerCounter


def network(n=2):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 32), EGEM(n), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Dropout(0.2), GEM(n), nn.Linear(32, 24),
        SEGEM(n, leak=0.1), nn.Linear(24, 4),
    )  # fmt: skip


def batch(factor=1.0):
    return factor * torch.randn(256, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("ratio", [0.1, 1.0])
def test_eps_is_the_ratio_of_the_deviation_to_the_power_2n(n, ratio):
    model = network(n)
    report = calibrate_(model, batch(), ratio)
    assert [row.name for row in report.rows] == ["1", "5", "7"]
    for row in report.rows:
        assert row.eps == pytest.approx((ratio * row.sigma) ** (2 * n), rel=1e-6)
        assert model.get_submodule(row.name).eps == pytest.approx(row.eps, rel=1e-12)
        assert row.rho == pytest.approx(ratio, rel=1e-6)
    # Each module was set by what the ones before it give: a check measures the same.
    for row, seen in zip(report.rows, check_scale(model, batch()).rows, strict=True):
        assert (row.sigma, row.scale, row.gate_closed) == pytest.approx((seen.sigma, seen.scale, seen.gate_closed))


def test_a_second_calibration_changes_nothing_and_a_first_leaves_all_else():
    model = network()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    first = calibrate_(model, batch())
    assert torch.equal(torch.get_rng_state(), state)
    again = calibrate_(model, batch())
    assert again.rows == first.rows
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_undo_gives_the_scales_back():
    model = network()
    specs = [module.spec for module in model if hasattr(module, "spec")]
    report = calibrate_(model, batch())
    assert [module.spec for module in model if hasattr(module, "spec")] != specs
    report.undo()
    assert [module.spec for module in model if hasattr(module, "spec")] == specs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_model_in_half_precision_has_the_eps_of_its_twin(dtype):
    model = nn.Sequential(nn.Linear(64, 64), EGEM(), nn.Linear(64, 64), EGEM())
    twin = copy.deepcopy(model).to(dtype)
    x = torch.randn(512, 64)
    for row, other in zip(calibrate_(model, x).rows, calibrate_(twin, x.to(dtype)).rows, strict=True):
        assert other.eps == pytest.approx(row.eps, rel=0.01)


def test_inputs_are_a_tensor_a_tuple_a_mapping_or_a_function():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = EGEM()

        def forward(self, a, b):
            return self.act(a + b)

    model, a, b = Sum(), torch.randn(8, 4), torch.randn(8, 4)
    wanted = float((a + b).std(correction=0))
    for given in ((a, b), [a, b], {"a": a, "b": b}, lambda model: model(a, b=b)):
        (row,) = check_scale(model, given).rows
        assert row.sigma == pytest.approx(wanted)
    (row,) = check_scale(EGEM(), a).rows
    assert row.name == ""


@pytest.mark.parametrize(("x", "words"), [
    (torch.zeros(4, 3), "constant"), (torch.full((4, 3), 2.0), "constant"),
    (torch.tensor([1.0, torch.inf]), "not finite"),
    (torch.empty(0, 3), "constant"),
], ids=["zero", "constant", "infinite", "empty"])  # fmt: skip
def test_what_has_no_deviation_is_left_with_the_reason(x, words):
    model = nn.Sequential(EGEM(eps=0.5))
    report = calibrate_(model, x)
    assert model[0].eps == 0.5
    assert words in report.rows[0].reason
    assert words in str(report)
    assert report.rows[0].rho is None


def test_shared_unused_and_gated_modules_are_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.unused, self.glu = EGEM(), GEM(), GEMGLU(4, 4)

        def forward(self, x):
            return self.glu(self.act(self.act(x) - 1))

    report = calibrate_(Odd(), torch.randn(64, 4))
    assert [(row.name, row.calls, row.reason) for row in report.rows] == [
        ("act", 2, "ran 2 times: measured at the first"), ("unused", 0, "did not run on this batch"),
    ]  # fmt: skip
    assert [name for name, _ in report.skipped] == ["glu"]


@pytest.mark.parametrize("shape", [(8, 6, 5, 5), (8, 7, 6), (32, 6)])
def test_a_scale_for_each_channel(shape):
    x = torch.randn(shape)
    dim = 1 if len(shape) == 4 else -1
    factors = torch.arange(1.0, 7).reshape([6 if axis == dim % len(shape) else 1 for axis in range(len(shape))])
    model = nn.Sequential(EGEM(n=2))
    report = calibrate_(model, x * factors, per_channel=True)
    deviation = (x * factors).std([axis for axis in range(len(shape)) if axis != dim % len(shape)], correction=0)
    torch.testing.assert_close(model[0].log_scale.exp(), 0.1 * deviation)
    y = model(x * factors)
    for channel in range(6):
        part = (x * factors).select(dim, channel)
        plain = GemSpec.from_scale(2, 0.1 * float(deviation[channel]))
        torch.testing.assert_close(
            y.select(dim, channel).double(), torch.from_numpy(plain(part.numpy())), rtol=1e-5, atol=1e-6
        )
    assert list(model.state_dict()) == ["0.log_scale"]
    report.undo()
    assert not model.state_dict()
    assert model[0].eps == 1e-4


def test_a_scale_that_is_learnt_is_set_where_it_is_kept():
    model = nn.Sequential(EGEM(n=2, trainable=True))
    report = calibrate_(model, torch.randn(64, 5), 0.5)
    assert model[0].log_scale.exp().item() == pytest.approx(0.5 * report.rows[0].sigma, rel=1e-6)
    assert isinstance(model[0].log_scale, nn.Parameter)


def test_gain_and_chi_are_those_of_the_analysis():
    pytest.importorskip("flint")
    from gem_activations.analysis import certify

    for text in ("gem", "egem(n=2, eps=10)", "segem(eps=1e-4, leak=0.01)"):
        found, spec = certify(text), catalog.parse(text).spec
        assert calculate_gain(spec) == pytest.approx(found["gain"].value.approx, rel=1e-11)
        assert calculate_chi(spec) == pytest.approx(found["chi"].value.approx, rel=1e-11)
        # The same at another deviation of the input: what counts is a / sigma.
        sigma = 0.05
        scaled = type(spec).from_scale(spec.n, spec.scale * sigma, spec.leak)
        (row,) = check_scale(make_activation(scaled), sigma * torch.randn(64, 8).sign()).rows
        assert (row.sigma, row.rho) == pytest.approx((sigma, spec.scale), rel=0.1)


def test_gain_and_chi_of_a_row_are_those_at_its_rho():
    (row,) = check_scale(EGEM(n=2, scale=0.3), 2 * torch.randn(4096)).rows
    spec = GemSpec.from_scale(2, 0.3 / row.sigma)
    assert row.gain == pytest.approx(calculate_gain(spec), abs=1e-9)
    assert row.chi == pytest.approx(calculate_chi(spec), abs=1e-9)
    wanted = float((GemSpec(2, 0.3**4).gate((2 * torch.randn(10**5)).numpy()) < 0.01).mean())
    assert row.gate_closed == pytest.approx(wanted, abs=0.03)


def test_a_scale_above_the_deviation_is_warned_of():
    model = nn.Sequential(nn.Linear(16, 32, bias=False), nn.Identity(), EGEM(n=2))
    report = check_scale(model, batch(0.05))
    assert any("2: the scale a = 0.1 is" in text and "calibrate_" in text for text in report.warnings)
    assert "warning: " in str(report)
    both = check_scale(nn.Sequential(nn.Linear(16, 32), GEM(n=2), nn.Linear(32, 32), GEM(n=2)), batch(0.05))
    assert "3: the scale a = 1 is" in both.warnings[0]
    assert "2 modules are above it" in both.warnings[0]
    assert not calibrate_(model, batch(0.05)).warnings


def test_a_product_of_chi_above_e_is_warned_of():
    deep = nn.Sequential(*(part for _ in range(8) for part in (nn.Linear(16, 16), GEM(n=3))))
    report = calibrate_(deep, torch.randn(64, 16), 1.0)
    assert report.chi == pytest.approx(math.prod(row.chi for row in report.rows))
    assert report.chi > math.e
    assert "product of chi" in report.warnings[-1]


@pytest.mark.filterwarnings("error")
def test_the_monitor_warns_once_with_the_advice():
    model = nn.Sequential(nn.Linear(8, 8), GEM(), nn.Linear(8, 8), GEM())
    told = []
    with DeadUnitMonitor(model, interval=1, window=2) as monitor:
        for step in range(6):
            model(0.05 * torch.randn(32, 8)).sum().backward()
            if step == 0:
                with pytest.warns(RuntimeWarning, match=r"1: the scale a = 1 is .*calibrate_\(model, batch\)"):
                    monitor.step()
                told.append(step)
            else:
                monitor.step()
    assert told == [0]
    calibrate_(model, 0.05 * torch.randn(32, 8))
    with DeadUnitMonitor(model, interval=1, window=2) as monitor:
        for _ in range(4):
            model(0.05 * torch.randn(32, 8)).sum().backward()
            monitor.step()


@pytest.mark.parametrize("activation", [nn.ReLU, GEM])
def test_the_monitor_counts_a_window_once_whether_or_not_a_scale_is_looked_at(monkeypatch, activation):
    counted, sorted_in = [], []
    count, sort_in = LayerCounter.count, LayerCounter._sort_in
    monkeypatch.setattr(LayerCounter, "count", lambda self: counted.append(self.name) or count(self))
    monkeypatch.setattr(LayerCounter, "_sort_in", lambda self: sorted_in.append(self.name) or sort_in(self))
    model = nn.Sequential(nn.Linear(8, 8), activation())
    with DeadUnitMonitor(model, interval=1, window=2) as monitor:
        for _ in range(4):
            model(10 * torch.randn(32, 8)).sum().backward()
            monitor.step()
    assert counted == ["1", "1"]
    # ReLU has no scale to look at after the first step of each window, and need not wait for the device then.
    assert sorted_in == ["1"] * (4 if activation is GEM else 2)
    assert [window.layers[0].values for window in monitor.windows] == [512, 512]


@pytest.mark.parametrize(("model", "ratio", "error", "words"), [
    ("relu", 0.1, ModelError, "expected a torch.nn.Module"),
    (nn.Sequential(nn.ReLU()), 0.1, ModelError, "no GEM, EGEM"),
    (nn.Sequential(GEM()), 0, SettingError, "ratio=0"), (nn.Sequential(GEM()), math.inf, SettingError, "ratio=inf"),
    (nn.Sequential(GEM()), "1", SettingError, "ratio='1'"),
], ids=range(5))  # fmt: skip
def test_bad_input_is_one_clear_error(model, ratio, error, words):
    with pytest.raises(error, match=words):
        calibrate_(model, torch.randn(4, 4), ratio)


def test_a_compiled_model_is_measured_without_being_compiled():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model = nn.Sequential(nn.Linear(4, 4), GEM())
    report = check_scale(torch.compile(model, backend=backend), torch.randn(8, 4))
    assert [row.name for row in report.rows] == ["1"]
    assert not graphs


def test_a_plot_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    check_scale(network(), batch()).plot(tmp_path / "scales.svg")
    assert "rho = a / sigma" in (tmp_path / "scales.svg").read_text() or (tmp_path / "scales.svg").stat().st_size > 5000


def test_a_scale_out_of_range_is_refused():
    with pytest.raises(SpecError, match="scale"):
        GEM().set_scale(-1)


@pytest.mark.parametrize("factor", [0.05, 1.0, 20.0])
def test_digits_train_at_every_size_of_the_inputs_once_they_are_calibrated(factor):
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = (torch.from_numpy(part) for part in datasets.load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = (x[order] / 8 - 1).float() * factor, y[order].long()

    def accuracy(activation, calibrated):
        torch.manual_seed(1)
        layers = [nn.Linear(64, 64), make_activation(activation), nn.Linear(64, 64), make_activation(activation)]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
        if calibrated:
            assert not [text for text in calibrate_(model, x[:256], 0.1).warnings if "scale a" in text]
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(15):
            for start in range(0, 1400, 64):
                optimizer.zero_grad()
                part = slice(start, min(start + 64, 1400))
                nn.functional.cross_entropy(model(x[part]), y[part]).backward()
                optimizer.step()
        return float((model(x[1400:]).argmax(1) == y[1400:]).double().mean())

    relu, ours = accuracy("relu", False), accuracy("gem(n=2)", True)
    assert ours > relu - 0.02
    if factor == 0.05:
        assert any("calibrate_" in text for text in check_scale(nn.Sequential(nn.Linear(64, 9), GEM()), x).warnings)
