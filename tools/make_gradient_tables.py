"""Write the tables of the C kernels: the gradient f' of GEM and its input as functions of its output, for leak 0.

gradient_table_32.h and gradient_table_64.h have the gradient, inverse_table_32.h the input.

With u = y / scale the gradient depends on u and n only. Far below the transition it is V (1 + c V), where
V = (2n+1) u^(2n/(2n+1)) repeats every 2n+1 octaves of u, but for a power of two. From u = 2^low on it is V d, with d
the value of 1 + c V there: the larger of 1 + c V and d serves all u. The table has V over one period of the power law
and over the octaves, or parts of octaves, above, as polynomials in the mantissa of u less 3/2. Above the last octave
the gradient is 1 to within the bound.

The input t = x / scale is u^m + m u with m = 1 / (2n+1) far below the transition, but for a share of u^(4nm). The table
has t - m u over the same pieces; over one period of the power law it doubles. Above the last octave t is u.

Everything is computed with 50 digits and rounded once.

Run: .venv/bin/python tools/make_gradient_tables.py
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mpmath
from mpmath import mpf

SOURCE = Path(__file__).parents[1] / "src/gem_activations/kernels/cpu/source"
FEW, MANY = 32, 64  # columns: what one permute of two AVX-512 registers selects from, and what two do
INVERSE_DEGREE = 6  # relative errors of 5e-7


@dataclass(frozen=True)
class Layout:
    """Where the pieces of one order lie, in powers of two of u.

    The columns of the table are one period of 2n+1 octaves that ends at `low`, the octaves of low .. split, and those
    of split .. high in 2^log2_parts parts each.
    """

    n: int
    low: int
    split: int
    high: int
    log2_parts: int
    degree: int

    @property
    def period(self) -> int:
        return 2 * self.n + 1

    @property
    def parts(self) -> int:
        return 2**self.log2_parts

    @property
    def columns(self) -> int:
        return self.period + self.split - self.low + self.parts * (self.high - self.split)


LAYOUTS = (
    Layout(n=1, low=-14, split=11, high=11, log2_parts=0, degree=6),
    Layout(n=2, low=-11, split=-3, high=6, log2_parts=1, degree=5),
    Layout(n=3, low=-10, split=-3, high=4, log2_parts=1, degree=6),
    Layout(n=4, low=-10, split=-2, high=3, log2_parts=1, degree=6),
)
LONG_LAYOUTS = (
    Layout(n=5, low=-10, split=-2, high=3, log2_parts=2, degree=7),
    Layout(n=6, low=-10, split=-2, high=3, log2_parts=2, degree=7),
    Layout(n=7, low=-10, split=-2, high=2, log2_parts=2, degree=7),
    Layout(n=8, low=-10, split=-2, high=2, log2_parts=2, degree=7),
)


Function = Callable[[Layout, mpf], mpf]


def root(n: int, u: mpf) -> mpf:
    """Compute t with t^(2n+1) = u (t^(2n) + 1)."""
    t = u + u ** (mpf(1) / (2 * n + 1))
    while True:  # Newton from above on t^(2n+1) = u (t^(2n) + 1), which is convex there
        power = t ** (2 * n)
        step = (t * power - u * (power + 1)) / ((2 * n + 1) * power - 2 * n * u * power / t)
        t -= step
        if abs(step) < abs(t) * mpf(10) ** -40:
            return t


def gradient(n: int, u: mpf) -> mpf:
    """Compute f' = G (1 + 2n (1 - G)) with the gate G = t^(2n) / (t^(2n) + 1)."""
    t = root(n, u)
    gate = t ** (2 * n) / (t ** (2 * n) + 1)
    return gate * (1 + 2 * n * (1 - gate))


def power_law(n: int, u: mpf) -> mpf:
    return (2 * n + 1) * u ** (mpf(2 * n) / (2 * n + 1))


def interpolate(function, start: mpf, end: mpf, degree: int) -> list[mpf]:
    """Return the coefficients, constant first, of the polynomial through `function` at the Chebyshev nodes."""
    nodes = [
        (start + end) / 2 + (end - start) / 2 * mpmath.cospi((k + mpf(1) / 2) / (degree + 1)) for k in range(degree + 1)
    ]
    matrix = mpmath.matrix([[node**power for power in range(degree + 1)] for node in nodes])
    return list(mpmath.lu_solve(matrix, mpmath.matrix([function(node) for node in nodes])))


@functools.cache
def factors(layout: Layout) -> tuple[mpf, mpf]:
    """Return c, fitted where the power law is used, and d, as the float32 numbers that the header has."""
    largest = power_law(layout.n, mpf(2) ** layout.low)

    def remainder(value: mpf) -> mpf:
        u = (value / layout.period) ** (mpf(layout.period) / (2 * layout.n))
        return (gradient(layout.n, u) / value - 1) / value

    c = rounded(interpolate(remainder, mpf(0), largest, 0)[0])
    return c, rounded(1 + c * largest)


