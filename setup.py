"""Builds the C library of gem_activations/kernels/cpu and, where PyTorch is at hand, the nodes of autograd for it.

Everything else about the package is in pyproject.toml.

The library needs neither Python's headers nor its version: one file serves every Python. If there are headers it is a
module of the stable ABI as well, which makes calls on small tensors faster. If it cannot be built the
package installs without it, computes by the plain formula and its wheel is one for any platform; with
GEM_ACTIVATIONS_REQUIRE_KERNELS=1 in the environment that is an error.

The nodes, torch/nodes.cpp, are built for the installed PyTorch, which a build in isolation does not see: it leaves them
out, and `pip install --no-build-isolation` has them. Without them calls on small tensors take longer, and nothing else.
"""

import hashlib
import os
import re
import sys
import sysconfig
import tomllib
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

LIBRARY, NODES = "gem_activations.kernels.cpu.gem_kernels", "gem_activations.torch.nodes"
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
NO_NODES = """
gem-activations: the nodes of autograd in C++ could not be built for this PyTorch ({error}).
Calls on small tensors take longer without them, and nothing else changes. They need C++20 and PyTorch 2.13.
"""


class BuildKernels(build_ext):
    """Builds gem_kernels.so and writes its SHA-256 beside it, by which `backend_info` knows an altered file."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith("nodes"):
            return super().get_ext_filename(fullname)
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return list(ext.export_symbols)  # a PyInit function only if Python's headers were there: source/module.c

    def build_extension(self, ext: Extension) -> None:
        if ext.name == NODES:
            self.build_nodes(ext)
        else:
            self.build_library(ext)

    def build_nodes(self, ext: Extension) -> None:
        # What an earlier build has left may be for another PyTorch, and would pass for up to date.
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        # A Python without a global lock would take it back for such a module, as the stable ABI has none for it.
        if sysconfig.get_config_var("Py_GIL_DISABLED") or not Path(self.get_ext_fullpath(LIBRARY)).exists():
            return
        try:
            import torch
            from torch.utils.cpp_extension import include_paths, library_paths
        except ImportError:
            return
        ext.include_dirs, ext.library_dirs = include_paths(), library_paths()
        ext.define_macros = [("GEM_TORCH_VERSION", f'"{torch.__version__}"')]
        try:
            super().build_extension(ext)
        except Exception as error:
            print(NO_NODES.format(error=" ".join(str(error).split())), file=sys.stderr)
            raise

    def build_library(self, ext: Extension) -> None:
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
    """Tags the wheel for its platform, unless it is without the library, and for every Python, unless it has nodes."""

    def get_tag(self) -> tuple[str, str, str]:
        folder = Path(self.get_finalized_command("build").build_lib)
        built = {path.name.partition(".")[0] for path in folder.rglob("*.so")}
        self.root_is_pure = not built
        if "nodes" in built:
            return super().get_tag()
        return "py3", "none", super().get_tag()[2] if built else "any"


def write_checksum(library: Path) -> None:
    library.with_suffix(".so.sha256").write_text(hashlib.sha256(library.read_bytes()).hexdigest() + "\n")


library = Extension(
    LIBRARY,
    sources=sorted(map(str, SOURCE.glob("*.c"))),
    depends=sorted(map(str, SOURCE.glob("*.h"))),
    extra_compile_args=FLAGS,
    libraries=["m", "dl"] if sys.platform == "linux" else [],
    optional=os.environ.get("GEM_ACTIVATIONS_REQUIRE_KERNELS", "0") in ("", "0"),
)
nodes = Extension(
    NODES,
    sources=["src/gem_activations/torch/nodes.cpp"],
    depends=[str(SOURCE / "gem.h")],
    libraries=["torch_python", "torch_cpu", "c10"],
    extra_compile_args=["-std=c++20", "-O2", "-g0", "-fvisibility=hidden"],
    language="c++",
    optional=True,
)
# Microsoft's compiler has neither these flags nor C11 atomics by default: there the plain formula serves.
modules = [] if sys.platform == "win32" else [library, nodes]


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
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": TagWheel},
    long_description=long_description(),
    long_description_content_type="text/markdown",
)
