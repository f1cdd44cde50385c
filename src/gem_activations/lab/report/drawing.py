"""How every plot looks: palette, type, frames, and the bytes of a file. No global state of matplotlib is changed.

Members of the family are drawn in blues and greens, their rivals in warm colours, ReLU in grey; the two groups stay
apart under the common colour-vision deficiencies. Equal input gives equal bytes: no dates, fixed identifiers.
"""

import io
import math
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...catalog import Activation, parse
from ...errors import ActivationNameError, SettingError
from ...spec import MEMBERS

INK = "#1f2328"
GREY = "#7d8590"
FAMILY = ("#3f9be0", "#17a08a", "#7b83eb", "#46b8d8", "#3f7fbf", "#58b368")
RIVALS = ("#d9662b", "#c75f9e", "#b58a1b", "#c8453c", "#9a6fb0", "#8c6d52")
_MEMBERS = ("gem", "gem(n=2)", "egem(eps=1e-4)", "segem(eps=1e-4, leak=0.01)", "gem(n=3)", "egem(eps=10)")
_COMMON = (
    *("gelu", "silu", "mish", "leaky_relu", "elu", "tanh"),
    *("selu", "softplus", "hardswish", "sigmoid", "prelu", "relu6"),
)
_SHORT_NAME = 16  # Letters that fit over a panel of a third of the width.
WIDTH = 5.4  # Inches, so that the text keeps its size on a phone; a report shows two beside each other.


def find_known(name: str) -> Activation | None:
    """Return the activation of the catalog that an arm is; None for a user's own.

    Example:
        >>> find_known("gelu").entry.title, find_known("Snake") is None
        ('GELU (erf)', True)
    """
    try:
        return parse(name)
    except ActivationNameError:
        return None


def look() -> AbstractContextManager[None]:
    """Return the context in which every figure is made and written."""
    return mpl.rc_context(
        {
            "svg.hashsalt": "gem-activations",
            "svg.fonttype": "none",
            "font.family": "DejaVu Sans",
            **dict.fromkeys(["font.size", "axes.titlesize", "axes.labelsize"], 9),
            **dict.fromkeys(["xtick.labelsize", "ytick.labelsize", "legend.fontsize"], 8),
            **dict.fromkeys(["text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"], INK),
            **dict.fromkeys(["axes.edgecolor", "xtick.color", "ytick.color", "grid.color"], GREY),
            **dict.fromkeys(["axes.spines.top", "axes.spines.right", "legend.frameon"], False),
            **{"axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.6, "figure.dpi": 100},
        }
    )


class Style(NamedTuple):
    """Colour and marker of an arm, the same in every plot of every comparison."""

    color: str
    marker: str


def styles(activations: Sequence[str]) -> dict[str, Style]:
    """Return the colour and marker of each activation: they depend on its name alone, in every report.

    The family is blue to green and round, its rivals are warm and angular, ReLU is grey.

    Example:
        >>> styles(["relu", "gem"])
        {'relu': Style(color='#7d8590', marker='D'), 'gem': Style(color='#3f9be0', marker='o')}
    """
    found: dict[str, Style] = {}
    for name in activations:
        member = name.partition("(")[0] in MEMBERS
        palette, markers, first = (FAMILY, "o8h", _MEMBERS) if member else (RIVALS, "s^vPX<>", _COMMON)
        number = first.index(name) if name in first else len(first) + zlib.crc32(name.encode())
        color, marker = palette[number % len(palette)], markers[number // len(palette) % len(markers)]
        found[name] = Style(GREY, "D") if name == "relu" else Style(color, marker)
    return found


def render(figure: Figure, suffix: str) -> bytes:
    """Return a figure as the bytes of a file, "png" (200 dots per inch) or "svg".

    Raises: SettingError: another suffix.
    """
    if suffix not in ("png", "svg"):
        raise SettingError(f"a plot is written as .png or .svg, not as .{suffix}")
    metadata = {"Software": None} if suffix == "png" else {"Date": None, "Creator": None}
    buffer = io.BytesIO()
    with look():
        figure.savefig(buffer, format=suffix, dpi=200, metadata=metadata)  # pyright: ignore[reportArgumentType] # None removes an entry
    return buffer.getvalue()


def sample(label: str, color: str = GREY, **style: Any) -> Line2D:
    """Return a line for a legend, which is drawn nowhere else."""
    return Line2D([], [], color=color, label=label, **style)


def row_figure(names: Sequence[str]) -> tuple[Figure, Axes]:
    """Return a figure with one named row for each name, from top to bottom."""
    figure = Figure(figsize=(WIDTH, 1.25 + 0.38 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure, axes


def panel_grid(names: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Return a figure with one named panel for each name, on common axes: two in a row, three for many short names."""
    columns = 3 if len(names) > 10 and max(map(len, names)) <= _SHORT_NAME else 2
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(WIDTH, 1.0 + 1.55 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for axes in grid[len(names) :]:
        axes.remove()
    for axes, name in zip(grid, names, strict=False):
        axes.set_title(name, loc="left")
    return figure, grid[: len(names)]


def label_columns(panels: Sequence[Axes], label: str) -> None:
    """Label the x axis of the lowest panel of each column of a grid."""
    for axes in panels[-panels[0].get_subplotspec().get_gridspec().ncols :]:  # pyright: ignore[reportOptionalMemberAccess] -- a panel of a grid has its place
        axes.set_xlabel(label)
        axes.tick_params(labelbottom=True)
