"""The benchmark: its rows and refusals, never its times."""

import io
import json
from dataclasses import replace
from unittest import mock

import pytest
import torch
from rich.console import Console

from gem_activations import GemError
from gem_activations.bench import scales, second_order
from gem_activations.bench.blocks import ARMS, BLOCKS, kept_bytes
from gem_activations.bench.elementwise import Case, WrongResultError, candidates, cases, measure
from gem_activations.bench.run import make_plan, run_benchmark
from gem_activations.bench.timing import time_in_turn
from gem_activations.lab.models import ResNet
from gem_activations.torch import EGEM, gem

from ..torch.known_warnings import compiling, forward_mode

MIB = 2**20


def test_a_small_plan_gives_a_row_for_every_case_and_candidate(tmp_path):
    changes = {"log2_sizes": (10,), "directions": ("forward", "both"), "orders": (1, 3), "blocks": (), "seconds": 0.01}
    out = tmp_path / "rows.jsonl"
    screen = io.StringIO()
    run_benchmark(make_plan(True, changes), out, Console(file=screen, width=120))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    names = ["copy", *candidates((1, 3), compiled=False)]
    assert rows[0]["row"] == "environment"
    assert rows[0]["packages"]["torch"] == torch.__version__
    assert [row["name"] for row in rows[1:]] == names * 2
    assert all(0 < row["low"] <= row["seconds"] <= row["high"] for row in rows[1:])
    assert "both, 2^10 float32" in screen.getvalue()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_right_kernels_are_timed(dtype, layout):
    timings = measure(Case(2048, dtype, layout, "forward"), candidates((1, 4), compiled=False), 0.001)
    assert "gem(n=4) kernel from output" in timings


@compiling
def test_compiled_functions_are_timed_in_every_direction():
    functions = candidates((1, 2), compiled=True)
    for direction in ("forward", "backward", "both"):
        timings = measure(Case(1024, "float32", "contiguous", direction), functions, 0.001)
        assert {"relu compiled", "gem(n=1) compiled", "gem(n=2) compiled"} <= timings.keys()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda x: gem(x) * 1.00001, "value"),
        (lambda x: gem(x) + torch.where(x > 3, torch.nan, 0.0), "value"),
        (lambda x: gem(x.detach()) + (x - x.detach()) * 0.5, "gradient"),
    ],
)
def test_a_wrong_kernel_is_not_timed(wrong, what):
    with pytest.raises(WrongResultError, match=what):
        measure(Case(4096, "float32", "contiguous", "forward"), {"gem(n=1) wrong": wrong}, 0.001)


def test_channels_last_needs_whole_images():
    layouts = [case.layout for case in cases([512, 2048], ["float32"], ["contiguous", "channels_last"], ["forward"])]
    assert layouts == ["contiguous", "contiguous", "channels_last"]


@pytest.mark.parametrize(
    "changes",
    [
        {"dtypes": ("int8",)}, {"layouts": ("rows",)}, {"directions": ("up",)}, {"blocks": ("vgg",)},
        {"log2_sizes": (31,)}, {"log2_sizes": (-1,)}, {"seconds": 0.0}, {"seconds": float("nan")}, {"orders": (0,)},
    ],
    ids=str,
)  # fmt: skip
def test_bad_plans_are_refused(changes):
    with pytest.raises(GemError):
        make_plan(True, changes)


def test_bytes_kept_by_the_feed_forward_block():
    """1,024 tokens, float32: input 3 MiB, hidden layer 12 MiB; a rival that keeps its input keeps 12 MiB more."""
    block = BLOCKS["feed-forward"]

    def kept(arm):
        return kept_bytes(block.build(ARMS[arm]), torch.randn(block.shape, requires_grad=True)) / MIB

    assert kept("relu") == kept("relu in place") == kept("gem(n=1) from output") == kept("gem(n=1) in place") == 15
    assert kept("gelu") == kept("silu") == kept("mish") == kept("gem(n=1) from input") == 27


def test_resnet_56_has_the_published_size():
    assert sum(parameter.numel() for parameter in ResNet().parameters()) == 853_018


def test_timing_calls_every_candidate_equally_often():
    counts = {"a": 0, "b": 0}

    def count(name):
        counts[name] += 1
        return sum(range(20_000))  # Long enough not to be repeated within a round.

    timings = time_in_turn({name: lambda _, name=name: count(name) for name in counts}, seconds=0, most_rounds=50)
    assert counts["a"] == counts["b"]
    assert timings["a"].rounds == timings["b"].rounds == 5


@forward_mode
def test_works_of_second_order_give_a_row_for_every_activation(monkeypatch):
    small = {key: replace(work, layers=2, width=4, points=5) for key, work in second_order.WORKS.items()}
    monkeypatch.setattr(second_order, "WORKS", small)
    monkeypatch.setattr(second_order, "PASS_SIZE", 64)
    rows = list(second_order.measure_second_order(False, 0.001, tuple(small)))
    works = [key for key, work in small.items() if not work.compiled]
    assert [(row["work"], row["name"]) for row in rows] == [
        *((work, name) for work in works for name in second_order.ARMS),
        ("pass", "copy"),
        *(("pass", name) for name in second_order.ARMS),
    ]
    assert all(row["ratios"][row["name"]] == 1 for row in rows if row["name"] in row["ratios"])


@forward_mode
def test_losses_of_second_order_agree_by_every_route():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), EGEM(eps=0.5), torch.nn.Linear(5, 1)).double()
    x = torch.rand(4, 3, dtype=torch.float64).requires_grad_()
    eager = second_order.laplacian_loss(model, x)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        others = [
            second_order.laplacian_loss_by_hessian(model, x),
            second_order.laplacian_loss_forward_over_reverse(model, x),
        ]
    finally:
        torch.set_default_dtype(before)
    for other in others:
        torch.testing.assert_close(other, eager)
    torch.testing.assert_close(second_order.eikonal_loss_by_transforms(model, x), second_order.eikonal_loss(model, x))


def test_learnt_scales_have_a_row_beside_the_fixed_one_for_every_shape(tmp_path):
    screen = io.StringIO()
    plan = make_plan(True, {"scales": True, "log2_sizes": (5, 10), "seconds": 0.001})
    rows = run_benchmark(plan, tmp_path / "rows.jsonl", Console(file=screen, width=120))[1:]
    shapes = [(32,), (1024,), (16, 64), (1, 64, 16)]
    wanted = [(shape, direction) for shape in shapes for direction in ("forward", "backward")]
    assert [(row["shape"], row["direction"], row["name"]) for row in rows] == [
        (*case, name) for case in wanted for name in scales.PAIRS
    ]
    assert all(0 < row["low"] <= row["ratios"]["fixed"] <= row["high"] for row in rows)
    assert "backward, 1 x 64 x 16 float32" in screen.getvalue()
    wrong = {"wrong": (lambda channels: EGEM(n=2, trainable=True, channels=channels), EGEM())}
    with mock.patch.object(scales, "PAIRS", wrong), pytest.raises(WrongResultError, match="its value is not that"):
        next(scales.measure_scales([64], 0.001))


def test_a_wrong_second_derivative_is_not_timed():
    class Wrong(EGEM):
        def forward(self, x):
            return super().forward(x) * 1.001

    with pytest.raises(WrongResultError, match="second derivative"):
        second_order._check("egem", Wrong())
