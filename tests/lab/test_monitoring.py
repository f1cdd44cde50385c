"""`gem-act monitor`, and the file between the monitor and it: written whole, read back equal, refused where altered."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import nn

from gem_activations.cli import main
from gem_activations.errors import DataError, SettingError
from gem_activations.lab.report.monitoring import recording_figure
from gem_activations.torch import make_activation
from gem_activations.torch.monitor import EDGES, DeadUnitMonitor, Recording, gather, read_recording

from ..forked import Forked

DEAD = (1, 3)


def record(seed=0, steps=10):
    torch.manual_seed(seed)
    activations = make_activation("egem(eps=1e-4)"), nn.GELU(), nn.Threshold(0, 0)
    linears = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)
    model = nn.Sequential(*(part for pair in zip(linears, activations, strict=True) for part in pair))
    with torch.no_grad():
        model[0].bias.fill_(0.3)[list(DEAD)] = -100
    with DeadUnitMonitor(model, interval=2, window=2) as monitor:
        for _ in range(steps):
            model(torch.randn(16, 4)).sum().backward()
            monitor.step()
    return monitor.report()


@pytest.fixture(scope="module")
def recording():
    return record()


@pytest.fixture
def file(recording, tmp_path):
    recording.save(tmp_path / "monitor.jsonl")
    return tmp_path / "monitor.jsonl"


def test_a_recording_is_read_back_equal(recording, file):
    assert len(recording.windows) == 3
    assert read_recording(file) == recording
    rows = recording.records()
    assert len(rows) == 9
    assert rows[0]["never_active"] == DEAD
    assert (rows[8]["name"], rows[8]["first_step"]) == ("5", 8)
    Recording(1, 1, ()).save(file)
    assert read_recording(file) == Recording(1, 1, ())


def test_the_command_prints_the_newest_whole_window_and_draws_all(recording, file, tmp_path, capsys):
    for name in ("picture.png", "picture.svg"):
        assert main(["monitor", str(file), "--out", str(tmp_path / name)]) == 0
    shown = capsys.readouterr().out
    assert "steps 4 to 7, 2 looked at" in shown
    layer = recording.windows[1].layers[0]
    row = next(line.split() for line in shown.splitlines() if "egem(eps=1e-4)" in line)
    assert row[:5] == ["1", "egem(eps=1e-4)", "6", "2", str(len(layer.zero_gradient))]
    assert row[5:7] == [f"{100 * layer.gate_closed:.1f}", f"{100 * layer.gate_open:.1f}"]
    assert row[-3:] == ["a", "=", "0.01"]
    assert "never active: 1, 2 of 6 units: 1, 3" in shown
    assert next(line.split()[3] for line in shown.splitlines() if "Threshold" in line) == "2"
    assert f"Picture: {tmp_path / 'picture.png'}" in shown
    pixels = imread(tmp_path / "picture.png")
    assert pixels.shape[1] == 2000
    assert pixels.std() > 0.05
    drawing = (tmp_path / "picture.svg").read_text()
    assert "x / a or x / rms" in drawing
    assert "never active" in drawing


def test_the_picture_shows_the_shares_of_each_layer_and_window(recording):
    figure = recording_figure(recording)
    asleep, unmoved, spread = (axes.collections[0].get_array().filled(np.nan) for axes in figure.axes[:3])
    for column, window in enumerate(recording.windows):
        assert asleep[0, column] == pytest.approx(2 / 6)
        assert unmoved[1, column] == pytest.approx(len(window.layers[1].zero_gradient) / 5)
    assert np.isnan(asleep[2]).all()  # A function that is not in the catalog.
    counts = np.array(recording.latest.layers[0].histogram, dtype=float)
    assert spread.shape == (3, len(EDGES) - 1)
    counts[1] += counts[0]
    counts[-2] += counts[-1]
    assert spread[0] == pytest.approx(counts[1:-1] / counts[1:-1].max())


def test_a_distribution_has_the_quantiles_of_its_bins():
    counts = [0] * (len(EDGES) + 1)
    counts[EDGES.index(0.0)] = 3  # Just below 0.
    counts[EDGES.index(1.0)] = 1
    layer = replace(record(steps=1).windows[0].layers[0], histogram=tuple(counts))
    assert layer.quantile(0.75) == 0
    assert layer.quantile(0.375) == pytest.approx(EDGES[EDGES.index(0.0) - 1] / 2)
    assert layer.quantile(1) == 1
    assert replace(layer, histogram=(0,) * len(counts)).quantile(0.5) is None


def test_several_processes_make_one_recording():
    first, second = record(0), record(1)
    merged = first.merge([second])
    for window, one, other in zip(merged.windows, first.windows, second.windows, strict=True):
        for layer, a, b in zip(window.layers, one.layers, other.layers, strict=True):
            assert layer.passes == a.passes + b.passes
            assert layer.histogram == tuple(map(sum, zip(a.histogram, b.histogram, strict=True)))
            assert layer.zero_gradient == tuple(sorted(set(a.zero_gradient) & set(b.zero_gradient)))
            assert layer.rms == pytest.approx(((a.rms**2 + b.rms**2) / 2) ** 0.5)
        assert window.layers[0].never_active == DEAD
        assert window.layers[2].never_active is None
    assert first.merge([]) == first
    with pytest.raises(SettingError, match="cannot be merged"):
        first.merge([record(steps=4)])
    assert gather(first) is first


WORKER = """
import sys, warnings
warnings.simplefilter("error")
from pathlib import Path
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from gem_activations.torch.monitor import DeadUnitMonitor, gather

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
with torch.no_grad():
    model[0].weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, 1]]))
    model[0].bias.copy_(torch.tensor([0.0, 0, -100, 100]))
