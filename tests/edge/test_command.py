import json
import shutil
import subprocess

import numpy as np
import pytest

from gem_activations import GemSpec
from gem_activations.cli import main
from gem_activations.edge import Quantization, integer

SCALES = ["--in-scale", "1e-3", "--in-zero", "0", "--out-scale", "1e-3", "--out-zero", "0"]
ROW = {"name": "a", "activation": "gem", "in_scale": 0.1, "in_zero": 0, "out_scale": 0.1, "out_zero": -128}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_activation(folder, capsys):
    words = ["c", "gem(n=2)", *SCALES, "--bits", "16", "--out", "layer1.h", "--test", "vectors.h"]
    assert main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "layer1: gem(n=2), int16, q31: exactly rounded for 65,536 of 65,536 inputs"
    assert shown[1:] == ["Written: layer1.h", "Written: vectors.h"]
    layer = integer(GemSpec(2), Quantization(1e-3, 0, 1e-3, 0, 16))
    assert layer.c_struct("layer1") in (folder / "layer1.h").read_text()
    if shutil.which("gcc"):
        (folder / "main.c").write_text('#include "vectors.h"\nint main(void) { return layer1_check(); }\n')
        subprocess.run(["gcc", "-std=c99", "main.c", "-o", "main"], check=True)
        subprocess.run(["./main"], check=True)


def test_several_layers_of_a_json_file(folder, capsys):
    rows = [ROW, {**ROW, "name": "b", "activation": "segem(n=2)", "bits": 16, "rounding": "even"}]
    (folder / "layers.json").write_text(json.dumps(rows))
    assert main(["c", "layers.json", "--out", "layers.h"]) == 0
    assert capsys.readouterr().out.startswith("a: gem, int8, q31: exactly rounded for 256 of 256 inputs\nb: ")
    text = (folder / "layers.h").read_text()
    second = Quantization(0.1, 0, 0.1, -128, 16, "even")
    for name, spec, quantization in (
        ("a", GemSpec(), Quantization(0.1, 0, 0.1, -128)),
        ("b", GemSpec(2, 1e-4, 0.01), second),
    ):
        assert integer(spec, quantization).c_struct(name) in text


def test_what_is_written_does_not_depend_on_the_machine(folder):
    # Scales are the exact float32 numbers, whatever spelling they came in.
    for number, scale in enumerate(["0.1", repr(float(np.float32(0.1)))]):
        words = ["c", "gem", "--in-scale", scale, *SCALES[2:], "--out", f"{number}/a.h"]
        assert main(words) == 0
    assert (folder / "0/a.h").read_bytes() == (folder / "1/a.h").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gem", "--in-scale", "0.1"], "'gem' needs --in-zero, --out-scale, --out-zero as well"),
        (["gem", "--in-scale", "nan", *SCALES[2:]], "in_scale=nan: the scale must be a finite number above 0"),
        (["gem", "--in-scale", "0", *SCALES[2:]], "in_scale=0.0: the scale must be a finite number above 0"),
        (["gem", *SCALES[:6], "--out-zero", "128"], "out_zero=128: the zero point must be a whole number from -128 to"),
        (["gem", *SCALES, "--bits", "12"], "bits=12: expected 8 or 16"),
        (["gelu", *SCALES], "'gelu' is not of the GEM family"),
        (["gem(n=0)", *SCALES], "n=0"),
        (["gem", *SCALES, "--bits", "16", "--method", "q15"], "bits=16: q15 is for 8 bits"),
        (["gem", *SCALES[:4], "--out-scale", "1e-20", "--out-zero", "0"], "needs a shift by"),
        (["none.json"], "none.json cannot be read as JSON"),
        (["bad.json"], "bad.json cannot be read as JSON"),
        (["object.json"], "object.json: expected a list of objects with activation, in_scale"),
        (["twice.json"], "two layers are called 'a'"),
        (["name.json"], "'for' cannot name a layer in C"),
        (["value.json"], "in_scale=-1: the scale must be"),
        (["layers.json", "--bits", "8"], "--bits is for one activation"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(words, message, folder, capsys):
    (folder / "bad.json").write_text("[")
    for name, content in {
        "object": ROW,
        "twice": [ROW, ROW],
        "name": [{**ROW, "name": "for"}],
        "value": [{**ROW, "in_scale": -1}],
        "layers": [ROW],
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    before = sorted(folder.iterdir())
    assert main(["c", *words, "--out", "a.h", "--test", "b.h"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("gem-act: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_a_file_that_cannot_be_written_is_one_line(folder, capsys):
    (folder / "file").write_text("mine")
    assert main(["c", "gem", *SCALES, "--out", "file/a.h"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