def rounded(value: mpf) -> mpf:
    return mpf(float(number(value)[:-1]))


def base(layout: Layout, u: mpf) -> mpf:
    """Return V with max(1 + c V, d) V = f'."""
    return power_law(layout.n, u) if u < mpf(2) ** layout.low else gradient(layout.n, u) / factors(layout)[1]


def bent_input(layout: Layout, u: mpf) -> mpf:
    """Compute t - m u, or the power law u^m that it follows far below the transition."""
    m = mpf(1) / layout.period
    return u**m if u < mpf(2) ** layout.low else root(layout.n, u) - m * u


def pieces(layout: Layout, function: Function, degree: int) -> list[list[mpf]]:
    """Return the polynomials of a function of u, in the order of the table's columns."""
    result = []
    for octave in range(layout.low - layout.period, layout.high):
        parts = layout.parts if octave >= layout.split else 1
        for part in range(parts):
            start = mpf(part) / parts - mpf(1) / 2
            scale = mpf(2) ** octave
            values = functools.partial(in_octave, layout, function, scale)
            result.append(interpolate(values, start, start + mpf(1) / parts, degree))
    return result


def in_octave(layout: Layout, function: Function, scale: mpf, z: mpf) -> mpf:
    return function(layout, (z + mpf(3) / 2) * scale)


def least(layout: Layout) -> int:
    """Return the smallest u with a normal float32 gradient, as float bits counted from those of 1, rounded up."""
    u = (mpf(2) ** -126 / layout.period) ** (mpf(layout.period) / (2 * layout.n))
    octave = int(mpmath.floor(mpmath.log(u, 2)))
    return octave * 2**23 + int(mpmath.ceil((u / mpf(2) ** octave - 1) * 2**23)) + 16


def number(value: mpf) -> str:
    return f"{float(value):.9e}f" if value else "0.0f"


def rows(polynomials: list[list[mpf]], columns: int) -> list[str]:
    """Return the coefficients as C, one row a power of the mantissa, filled up with zeros."""
    assert len(polynomials) <= columns
    powers = range(len(polynomials[0]))
    polynomials = polynomials + [[mpf(0) for _ in powers]] * (columns - len(polynomials))
    lines = []
    for power in powers:
        row = [number(polynomial[power]) for polynomial in polynomials]
        lines.append("    {" + ",\n     ".join(", ".join(row[k : k + 7]) for k in range(0, columns, 7)) + "},")
    return lines


def short_table(layout: Layout) -> list[str]:
    """Return a table whose layout the compiler knows."""
    n, names = layout.n, ("low", "split", "high", "log2_parts", "degree")
    values = {name: getattr(layout, name) for name in names} | {"least": least(layout)}
    return [
        f"enum {{ {', '.join(f'{name.upper()}_{n} = {value}' for name, value in values.items())} }};",
        f"static const float factors_{n}[2] = {{{', '.join(map(number, factors(layout)))}}};",
        f"static const _Alignas(64) float table_{n}[{layout.degree + 1}][{FEW}] = {{",
        *rows(pieces(layout, base, layout.degree), FEW),
        "};",
        "",
    ]


def inverse_table(layout: Layout) -> list[str]:
    """Return the table of the input, whose layout is that of the gradient's."""
    return [
        f"static const _Alignas(64) float inverse_{layout.n}[{INVERSE_DEGREE + 1}][{FEW}] = {{",
        *rows(pieces(layout, bent_input, INVERSE_DEGREE), FEW),
        "};",
        "",
    ]


def long_table(layout: Layout) -> list[str]:
    """Return a table with its layout beside it: gem_table of gem.h."""
    names = ("period", "low", "split", "high", "log2_parts")
    values = {name: getattr(layout, name) for name in names} | {"least": least(layout)}
    return [
        f"static const _Alignas(64) gem_table long_table_{layout.n} = {{",
        "    .coefficients = {",
        *rows(pieces(layout, base, layout.degree), MANY),
        "    },",
        f"    .factors = {{{', '.join(map(number, factors(layout)))}}},",
        f"    {', '.join(f'.{name} = {value}' for name, value in values.items())},",
        "};",
        "",
    ]


def headers() -> dict[Path, str]:
    note = "/* Written by tools/make_gradient_tables.py, which says what the numbers are. Do not edit. */"
    with mpmath.workdps(50):
        short = [line for layout in LAYOUTS for line in short_table(layout)]
        long = [line for layout in LONG_LAYOUTS for line in long_table(layout)]
        inverse = [line for layout in LAYOUTS for line in inverse_table(layout)]
    return {
        SOURCE / "gradient_table_32.h": "\n".join([note, "", *short]),
        SOURCE / "gradient_table_64.h": "\n".join([note, "", *long]),
        SOURCE / "inverse_table_32.h": "\n".join([note, "", *inverse]),
    }


if __name__ == "__main__":
    for path, text in headers().items():
        path.write_text(text)
