"""The pages of docs/properties: one for each activation of the catalog, with a plot, and one that compares them all.

    python -m gem_activations.analysis.pages docs/properties

A page is stale when the text made now differs from the file, or the file or its plot is missing. Plots are not compared
byte by byte, since other releases of Matplotlib may round otherwise; the page and its plot hold the same digest of what
was drawn.
"""

import hashlib
import html
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import sympy as sp
from flint import arb

from ..catalog import parse
from ..errors import SettingError
from ..files import write_atomically
from . import certification
from .balls import tape
from .certification import COMPARED
from .formulas import Formula, Piece
from .proofs import Certificate
from .source import read

VERSION = 1  # Raise it if `draw` changes.
_POINTS = 240
_COLOUR, _ZERO, _JOINT = "#1f5fa8", "#999999", "#c2571a"
_TITLES = ("f", "f'", "f''")


def draw(formula: Formula, path: Path, *others: Formula) -> None:
    """Draw functions and their first two derivatives on the range where they bend, joints dotted; or several.

    Raises: SettingError: the path ends neither in .svg nor in .png; OSError: the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if path.suffix not in (".svg", ".png"):
        raise SettingError(f"{path}: a picture is written as .svg or .png, not as {path.suffix or 'no format'}")
    spans = [span(each) for each in (formula, *others)]
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    with mpl.rc_context({"svg.hashsalt": "gem-activations", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(7.2, 2.3), layout="constrained")
        axes = figure.subplots(1, 3)
        for order, (axis, title) in enumerate(zip(axes, _TITLES, strict=True)):
            axis.axhline(0, color=_ZERO, linewidth=0.5)
            for number, each in enumerate((formula, *others)):
                color = f"C{number}" if number else _COLOUR
                for joint in each.joints:
                    axis.axvline(float(joint), color=_JOINT, linewidth=0.6, linestyle=":")
                for piece in each.pieces:
                    axis.plot(*_curve(piece, order, low, high), color=color, linewidth=1.3, label=each.name)
            axis.set_xlim(low, high)
            axis.set_title(title)
            axis.spines[["top", "right"]].set_visible(False)
        if others:
            named = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
            figure.legend(named.values(), named, loc="outside lower center", ncols=4)
        text = io.BytesIO()
        metadata = {"Date": None, "Creator": None, "Description": signature(formula)} if path.suffix == ".svg" else None
        figure.savefig(text, format=path.suffix[1:], metadata=metadata, dpi=200)
    write_atomically(path, text.getvalue())


def signature(formula: Formula) -> str:
    """Return the digest of what a drawing is made from: the pieces, the range of x and the version of the drawing."""
    pieces = [(str(piece.low), str(piece.high), str(piece.expression)) for piece in formula.pieces]
    return hashlib.sha256(repr((VERSION, _POINTS, pieces, span(formula))).encode()).hexdigest()[:24]


def span(formula: Formula) -> tuple[float, float]:
    """Return the range of x to draw: around the transition for a member of the family, else around the joints."""
    if formula.family is not None:
        n, eps, _ = formula.family
        reach = 4 * float(eps) ** (1 / (2 * n))
        return -reach, reach
    reach = max([4.0, *(1.5 * abs(float(joint)) for joint in formula.joints)])
    return -reach, reach


def _curve(piece: Piece, order: int, low: float, high: float) -> tuple[list[float], list[float]]:
    start = max(low, float(piece.low)) if piece.low.is_finite else low
    end = min(high, float(piece.high)) if piece.high.is_finite else high
    code = tape(piece.derivative(order))
    points = max(2, round(_POINTS * (end - start) / (high - low)))
    if piece.derivative(order + 2) == 0:
        points = 2  # A straight line.
    nudge = (end - start) * 1e-9
    xs = [start + nudge + (end - start - 2 * nudge) * k / (points - 1) for k in range(points)]
    return xs, [float(code(arb(x)).mid()) for x in xs]


INDEX = "README.md"
WRITTEN = ("schema.md", "verification.md", "wrong-constants.md")  # By hand.
_DRAWN = "<!-- drawing: "
_INTRODUCTION = """# Proved properties of every activation

