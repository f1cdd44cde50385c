"""`gem-act c`: integer layers as a C header, of one activation, or of those of a JSON or ONNX file."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import QuantizationError
from ..files import write_atomically
from ..grammar import quote
from ..spec import GemSpec
from .header import make_header, make_vectors
from .integer import Division, Method, integer
from .onnx_file import read_onnx
from .quantization import Quantization, Rounding

_NEEDED = ("in_scale", "in_zero", "out_scale", "out_zero")
_OPTIONAL = ("bits", "rounding")


@dataclass(frozen=True)
class HeaderRequest:
    """What to write. The options of `gem-act c` are these fields."""

    source: str
    """An activation such as "gem(n=2)", with scales and zero points as options; or a JSON or a quantised ONNX file."""
    out: Path
    """Header to write, such as layer1.h, which names the layer of a single activation."""
    test: Path | None = None
    """Second header to write, with test vectors."""
    in_scale: float | None = None
    """Real number of one step of the input."""
    in_zero: int | None = None
    """Input that stands for 0."""
    out_scale: float | None = None
    """Real number of one step of the output."""
    out_zero: int | None = None
    """Output that stands for 0."""
    bits: int | None = None
    """8 or 16; 8 if not given."""
    rounding: Rounding | None = None
    """Of ties: away (from zero, as in TFLite) or even (as in ONNX); away if not given."""
    method: Method = "q31"
    """q15 has no 64-bit product and is for 8 bits."""
    division: Division = "udiv"
    """Of q31: two 32-bit divisions, one 64-bit division, or multiplications alone."""


def write_header(request: HeaderRequest) -> Iterator[str]:
    """Make every layer, then write the header and the test vectors; yield a line on each layer and file.

    Raises: GemError: what is asked for is wrong, or a file cannot be read, and nothing is written; OSError: a file
        cannot be written.
    """
    layers = {
        name: integer(spec, quantization, request.method, request.division)
        for name, (spec, quantization) in _settings(request).items()
    }
    files = {request.out: make_header(layers)}
    if request.test is not None:
        files[request.test] = make_vectors(layers, request.out.name)
    for name, layer in layers.items():
        report, bits = layer.report, layer.quantization.bits
        exact = f"exactly rounded for {report.inputs - report.inexact:,} of {report.inputs:,} inputs"
        worst = f", the others off by at most {report.largest_error}" if report.inexact else ""
        yield f"{name}: {layer.spec}, int{bits}, {layer.method}: {exact}{worst}"
    for path, text in files.items():
        write_atomically(path, text.encode())
        yield f"Written: {path}"


def _settings(request: HeaderRequest) -> dict[str, tuple[GemSpec, Quantization]]:
    given = {name: getattr(request, name) for name in (*_NEEDED, *_OPTIONAL) if getattr(request, name) is not None}
    read = {".json": _read_json, ".onnx": read_onnx}.get(Path(request.source).suffix)
    if read is None:
        missing = [name for name in _NEEDED if name not in given]
        if missing:
            options = ", ".join("--" + name.replace("_", "-") for name in missing)
            raise QuantizationError(f"{quote(request.source)} needs {options} as well; or name a .json or .onnx file")
        name = re.sub(r"\W", "_", request.out.stem, flags=re.ASCII)
        return {name: (GemSpec.parse(request.source), Quantization(**given))}
    if given:
        option = "--" + next(iter(given)).replace("_", "-")
        raise QuantizationError(f"{option} is for one activation; the layers of {request.source} bring their own")
    return read(Path(request.source))


def _read_json(path: Path) -> dict[str, tuple[GemSpec, Quantization]]:
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise QuantizationError(f"{path} cannot be read as JSON: {error}") from None
    fields = {"name", "activation", *_NEEDED}
    settings: dict[str, tuple[GemSpec, Quantization]] = {}
    for row in rows if isinstance(rows, list) and rows else [None]:
        if not isinstance(row, dict) or not fields <= row.keys() <= fields | set(_OPTIONAL):
            raise QuantizationError(
                f"{path}: expected a list of objects with {', '.join(sorted(fields))} and, if wanted, bits and rounding"
            )
        name = str(row["name"])
        if name in settings:
            raise QuantizationError(f"{path}: two layers are called {quote(name)}")
        numbers: dict[str, Any] = {key: row[key] for key in row.keys() - {"name", "activation"}}
        settings[name] = GemSpec.parse(str(row["activation"])), Quantization(**numbers)
    return settings
