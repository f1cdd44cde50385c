"""Builds the C library of gem_activations/kernels/cpu; everything else about the package is in pyproject.toml.

The library needs neither Python's headers nor its ABI: one file serves every Python version. Where it cannot be built
the package installs without it and computes by the plain formula.
"""

import hashlib
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCE = Path("src/gem_activations/kernels/cpu/source")
# Results must not depend on the compiler's taste: no contraction but the one that the source asks for, no fast math.
FLAGS = [
    "-std=c11",
    "-O3",
    "-g0",
    "-fno-fast-math",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-fvisibility=hidden",
]


class BuildLibrary(build_ext):
    """Builds gem_kernels.so and writes its SHA-256 beside it, by which `backend_info` knows an altered file."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return list(ext.export_symbols)  # no PyInit function: it is not a Python module

    def build_extension(self, ext: Extension) -> None:
        super().build_extension(ext)
        write_checksum(Path(self.get_ext_fullpath(ext.name)))

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        package = Path(self.get_finalized_command("build_py").get_package_dir("gem_activations.kernels.cpu"))
        library = package / "gem_kernels.so"
        if library.exists():
            write_checksum(library)


class TagWheel(bdist_wheel):
    """Tags the wheel for its platform and for every Python version."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def write_checksum(library: Path) -> None:
    library.with_suffix(".so.sha256").write_text(hashlib.sha256(library.read_bytes()).hexdigest() + "\n")


library = Extension(
    "gem_activations.kernels.cpu.gem_kernels",
    sources=sorted(map(str, SOURCE.glob("*.c"))),
    depends=sorted(map(str, SOURCE.glob("*.h"))),
    extra_compile_args=FLAGS,
    libraries=["m", "dl"] if sys.platform == "linux" else [],
    optional=True,
)
# Microsoft's compiler has neither these flags nor C11 atomics by default: there the plain formula serves.
modules = [] if sys.platform == "win32" else [library]

setup(ext_modules=modules, cmdclass={"build_ext": BuildLibrary, "bdist_wheel": TagWheel})