Each number is exact, or an interval [lo, hi] that is proved to hold the true value; the page of each activation has
the proof method beside it. The table rounds to six digits. `gem-act certify NAME` makes the same for any parameters.
These pages are made by `make properties`; do not edit them.

Methods. "Exact algebra": derivatives by SymPy, factored into polynomials in x, one exponential or one square root,
whose roots are exact. "Ball arithmetic, branch and bound": every box of a subdivision is either excluded by an
enclosure of the value, or holds one root by the sign of the enclosed derivative; half-lines are closed by a proof of
which term dominates. Integrals: FLINT's adaptive quadrature with error bounds, tails bounded. "Exact limit": the
leading monomial of an expansion with remainders in balls, as `analysis/limits.py` says; SymPy's own limits are not
used. SymPy differentiates, factors and simplifies, and those results are taken from it; a simplified constant is kept
only if its ball agrees. FLINT's balls carry every inequality. A sample is never evidence here; the tests use dense
samples at 50 digits to attack the certificates.

[The constants](constants.md) are also there [as CSV](constants.csv), rounded outward to float64 and float32; some that
[are stated wrongly elsewhere](wrong-constants.md); [the table below with columns that sort](comparison.html); [bounds
on intervals for verification](verification.md); [the schema of the JSON files](schema.md). For a function a f(x/a) the
suprema of $f^{(k)}$ are those of f times $a^{1-k}$.

$C^k$ is the differentiability class; "dead regions" are intervals with $f' = 0$. "gain" and "chi" are for a standard
normal input, as in [the mathematics](../mathematics.md); "variance-map slope" is the slope of
$q \\to \\operatorname{E} f^2$ at q = 1 when weights are scaled by the gain. RReLU is in evaluation form, PReLU at its
initial slope. "operations for f" are those of the stated scheme; each page has those of the gradient too.

"""


_SORTABLE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>Activations compared</title>
<style>body{font:14px sans-serif}td,th{padding:.2em .6em;text-align:left}th{cursor:pointer;background:#8883}</style>
<p>Click a heading to sort by it, again to turn the order.</p>
<table><thead><tr>HEADS</tr></thead><tbody>
ROWS
</tbody></table>
<script>
const body = document.querySelector("tbody");
const key = text => { const n = parseFloat(text.replace("∞", "Infinity")); return isNaN(n) ? text : n; };
document.querySelectorAll("th").forEach((head, column) => {
  let turn = 1;
  head.onclick = () => {
    const rows = [...body.rows].map(row => [key(row.cells[column].textContent), row]);
    const order = (a, b) => a < b ? -1 : a > b ? 1 : 0;
    rows.sort(([a], [b]) => turn * (order(typeof a, typeof b) || order(a, b)));
    rows.forEach(([, row]) => body.append(row));
    turn = -turn;
  };
});
</script>
</html>
"""


def texts(certificates: Sequence[Certificate]) -> dict[str, str]:
    """Return file name -> text of every page."""
    stems = {c.name: certification.file_stem(c.name) for c in certificates}
    pages = {f"{stems[c.name]}.md": _page(c, stems[c.name]) for c in certificates}
    links = {name: f"{stem}.md" for name, stem in stems.items()}
    index = _INTRODUCTION + certification.comparison_table(certificates, links)
    return {
        INDEX: index,
        "gallery.md": _gallery(certificates, stems),
        "constants.md": certification.constants_markdown(certificates),
        "constants.csv": certification.constants_csv(certificates),
        "comparison.html": sortable_page(certificates, links),
    } | pages


