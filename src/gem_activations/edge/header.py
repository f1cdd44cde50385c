"""C99 for integer layers: a header that depends on stdint.h alone, and test vectors for it.

`q31.h` and `q15.h` beside this file are what users compile; a generated header holds one of them, whole, and one
constant struct a layer. Several generated headers can be included together.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import QuantizationError
from .integer import IntegerLayer

_DIVISIONS = ("udiv", "long", "newton")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORDS = (
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while"
)
_VECTORS = 256


def layer_struct(layer: IntegerLayer, name: str) -> str:
    """Return the definition of a layer's constant struct, one line.

    Raises: QuantizationError: the name is no identifier of C.
    """
    if not _IDENTIFIER.fullmatch(name) or name in _KEYWORDS.split():
        raise QuantizationError(f"{name!r} cannot name a layer in C: expected letters, digits and _, such as layer1")
    c = layer.constants
    wide = "ull" if layer.method == "q31" else "u"
    unsigned = ", ".join(f"{each}u" for each in (c.e_man, c.l_man, c.r_man, c.n_man))
    halves = f"{c.half_pos}{wide}, {c.half_neg}{wide}"
    power = int("1" + f"{c.n:b}"[:0:-1], 2)
    signed = ", ".join(str(each) for each in (c.shift, c.n_shift, c.in_zero, c.out_zero, c.low, c.high))
    return f"static const gem_{layer.method}_layer {name} = {{{unsigned}, {halves}, {c.e_exp}, {power}u, {signed}}};"


def make_header(layers: Mapping[str, IntegerLayer], command: str = "gem-act c") -> str:
    """Return a header of the functions and a constant struct for each layer.

    Args:
        layers: Layers of one method and one division, by the names that they get in C.
        command: What made it, for the first line.
    Raises: QuantizationError: no layers, layers of several methods or divisions, or a name that is no identifier of C.
    Example:
        >>> from gem_activations import GemSpec
        >>> from gem_activations.edge import Quantization, integer
        >>> layer = integer(GemSpec(n=2), Quantization(0.1, 0, 0.1, -128))
        >>> "gem_q31(&layer1, q)" in make_header({"layer1": layer})
        True
    """
    kinds = {(layer.method, layer.division) for layer in layers.values()}
    if len(kinds) != 1:
        raise QuantizationError("expected at least one layer, and one method and one division for all of them")
    ((method, division),) = kinds
    first = next(iter(layers))
    lines = [
        f"/* Made by {command}. C99; no floating point, no heap, no tables.",
        " *",
        f" * int32_t y = gem_{method}(&{first}, q); takes one quantised number to another.",
        " *",
    ]
    for name, layer in layers.items():
        q, report = layer.quantization, layer.report
        exact = "every result exactly rounded"
        if report.inexact:
            exact = f"{report.inexact} results off by at most {report.largest_error}"
        ties = "away from zero" if q.rounding == "away" else "to even"
        lines += [
            f" * {name}: {layer.spec}, int{q.bits}, x = {q.in_scale!r} (q - {q.in_zero}), "
            f"y = {q.out_scale!r} (result - {q.out_zero});",
            f" *     of {report.inputs} inputs, ties {ties}: {exact}.",
        ]
    lines.append(" */")
    if method == "q31":
        number = _DIVISIONS.index(division)
        lines += [
            f"#if defined(GEM_Q31_DIVISION) && GEM_Q31_DIVISION != {number}",
            '#error "headers made with several divisions cannot be included together: '
            'make them with the same --division"',
            "#endif",
            "#ifndef GEM_Q31_DIVISION",
            f"#define GEM_Q31_DIVISION {number} /* {division} */",
            "#endif",
            "",
        ]
    lines += [Path(__file__).with_name(f"{method}.h").read_text().rstrip(), ""]
    lines += [layer_struct(layer, name) for name, layer in layers.items()]
    return "\n".join(lines) + "\n"


def make_vectors(layers: Mapping[str, IntegerLayer], header: str) -> str:
    """Return a header with a check for each layer: 256 inputs with their results, and a checksum over all inputs.

    `NAME_check()` counts the wrong results among the 256, and one more if the checksum differs: 0 if all is well.

    Args:
        layers: As for `make_header`.
        header: File name of the header that they are in.
    """
    guard = re.sub(r"\W", "_", f"GEM_VECTORS_{'_'.join(layers)}".upper())
    lines = [f"#ifndef {guard}", f"#define {guard}", "", f'#include "{header}"', ""]
    for name, layer in layers.items():
        inputs = layer.quantization.inputs()
        results = layer.apply(inputs)
        picked = np.linspace(0, len(inputs) - 1, _VECTORS).round().astype(int)
        lines += [
            f"static const int16_t {name}_inputs[{_VECTORS}] = {{",
            *_rows(inputs[picked]),
            "};",
            f"static const int16_t {name}_results[{_VECTORS}] = {{",
            *_rows(results[picked]),
            "};",
            "",
            f"static inline int {name}_check(void) {{",
            "    uint32_t sum = 2166136261u;",
            "    int wrong = 0;",
            f"    for (int i = 0; i < {_VECTORS}; i++) {{",
            f"        wrong += gem_{layer.method}(&{name}, {name}_inputs[i]) != {name}_results[i];",
            "    }",
            f"    for (int32_t q = {layer.constants.low}; q <= {layer.constants.high}; q++) {{",
            f"        sum = (sum ^ ((uint32_t)gem_{layer.method}(&{name}, q) & 0xFFFFu)) * 16777619u;",
            "    }",
            f"    return wrong + (sum != {checksum(results)}u);",
            "}",
            "",
        ]
    return "\n".join([*lines, "#endif", ""])


def checksum(results: "np.ndarray") -> int:
    """Return the FNV-1a sum of results, 16 bits at a time, that the vectors' check computes."""
    total = 2166136261
    for word in (results.astype(np.int64) & 0xFFFF).tolist():
        total = ((total ^ word) * 16777619) & 0xFFFFFFFF
    return total


def _rows(numbers: "np.ndarray") -> list[str]:
    return ["    " + ", ".join(map(str, numbers[i : i + 16])) + "," for i in range(0, len(numbers), 16)]
