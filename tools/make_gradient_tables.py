"""Write gradient_table_32.h and gradient_table_64.h: the gradient f' of GEM as a function of its output, for leak 0.

With u = y / scale the gradient depends on u and n only. Far below the transition it is V (1 + c V), where
V = (2n+1) u^(2n/(2n+1)) repeats every 2n+1 octaves of u, but for a power of two. From u = 2^low on it is V d, with d
the value of 1 + c V there: the larger of 1 + c V and d serves all u. The table has V over one period of the power law
and over the octaves, or parts of octaves, above, as polynomials in the mantissa of u less 3/2. Above the last octave
the gradient is 1 to within the bound. Everything is computed with 50 digits and rounded once.

Run: .venv/bin/python tools/make_gradient_tables.py
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import mpmath
from mpmath import mpf

SOURCE = Path(__file__).parents[1] / "src/gem_activations/kernels/cpu/source"
FEW, MANY = 32, 64  # columns: what one permute of two AVX-512 registers selects from, and what two do


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


def gradient(n: int, u: mpf) -> mpf:
    """Give f' = G (1 + 2n (1 - G)) where G^(2n+1) = u^(2n) (1 - G)."""
    t = u + u ** (mpf(1) / (2 * n + 1))
    while True:  # Newton from above on t^(2n+1) = u (t^(2n) + 1), which is convex there
        power = t ** (2 * n)
        step = (t * power - u * (power + 1)) / ((2 * n + 1) * power - 2 * n * u * power / t)
        t -= step
        if abs(step) < abs(t) * mpf(10) ** -40:
            break
    gate = t ** (2 * n) / (t ** (2 * n) + 1)
    return gate * (1 + 2 * n * (1 - gate))


def power_law(n: int, u: mpf) -> mpf:
    return (2 * n + 1) * u ** (mpf(2 * n) / (2 * n + 1))


def interpolate(function, start: mpf, end: mpf, degree: int) -> list[mpf]:
    """Give the coefficients, constant first, of the polynomial through `function` at the Chebyshev nodes."""
    nodes = [
        (start + end) / 2 + (end - start) / 2 * mpmath.cospi((k + mpf(1) / 2) / (degree + 1)) for k in range(degree + 1)
    ]
    matrix = mpmath.matrix([[node**power for power in range(degree + 1)] for node in nodes])
    return list(mpmath.lu_solve(matrix, mpmath.matrix([function(node) for node in nodes])))


@functools.cache
def factors(layout: Layout) -> tuple[mpf, mpf]:
    """Give c, fitted where the power law is used, and d, as the float32 numbers that the header has."""
    largest = power_law(layout.n, mpf(2) ** layout.low)

    def remainder(value: mpf) -> mpf:
        u = (value / layout.period) ** (mpf(layout.period) / (2 * layout.n))
        return (gradient(layout.n, u) / value - 1) / value

    c = rounded(interpolate(remainder, mpf(0), largest, 0)[0])
    return c, rounded(1 + c * largest)


def rounded(value: mpf) -> mpf:
    return mpf(float(number(value)[:-1]))


def base(layout: Layout, u: mpf) -> mpf:
    """Give V with max(1 + c V, d) V = f'."""
    return power_law(layout.n, u) if u < mpf(2) ** layout.low else gradient(layout.n, u) / factors(layout)[1]


def pieces(layout: Layout) -> list[list[mpf]]:
    """Give the polynomials, in the order of the table's columns."""
    result = []
    for octave in range(layout.low - layout.period, layout.high):
        parts = layout.parts if octave >= layout.split else 1
        for part in range(parts):
            start = mpf(part) / parts - mpf(1) / 2
            values = functools.partial(in_octave, layout, octave)
            result.append(interpolate(values, start, start + mpf(1) / parts, layout.degree))
    return result


def in_octave(layout: Layout, octave: int, z: mpf) -> mpf:
    return base(layout, (z + mpf(3) / 2) * mpf(2) ** octave)


def least(layout: Layout) -> int:
    """Give the smallest u with a normal float32 gradient, as float bits counted from those of 1, rounded up."""
    u = (mpf(2) ** -126 / layout.period) ** (mpf(layout.period) / (2 * layout.n))
    octave = int(mpmath.floor(mpmath.log(u, 2)))
    return octave * 2**23 + int(mpmath.ceil((u / mpf(2) ** octave - 1) * 2**23)) + 16


def number(value: mpf) -> str:
    return f"{float(value):.9e}f" if value else "0.0f"


def rows(layout: Layout, columns: int) -> list[str]:
    """Give the coefficients as C, one row a power of the mantissa, filled up with zeros."""
    polynomials = pieces(layout)
    assert len(polynomials) == layout.columns <= columns, layout
    polynomials += [[mpf(0)] * (layout.degree + 1)] * (columns - len(polynomials))
    lines = []
    for power in range(layout.degree + 1):
        row = [number(polynomial[power]) for polynomial in polynomials]
        lines.append("    {" + ",\n     ".join(", ".join(row[k : k + 7]) for k in range(0, columns, 7)) + "},")
    return lines


def short_table(layout: Layout) -> list[str]:
    """Give a table whose layout the compiler knows."""
    n, names = layout.n, ("low", "split", "high", "log2_parts", "degree")
    values = {name: getattr(layout, name) for name in names} | {"least": least(layout)}
    return [
        f"enum {{ {', '.join(f'{name.upper()}_{n} = {value}' for name, value in values.items())} }};",
        f"static const float factors_{n}[2] = {{{', '.join(map(number, factors(layout)))}}};",
        f"static const _Alignas(64) float table_{n}[{layout.degree + 1}][{FEW}] = {{",
        *rows(layout, FEW),
        "};",
        "",
    ]


def long_table(layout: Layout) -> list[str]:
    """Give a table with its layout beside it: gem_table of gem.h."""
    names = ("period", "low", "split", "high", "log2_parts")
    values = {name: getattr(layout, name) for name in names} | {"least": least(layout)}
    return [
        f"static const _Alignas(64) gem_table long_table_{layout.n} = {{",
        "    .coefficients = {",
        *rows(layout, MANY),
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
    return {
        SOURCE / "gradient_table_32.h": "\n".join([note, "", *short]),
        SOURCE / "gradient_table_64.h": "\n".join([note, "", *long]),
    }


if __name__ == "__main__":
    for path, text in headers().items():
        path.write_text(text)