def _gallery(certificates: Sequence[Certificate], stems: dict[str, str]) -> str:
    """Return a page with the definition and the picture of every activation, and the menu of their pages."""
    lines = [
        "# Every activation: f, f' and f''",
        "",
        "The definition, the picture and the source of each; dotted lines are joints. A picture leads to",
        'what is proved. <a href="../explore.html">Any two beside each other</a>, with parameters of your choice.',
    ]
    for found in certificates:
        name, stem, source = found.name, stems[found.name], parse(found.name).entry.citation
        picture = f"[![f, f' and f'' of {found.title}]({stem}.svg)]({stem}.md)"
        lines += ["", f"## {found.title}: `{name}`", "", f"$$\n{latex(read(name))}\n$$", "", picture, "", f"{source}."]
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", "", *stems.values(), "```", ""])


def _page(certificate: Certificate, stem: str) -> str:
    heading, _, rest = certification.to_markdown(certificate).partition("\n")
    rest = rest.replace(f"f(x) = `{certificate.formula}`", f"$$\n{latex(read(certificate.name))}\n$$")
    plot = f"![f, f' and f'' of {certificate.title}]({stem}.svg)"
    footer = (
        f"{_DRAWN}{signature(read(certificate.name))} -->\n"
        f'[All activations]({INDEX}). Made by `make properties`; `gem-act certify "{certificate.name}"` prints it.\n'
    )
    return f"{heading}\n\n{plot}\n{rest}\n{footer}"


def latex(formula: Formula) -> str:
    r"""Return the definition of a function as LaTeX.

    Example:
        >>> print(latex(read("gem")))
        f(x) = \begin{cases} 0 & x < 0 \\ \frac{x^{3}}{x^{2} + 1} & x > 0 \end{cases}
    """
    pieces: list[str] = []
    for piece in formula.pieces:
        low, high = (sp.latex(end) if end.is_finite else "" for end in (piece.low, piece.high))
        where = f"{low} < x < {high}" if low and high else f"x < {high}" if high else f"x > {low}"
        pieces.append(f"{sp.latex(piece.expression)} & {where}")
    if len(pieces) == 1:
        return f"f(x) = {pieces[0].partition(' & ')[0]}"
    return r"f(x) = \begin{cases} " + r" \\ ".join(pieces) + r" \end{cases}"


def sortable_page(certificates: Sequence[Certificate], links: dict[str, str]) -> str:
    """Return the comparison as an HTML page of its own, sorted by the column whose heading is clicked."""
    heads = "".join(f"<th>{html.escape(title)}</th>" for title in ("activation", *COMPARED.values()))
    rows = []
    for certificate in certificates:
        name = f'<a href="{links[certificate.name]}">{html.escape(certificate.name)}</a>'
        cells = [name, *(html.escape(certification.brief_cell(certificate, key)) for key in COMPARED)]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return _SORTABLE.replace("HEADS", heads).replace("ROWS", "\n".join(rows))


def stale(folder: Path, pages: dict[str, str]) -> list[str]:
    """Return the names of the files in the folder that are missing, differ, or belong to no activation."""
    paths = {name: folder / name for name in pages}
    held = {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.is_file()}
    found = [name for name, text in pages.items() if held.get(name) != text]
    plots = [name.replace(".md", ".svg") for name, text in pages.items() if _DRAWN in text]
    for name in plots:
        digest = pages[name.replace(".svg", ".md")].partition(_DRAWN)[2].partition(" ")[0]
        if not (folder / name).is_file() or digest not in (folder / name).read_text(encoding="utf-8"):
            found.append(name)
    known = {*pages, *plots, *WRITTEN}
    return found + sorted(path.name for path in folder.glob("*.*") if path.name not in known)


def write(folder: Path, certificates: Sequence[Certificate]) -> None:
    """Write all pages and plots. Raises: OSError: a file cannot be written."""
    for name, text in texts(certificates).items():
        write_atomically(folder / name, text.encode())
    for certificate in certificates:
        draw(read(certificate.name), folder / f"{certification.file_stem(certificate.name)}.svg")


def main(words: Sequence[str]) -> int:
    """Write the pages into the folder that is named. Return the exit status."""
    if len(words) != 1:
        print("usage: python -m gem_activations.analysis.pages FOLDER", file=sys.stderr)
        return 2
    write(Path(words[0]), list(certification.certify_all(("all",), budget=600)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
