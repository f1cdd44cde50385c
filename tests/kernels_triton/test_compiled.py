"""What the compiler makes of the kernels for NVIDIA GPUs. It needs none: the code is compiled and read, not run."""

import re
import subprocess
import tempfile
from types import SimpleNamespace

import pytest

from gem_activations import GemSpec

POINTERS = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}
KERNELS = (
    "gem_forward_kernel",
    "gem_backward_kernel",
    "gem_second_kernel",
    "gem_third_kernel",
    "gem_inverse_kernel",
    "gem_glu_forward_kernel",
    "gem_glu_backward_kernel",
)


@pytest.fixture
def compiled(kernels, tmp_path, monkeypatch):
    """Compile a kernel as the launcher would for aligned storage whose size is a multiple of 16."""
    if kernels.INTERPRETED:
        pytest.skip("the interpreter compiles nothing")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gem_activations.kernels.triton.parameters import member, start_polynomial

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def build(name, dtype, spec, from_output=False, capability=90):
        function = getattr(kernels.elementwise, name)
        bits = {"fp64": 64, "fp32": 32}.get(POINTERS[dtype], 16)
        constants = {"member": member(spec, bits), "block": kernels.BLOCK}
        if "start" in function.arg_names:
            constants["start"] = start_polynomial(spec.n) if from_output or "inverse" in name else ()
        signature, aligned = {}, {}
        for position, argument in enumerate(function.arg_names):
            signature[argument] = "constexpr" if argument in constants else "i64"
            if argument.endswith("_ptr"):
                signature[argument] = "*" + POINTERS[dtype]
            if argument not in constants:
                aligned[(position,)] = [["tt.divisibility", 16]]
        source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=aligned)
        return SimpleNamespace(**triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm)

    return build


def ptxas_report(cubin: bytes, capability: int) -> dict[str, int]:
    """Return the registers of a thread and the bytes it spills, as cuobjdump reads them off the machine code."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"sm_{capability}" in text or "REG:" in text
    return {
        "registers": int(re.search(r"REG:(\d+)", text)[1]),
        "spilled": int(re.search(r"STACK:(\d+)", text)[1]) + int(re.search(r"LOCAL:(\d+)", text)[1]),
    }


@pytest.mark.parametrize("dtype", POINTERS)
@pytest.mark.parametrize("name", KERNELS)
def test_memory_is_moved_16_bytes_at_a_time_from_64_bit_addresses(compiled, name, dtype):
    code = compiled(name, dtype, GemSpec(2))
    moves = re.findall(r"(?:ld|st)\.global\.(\S+)", code.ptx)
    assert moves
    assert set(moves) <= {"v4.b32", "v2.b64"}
    products = re.findall(r"arith\.muli .* : (\S+)", code.ttir)
    assert products == ["i64"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("spec", [GemSpec(1), GemSpec(4), GemSpec(9, 1, 0.1)], ids=str)
def test_the_gradient_from_the_output_has_no_branch_and_spills_nothing(compiled, spec, dtype):
    code = compiled("gem_backward_kernel", dtype, spec, from_output=True)
    assert not re.search(r"(?:ld|st)\.local", code.ptx)
    assert not re.search(r"@%p\d+ bra", code.ptx)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("from_output", [False, True], ids=["from-input", "from-output"])
@pytest.mark.parametrize("name", ["gem_second_kernel", "gem_third_kernel"])
def test_passes_of_higher_order_spill_nothing(compiled, capfd, name, from_output, capability):
    """Of 255 registers a thread may have: what ptxas reports is printed, for a reader of the test's output."""
    for spec in (GemSpec(1, 1e-4), GemSpec(4), GemSpec(2, 1e-4, 0.01)):
        code = compiled(name, "float32", spec, from_output, capability)
        report = ptxas_report(code.cubin, capability)
        with capfd.disabled():
            print(f"\n{name} {spec} sm_{capability}{' from output' * from_output}: {report}")
        assert report["spilled"] == 0
        assert report["registers"] <= 128


def test_older_gpus_are_compiled_for(compiled):
    assert ".target sm_80" in compiled("gem_forward_kernel", "bfloat16", GemSpec(), capability=80).ptx
    assert ".target sm_75" in compiled("gem_backward_kernel", "float16", GemSpec(), True, capability=75).ptx


def test_constants_of_float64_keep_all_their_digits(compiled):
    code = compiled("gem_forward_kernel", "float64", GemSpec(1, 1.1))
    assert "0d3FF199999999999A" in code.ptx


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", POINTERS)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_the_scale_is_no_constant_of_the_compiled_code(kernels, tmp_path, monkeypatch, backward, dtype, capability):
    if kernels.INTERPRETED:
        pytest.skip("the interpreter compiles nothing")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gem_activations.kernels.triton.scale import gem_scaled_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"n": 2, "leak": 0.0, "limit": 2.0**15, "block_channels": 16, "block": 64}
    if not backward:
        constants |= {"grad_ptr": None, "sums_ptr": None}
    wide = "*fp64" if dtype == "float64" else "*fp32"
    signature = dict.fromkeys(gem_scaled_kernel.arg_names, "i64")
    signature |= dict.fromkeys(("grad_ptr", "x_ptr", "out_ptr"), "*" + POINTERS[dtype])
    signature |= {"scale_ptr": wide, "sums_ptr": wide, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(fn=gem_scaled_kernel, signature=signature, constexprs=constants)
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm
    assert f".target sm_{capability}" in code["ptx"]
    assert "scale_ptr" in code["ttir"]
    assert ("sums_ptr" in code["ttir"]) is backward
    report = ptxas_report(code["cubin"], capability)
    assert report["spilled"] == 0
    assert report["registers"] <= 128