parallel = DistributedDataParallel(model)
with DeadUnitMonitor(model, interval=1) as monitor:
    for _ in range(2):
        # One process sees positive values of the first feature, the other negative ones.
        parallel((1 - 2 * rank) * torch.ones(3, 2)).sum().backward()
        monitor.step()
print(monitor.report().windows[0].layers[0].never_active)
if rank == 0:
    gather(monitor.report()).save(folder / "gathered.jsonl")
else:
    gather(monitor.report())
dist.destroy_process_group()
"""


def test_two_processes_of_distributed_training_gather_what_each_saw(tmp_path):
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [Forked(WORKER, rank, tmp_path, env=environment) for rank in range(2)]
    outputs = [process.communicate(timeout=600) for process in processes]
    assert outputs == [("(1, 2)\n", ""), ("(0, 2)\n", "")]
    (layer,) = read_recording(tmp_path / "gathered.jsonl").windows[0].layers
    assert (layer.never_active, layer.zero_gradient, layer.passes) == ((2,), (2,), 4)


def change(line, path, value):
    """Return a line of the file with one value of it changed."""
    content = json.loads(line)
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(content)


ALTERED = {
    "another format": (0, ("format",), "pickle", "is no recording of a monitor"),
    "another version": (0, ("version",), 2, "is of version 2"),
    "interval 0": (0, ("interval",), 0, "interval and window must be 1 or more"),
    "other edges": (0, ("edges",), [0, 1], "the edges are not those of this version"),
    "a field too many": (0, ("more",), 1, "line 1 is not what a monitor writes: Object contains unknown field `more`"),
    "a window without layers": (
        1,
        ("layers",),
        ...,
        "line 2 is not what a monitor writes: Object missing required field `layers`",
    ),
    "steps that go backwards": (
        1,
        ("last_step",),
        -1,
        "line 2 is not what a monitor writes: the window ends before it begins",
    ),
    "an end before the beginning": (
        2,
        ("last_step",),
        1,
        "line 3 is not what a monitor writes: the window ends before it begins",
    ),
    "windows that overlap": (2, ("first_step",), 3, "the window of step 3 begins too early"),
    "a count that is none": (
        1,
        ("samples",),
        True,
        "line 2 is not what a monitor writes: Expected `int`, got `bool` - at `$.samples`",
    ),
    "a name that is a number": (1, ("layers", 0, "name"), 3, "Expected `str`, got `int` - at `$.layers[0].name`"),
    "a short histogram": (1, ("layers", 0, "histogram"), [1, 2], "histogram has not 52 counts - at `$.layers[0]`"),
    "a scale that is infinite": (1, ("layers", 0, "scale"), 1e999, "line 2 is no JSON"),
    "no unit": (1, ("layers", 0, "units"), 0, "units is below 1 - at `$.layers[0]`"),
}


@pytest.mark.parametrize("case", ALTERED)
def test_an_altered_file_is_one_clear_error(file, capsys, case):
    number, path, value, message = ALTERED[case]
    lines = file.read_text().splitlines()
    lines[number] = change(lines[number], path, value)
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=re.escape(message)):
        read_recording(file)
    assert main(["monitor", str(file)]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"),
    (b"\x80\x04\x95", "it is not text"),
    (b"[" * 100_000, "line 1 is no JSON"),
    (b'{"format": "gem-act', "line 1 is no JSON"),
    (b"[]", "is no recording of a monitor"),
    (None, "cannot be read: No such file"),
], ids=["empty", "bytes", "deep", "truncated", "list", "missing"])  # fmt: skip
def test_what_is_no_recording_is_one_clear_error(tmp_path, capsys, content, message):
    file = Path(tmp_path, "some.jsonl")
    if content is not None:
        file.write_bytes(content)
    assert main(["monitor", str(file)]) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_was_not_seen_is_said_to_be_so(tmp_path, capsys):
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval()
    with DeadUnitMonitor(model) as monitor:
        model(torch.randn(3, 2))
        monitor.step()
    monitor.save(tmp_path / "unseen.jsonl")
    assert main(["monitor", str(tmp_path / "unseen.jsonl")]) == 0
    shown = capsys.readouterr().out
    assert "not seen, in evaluation or inside compiled code only: 1" in shown
    assert "No unit" not in shown
    assert main(["monitor", str(tmp_path / "unseen.jsonl"), "--out", str(tmp_path / "a.png")]) == 2
    assert "holds nothing to draw" in capsys.readouterr().err


def test_a_recording_without_a_window_and_a_wrong_suffix(tmp_path, file, capsys):
    Recording(1, 1, ()).save(tmp_path / "empty.jsonl")
    assert main(["monitor", str(tmp_path / "empty.jsonl")]) == 2
    assert "holds no window yet" in capsys.readouterr().err
    assert main(["monitor", str(file), "--out", str(tmp_path / "picture.gif")]) == 2
    assert "not as .gif" in capsys.readouterr().err
    assert not (tmp_path / "picture.gif").exists()
