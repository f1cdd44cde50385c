"""Pictures of f, f' and f'': small SVG files, the same bytes from the same certificate and Matplotlib."""

import hashlib
import io
from pathlib import Path

import matplotlib as mpl
from flint import arb
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from .balls import tape
from .files import write_atomically
from .formulas import Formula, Piece

VERSION = 1  # Raise it where `draw` changes.
_POINTS = 240
_COLOUR, _ZERO, _JOINT = "#1f5fa8", "#999999", "#c2571a"
_TITLES = ("f", "f'", "f''")


def draw(formula: Formula, path: Path) -> None:
    """Draw the function and its first two derivatives on the range where it bends, joints dotted.

    Raises: OSError: the file cannot be written.
    """
    low, high = span(formula)
    with mpl.rc_context({"svg.hashsalt": "gem-activations", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(7.2, 2.3), layout="constrained")
        axes = figure.subplots(1, 3)
        for order, (axis, title) in enumerate(zip(axes, _TITLES, strict=True)):
            axis.axhline(0, color=_ZERO, linewidth=0.5)
            for joint in formula.joints:
                axis.axvline(float(joint), color=_JOINT, linewidth=0.6, linestyle=":")
            for piece in formula.pieces:
                axis.plot(*_curve(piece, order, low, high), color=_COLOUR, linewidth=1.3)
            axis.set_xlim(low, high)
            axis.set_title(title)
            axis.spines[["top", "right"]].set_visible(False)
        text = io.BytesIO()
        metadata = {"Date": None, "Creator": None, "Description": signature(formula)}
        FigureCanvasSVG(figure).print_svg(text, metadata=metadata)
    write_atomically(path, text.getvalue())


def signature(formula: Formula) -> str:
    """Give the digest of what a drawing is made from: the pieces, the range of x and the version of the drawing."""
    pieces = [(str(piece.low), str(piece.high), str(piece.expression)) for piece in formula.pieces]
    return hashlib.sha256(repr((VERSION, _POINTS, pieces, span(formula))).encode()).hexdigest()[:24]


def span(formula: Formula) -> tuple[float, float]:
    """Give the range of x to draw: around the transition for a member of the family, else around the joints."""
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
