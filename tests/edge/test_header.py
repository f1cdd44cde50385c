"""The generated C: the same bits as NumPy, under two compilers and their sanitizers; what it weighs on a Cortex-M."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gem_activations import GemSpec
from gem_activations.edge import Quantization, integer
from gem_activations.edge.header import checksum, make_header, make_vectors
from gem_activations.errors import QuantizationError

from .settings import random_settings

HERE = Path(__file__).parent
STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror"]
KINDS = [("q31", "udiv"), ("q31", "long"), ("q31", "newton"), ("q15", "udiv")]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ARM = "arm-none-eabi-gcc"


def needs(*programs):
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def run(*words, **options):
    return subprocess.run([*map(str, words)], capture_output=True, check=True, **options)


def make_layers(method, division):
    """Return layers of every order, with and without a leak, in every width that the method has."""
    layers = {}
    for bits in (8, 16) if method == "q31" else (8,):
        for number, (spec, quantization) in enumerate(random_settings(bits, 12, seed=7)):
            layers[f"layer_{bits}_{number}"] = integer(spec, quantization, method, division)
    return layers


PRINTS_ALL = """#include <stdio.h>
#include "vectors.h"
#define ALL(layer) \\
    for (int32_t q = layer.low; q <= layer.high; q++) {{ \\
        int16_t y = (int16_t)gem_{method}(&layer, q); \\
        fwrite(&y, 2, 1, stdout); \\
    }}
