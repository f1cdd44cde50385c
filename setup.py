"""Builds the C library of gem_activations/kernels/cpu; everything else about the package is in pyproject.toml.

The library needs neither Python's headers nor its version: one file serves every Python. If there are headers it is a
module of the stable ABI as well, which makes calls on small tensors faster. If it cannot be built the
package installs without it, computes by the plain formula and its wheel is one for any platform; with
GEM_ACTIVATIONS_REQUIRE_KERNELS=1 in the environment that is an error.
"""

import hashlib
import os
import re
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

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
# How to repair it is also what a program is told that computes without the library: kernels/cpu/loader.py.
NOTICE = """
gem-activations: the C kernels could not be built ({error}).
The package works without them, on the CPU by a slower formula. Once a C compiler (gcc or clang) is installed, this
repairs it; put the path of a checkout in the place of the last word if you install from one:
    pip install --force-reinstall --no-deps --no-cache-dir --no-binary gem-activations gem-activations
GEM_ACTIVATIONS_REQUIRE_KERNELS=1 makes it an error.
"""
REQUIRED = """
gem-activations: the C kernels could not be built ({error}), and GEM_ACTIVATIONS_REQUIRE_KERNELS makes that an error.
Install a C compiler (gcc or clang), or unset the variable for a package without kernels.
"""


class BuildLibrary(build_ext):
    """Builds gem_kernels.so and writes its SHA-256 beside it, by which `backend_info` knows an altered file."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return list(ext.export_symbols)  # a PyInit function only if Python's headers were there: source/module.c

    def build_extension(self, ext: Extension) -> None:
        library = Path(self.get_ext_fullpath(ext.name))
        compile_each = self.compiler.compile

        def compile_at_once(sources: list[str], **choices: Any) -> list[str]:
            with ThreadPoolExecutor() as pool:
                return list(chain.from_iterable(pool.map(lambda source: compile_each([source], **choices), sources)))

        self.compiler.compile = compile_at_once
        try:
            super().build_extension(ext)
        except Exception as error:
            library.unlink(missing_ok=True)  # What an earlier build has left must not pass for this one's.
            notice = NOTICE if ext.optional else REQUIRED
            print(notice.format(error=" ".join(str(error).split())), file=sys.stderr)
            raise  # An optional extension's is caught and logged by setuptools.
        write_checksum(library)

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        package = Path(self.get_finalized_command("build_py").get_package_dir("gem_activations.kernels.cpu"))
        library = package / "gem_kernels.so"
        if library.exists():
            write_checksum(library)


class TagWheel(bdist_wheel):
    """Tags the wheel for every Python version, and for its platform unless it is without the library."""

    def get_tag(self) -> tuple[str, str, str]:
        built = list(Path(self.get_finalized_command("build").build_lib).rglob("gem_kernels.so"))
        self.root_is_pure = not built
        return "py3", "none", super().get_tag()[2] if built else "any"


def write_checksum(library: Path) -> None:
    library.with_suffix(".so.sha256").write_text(hashlib.sha256(library.read_bytes()).hexdigest() + "\n")


library = Extension(
    "gem_activations.kernels.cpu.gem_kernels",
    sources=sorted(map(str, SOURCE.glob("*.c"))),
    depends=sorted(map(str, SOURCE.glob("*.h"))),
    extra_compile_args=FLAGS,
    libraries=["m", "dl"] if sys.platform == "linux" else [],
    optional=os.environ.get("GEM_ACTIVATIONS_REQUIRE_KERNELS", "0") in ("", "0"),
)
# Microsoft's compiler has neither these flags nor C11 atomics by default: there the plain formula serves.
modules = [] if sys.platform == "win32" else [library]


def long_description() -> str:
    """Return the README with links that work where it is shown alone, as on a package index."""
    address = tomllib.loads(Path("pyproject.toml").read_text())["project"]["urls"]["Repository"]

    def absolute(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        return f"{picture}[{text}]({address}/{'raw' if picture else 'blob'}/HEAD/{target})"

    readme = Path("README.md").read_text(encoding="utf-8")
    return re.sub(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)]+)\)", absolute, readme)


setup(
    ext_modules=modules,
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": TagWheel},
    long_description=long_description(),
    long_description_content_type="text/markdown",
)