int main(void) {{
    {calls}
    return {checks};
}}
"""


@pytest.mark.parametrize(("method", "division"), KINDS)
@pytest.mark.parametrize("compiler", [pytest.param(name, marks=needs(name)) for name in ("gcc", "clang")])
def test_c_gives_the_bits_of_numpy_for_all_inputs(compiler, method, division, tmp_path):
    layers = make_layers(method, division)
    (tmp_path / "layers.h").write_text(make_header(layers))
    (tmp_path / "vectors.h").write_text(make_vectors(layers, "layers.h"))
    parts = {
        "calls": "\n    ".join(f"ALL({name})" for name in layers),
        "checks": " + ".join(f"{n}_check()" for n in layers),
    }
    (tmp_path / "all.c").write_text(PRINTS_ALL.format(method=method, **parts))
    want = np.concatenate([each.apply(each.quantization.inputs()).astype(np.int16) for each in layers.values()])
    for options in (["-O0"], ["-O2"], ["-O1", *SANITIZERS]):
        run(compiler, *STRICT, *options, tmp_path / "all.c", "-o", tmp_path / "all")
        printed = run(tmp_path / "all").stdout  # An exit status that is not 0, of a check or a sanitizer, raises.
        np.testing.assert_array_equal(np.frombuffer(printed, np.int16), want)


def test_a_check_finds_one_wrong_constant(tmp_path):
    layers = {"layer1": integer(GemSpec(2), Quantization(0.02, 0, 0.02, 0))}
    if shutil.which("gcc") is None:
        pytest.skip("not installed: gcc")
    constant = f"{layers['layer1'].constants.e_man}u"
    for name, text in (("right", constant), ("wrong", f"{layers['layer1'].constants.e_man ^ 0x40000000}u")):
        (tmp_path / f"{name}.h").write_text(make_header(layers).replace(constant, text))
        (tmp_path / "vectors.h").write_text(make_vectors(layers, f"{name}.h"))
        (tmp_path / "main.c").write_text('#include "vectors.h"\nint main(void) { return layer1_check() != 0; }\n')
        run("gcc", *STRICT, tmp_path / "main.c", "-o", tmp_path / "main")
        assert subprocess.run([tmp_path / "main"], check=False).returncode == (name == "wrong")


def test_headers_can_be_included_together(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("not installed: gcc")
    quantization = Quantization(0.02, 0, 0.02, 0)
    for name, method, division in (
        ("a", "q31", "udiv"),
        ("b", "q31", "udiv"),
        ("c", "q15", "udiv"),
        ("d", "q31", "long"),
    ):
        (tmp_path / f"{name}.h").write_text(make_header({name: integer(GemSpec(), quantization, method, division)}))
    includes = "".join(f'#include "{name}.h"\n' for name in "abc")
    main = "int main(void) { return gem_q31(&a, 9) != gem_q31(&b, 9) || gem_q15(&c, 9) != gem_q31(&a, 9); }\n"
    (tmp_path / "main.c").write_text(includes + main)
    run("gcc", *STRICT, tmp_path / "main.c", "-o", tmp_path / "main")
    run(tmp_path / "main")
    (tmp_path / "main.c").write_text('#include "a.h"\n#include "d.h"\n')
    refused = subprocess.run(["gcc", "-c", "main.c"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "make them with the same --division" in refused.stderr


@pytest.mark.parametrize("name", ["int", "1st", "a-b", "", "ä"])
def test_a_name_that_c_does_not_take_is_refused(name):
    with pytest.raises(QuantizationError, match="cannot name a layer in C"):
        integer(GemSpec(), Quantization(0.02, 0, 0.02, 0)).c_struct(name)


def test_layers_of_two_kinds_are_refused():
    quantization = Quantization(0.02, 0, 0.02, 0)
    layers = {"a": integer(GemSpec(), quantization), "b": integer(GemSpec(), quantization, "q15")}
    for given in (layers, {}):
        with pytest.raises(QuantizationError, match="one method and one division"):
            make_header(given)


@needs("cppcheck")
@pytest.mark.parametrize(("method", "division"), KINDS)
def test_cppcheck_finds_nothing(method, division, tmp_path):
    layers = {"layer1": integer(GemSpec(2, 1e-4, 0.01), Quantization(0.02, 0, 0.02, 0), method, division)}
    (tmp_path / "layer1.h").write_text(make_header(layers))
    (tmp_path / "main.c").write_text(f'#include "layer1.h"\nint main(void) {{ return gem_{method}(&layer1, 9); }}\n')
    checks = ["--enable=warning,style,performance,portability", "--inconclusive", "--suppress=unknownMacro"]
    done = run("cppcheck", "--quiet", "--std=c99", "--error-exitcode=1", *checks, tmp_path / "main.c")
    assert not done.stdout + done.stderr


CPUS = {"cortex-m0plus": 340, "cortex-m4": 75}
WHOLE_RANGE = Quantization(4 / 2**15, 0, 4 / 2**15, 0, bits=16)


@pytest.fixture(scope="module")
def cortex(tmp_path_factory):
    """A folder with a header of one layer, n = 2 without leak, 16 bits."""
    folder = tmp_path_factory.mktemp("cortex")
    layer = integer(GemSpec(2), WHOLE_RANGE)
    (folder / "layer1.h").write_text(make_header({"layer1": layer}))
    return folder, checksum(layer.apply(WHOLE_RANGE.inputs()))


def object_of(folder, cpu, kernel):
    (folder / "kernel.c").write_text('#include "layer1.h"\n' + kernel)
    run(ARM, f"-mcpu={cpu}", "-mthumb", "-Os", "-std=c99", "-c", folder / "kernel.c", "-o", folder / "kernel.o")
    return folder / "kernel.o"


GENERIC = "void run(const gem_q31_layer *l, const int16_t *x, int16_t *y, int n) {" + (
    "for (int i = 0; i < n; i++) y[i] = (int16_t)gem_q31(l, x[i]); }"
)
FOLDED = "void run(const int16_t *x, int16_t *y, int n) {" + (
    "for (int i = 0; i < n; i++) y[i] = (int16_t)gem_q31(&layer1, x[i]); }"
)


@needs(ARM)
@pytest.mark.parametrize(("kernel", "most"), [(GENERIC, 520), (FOLDED, 340)], ids=["any layer", "one layer"])
def test_size_and_symbols_of_an_object_for_cortex_m4(kernel, most, cortex):
    made = object_of(cortex[0], "cortex-m4", kernel)
    sizes = run("arm-none-eabi-size", made, text=True).stdout.splitlines()[1].split()
    text, data, bss = map(int, sizes[:3])
    assert 0 < text <= most
    assert (data, bss) == (0, 0)


@needs(ARM)
@pytest.mark.parametrize("cpu", list(CPUS))
@pytest.mark.parametrize("kernel", [GENERIC, FOLDED], ids=["any layer", "one layer"])
def test_an_object_calls_integer_helpers_of_the_compiler_alone(kernel, cpu, cortex):
    listed = run("arm-none-eabi-nm", "--undefined-only", object_of(cortex[0], cpu, kernel), text=True).stdout
    # Products and shifts of 64 bits, division and leading zeros: Cortex-M0+ has no instructions for them.
    known = {"__aeabi_lmul", "__aeabi_llsr", "__aeabi_uidiv", "__aeabi_uidivmod", "__clzsi2"}
    assert set(re.findall(r"U (\S+)", listed)) <= known


def count_instructions(folder, cpu, *options):
    """Return the checksum of all results on qemu, and the mean number of instructions an element."""
    program = folder / f"{cpu}.elf"
    kinds = ["-DFUNCTION=gem_q31", "-DLAYER=gem_q31_layer", "-DELEMENT=int16_t", "-DLOW=-32768"]
    build = ["-mthumb", "-Os", "-nostartfiles", "-nostdlib", "-T", HERE / "cortex.ld", "-include", folder / "layer1.h"]
    run(ARM, f"-mcpu={cpu}", *build, *kinds, *options, HERE / "cortex.c", "-lgcc", "-o", program)
    machine = ["-M", "mps2-an386", "-icount", "shift=0", "-display", "none", "-monitor", "none", "-serial", "none"]
    host = ["-semihosting-config", "enable=on,target=native", "-kernel", program]
    done = run("qemu-system-arm", *machine, *host, text=True, timeout=600)
    total, ticks = map(int, (done.stdout + done.stderr).split())
    return total, ticks * 40 / 65536


@needs(ARM, "qemu-system-arm")
@pytest.mark.parametrize(("cpu", "most"), list(CPUS.items()))
@pytest.mark.parametrize("options", [["-DGENERIC"], []], ids=["any layer", "one layer"])
def test_results_and_instructions_on_a_cortex(cpu, most, options, cortex):
    folder, want = cortex
    total, mean = count_instructions(folder, cpu, *options)
    assert total == want
    assert 10 < mean <= most
