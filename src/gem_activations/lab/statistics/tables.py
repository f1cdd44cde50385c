"""The tables of a report: one row a run, an epoch, a layer or an activation; for files, the terminal, Markdown, LaTeX.

Tables of files hold stored units (accuracies are fractions); those for readers hold shown ones, through `words`.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from ..store.comparison import Comparison
from . import formatting
from .analysis import Analysis, Arm
from .metrics import Metric, measures_beside
from .verdicts import Verdict

DEPTH_PARTS = ("gradient", "dead")
_DEPTH_SCHEMA = {
    "activation": pl.String,
    "seed": pl.Int64,
    "part": pl.String,
    "position": pl.Int64,
    "layer": pl.String,
    "start": pl.Float64,
    "end": pl.Float64,
}
_COUNTS = ("finished", "failed", "collapsed", "at_chance", "infrastructure", "missing")
_TESTS = {"standard_error": "error", "degrees_of_freedom": "freedom", "pooled_spread": "pooled", "p": "p_adjusted"}
_LATEX = {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}", **{mark: rf"\{mark}" for mark in "&%$#_{}"}}


class Column(NamedTuple):
    """A column of a table for readers: heading, and the cell of an arm."""

    heading: str
    cell: Callable[[Arm], str]


def results_frame(comparison: Comparison) -> pl.DataFrame:
    """Return the results as a table, one row a run: activation, seed, status, reason, every figure, epochs, seconds."""
    return _frame([run.row() for run in comparison.results], ("activation", "seed", "status", "reason"))


def epochs_frame(comparison: Comparison) -> pl.DataFrame:
    """Return the finished epochs as a table of one row an epoch: activation, seed, and what was logged."""
    rows = [
        {"activation": activation, "seed": seed, **epoch}
        for (activation, seed), curve in comparison.curves.items()
        for epoch in curve
    ]
    return _frame(rows, ("activation", "seed", "epoch"))


def depth_frame(comparison: Comparison) -> pl.DataFrame:
    """Return what was measured by depth as a table of one row a layer of a run, at the run's start and end.

    `part` is "gradient" (norm of the loss gradient of a layer's weights) or "dead" (share of an activation's units
    that are dead); `position` counts the layers of the part from 0 at the input.
    """
    rows = [
        (*run, part, position, *layer)
        for run, depth in comparison.depths.items()
        for part, columns in (
            ("gradient", (depth.layers, depth.start_gradients, depth.gradients)),
            ("dead", (depth.activations, depth.start_dead, depth.dead)),
        )
        for position, layer in enumerate(zip(*columns, strict=True))
    ]
    return pl.DataFrame(rows, schema=_DEPTH_SCHEMA, orient="row")


def summary_frame(analysis: Analysis) -> pl.DataFrame:
    """Return the statistics as a table of one row an activation, in stored units."""
    rows: list[dict[str, Any]] = []
    name = analysis.metric.name
    for arm in analysis.arms:
        difference = arm.difference
        interval, chance = (getattr(difference, part, None) for part in ("interval", "probability_interval"))
        row = {
            "activation": arm.activation,
            **{column: getattr(arm, column) for column in _COUNTS},
            f"test_{name}_mean": arm.mean,
            f"test_{name}_sd": arm.sd,
            "pairs": getattr(difference, "pairs", None),
            "difference_mean": getattr(difference, "mean", None),
            "interval_low": interval and interval.low,
            "interval_high": interval and interval.high,
            **{column: getattr(difference, part, None) for column, part in _TESTS.items()},
            "margin": analysis.criterion.margin or None,
            "equivalence_p": getattr(difference, "equivalence_p", None),
            "verdict": str(difference.verdict) if difference else "",
            "smallest_shown": getattr(difference, "smallest_shown", None),
            "probability_better": getattr(difference, "probability_better", None),
            "probability_low": chance and chance.low,
            "probability_high": chance and chance.high,
        }
        for measure in recorded(analysis):
            found = arm.measures.get(measure.name)
            row[f"{measure.name}_mean"] = found.mean if found else None
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def recorded(analysis: Analysis) -> list[Metric]:
    """List the further figures that at least one arm has, in the order of the report."""
    beside = {measure.name: measure for measure in measures_beside(analysis.metric)}
    names = dict.fromkeys(name for arm in analysis.arms for name in arm.measures)
    own = [Metric(name, name, name, decimals=1 if " to " in name else 4) for name in names if name not in beside]
    return [*(measure for name, measure in beside.items() if name in names), *own]


def result_columns(analysis: Analysis) -> list[Column]:
    """Return the columns of the table of results, the activation's name first; only those that say something."""
    metric, baseline, arms = analysis.metric, analysis.baseline, analysis.arms
    unit = f", {metric.difference_unit}" if metric.difference_unit else ""
    columns = [
        Column("activation", lambda arm: arm.activation),
        Column(f"{metric.heading}, mean ± sd (n)", lambda arm: formatting.value_text(arm, metric)),
        Column(
            f"minus {baseline}{unit} [{analysis.interval_name}]",
            lambda arm: "baseline" if arm.difference is None else formatting.difference_text(arm.difference),
        ),
        Column("verdict", formatting.verdict_text),
        _compared("p", lambda one: formatting.p_text(one.p_adjusted)),
        _compared("pairs", lambda one: str(one.pairs)),
        _compared("probability better [95 % interval]", formatting.chance_text),
        _compared(
            "shown at 80 % power",
            lambda one: (
                formatting.NOTHING
                if one.smallest_shown is None
                else formatting.amount(one.smallest_shown, metric).partition(" ")[0]
            ),
        ),
    ]
    for heading, count in (
        ("failed", lambda arm: arm.failed),
        ("collapsed", lambda arm: arm.collapsed),
        ("at chance", lambda arm: arm.at_chance),
        ("left out", lambda arm: arm.infrastructure),
        ("no result yet", lambda arm: arm.missing),
    ):
        if heading == "failed" or any(map(count, arms)):
            columns.append(Column(heading, lambda arm, count=count: str(count(arm))))
    return columns


def measure_columns(analysis: Analysis) -> list[Column]:
    """Return the columns of the table of further figures; the activation's name alone if nothing was recorded."""

    def column(measure: Metric) -> Column:
        def cell(arm: Arm) -> str:
            found = arm.measures.get(measure.name)
            if found is None:
                return formatting.NOTHING
            part = f" ({found.runs} of {arm.finished})" if found.runs < arm.finished else ""
            return formatting.mean_text(found.mean, found.sd, measure) + part

        return Column(measure.heading, cell)

    return [Column("activation", lambda arm: arm.activation), *map(column, recorded(analysis))]


def markdown_table(columns: Sequence[Column], arms: Sequence[Arm]) -> str:
    """Write a table in Markdown, figures to the right."""
    rows = [
        [column.heading for column in columns],
        ["---", *["---:"] * (len(columns) - 1)],
        *([column.cell(arm) for column in columns] for arm in arms),
    ]
    return "".join(f"| {' | '.join(map(markdown_text, row))} |\n" for row in rows)


def markdown_text(text: str) -> str:
    r"""Write plain text for Markdown: nothing in it is a mark, a tag or the end of a cell.

    Example:
        >>> print(markdown_text("<b>*a*|b_c"))
        &lt;b>\*a\*\|b\_c
    """
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", text).replace("<", "&lt;")


def guarded(frame: pl.DataFrame) -> pl.DataFrame:
    """Put an apostrophe before texts and headings that a spreadsheet would take for a formula."""
    formula = r"^[=+\-@\t\r]"
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    return frame.with_columns(
        pl.when(pl.col(name).str.contains(formula)).then("'" + pl.col(name)).otherwise(pl.col(name)).alias(name)
        for name in texts
    ).rename({name: f"'{name}" for name in frame.columns if re.match(formula, name)})


def latex_table(analysis: Analysis) -> str:
    """Write the results as a LaTeX `tabular` with rules of the package booktabs, to be put in a `table` by its user."""
    chosen = result_columns(analysis)[:5]
    rows = [[latex_text(column.cell(arm)) for column in chosen] for arm in analysis.arms]
    heads = [latex_text(column.heading) for column in chosen]
    margin = analysis.criterion.margin
    note = f"; margin of equivalence {formatting.amount(margin, analysis.metric)}" if margin else ""
    lines = [
        f"% Needs \\usepackage{{booktabs}}. p and intervals hold for all {len(analysis.compared)} arms{note}.",
        f"\\begin{{tabular}}{{l{'r' * (len(chosen) - 2)}l}}",
        "\\toprule",
        f"{' & '.join(heads)} \\\\",
        "\\midrule",
        *(f"{' & '.join(row)} \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    r"""Write plain text for LaTeX: special characters escaped, signs of numbers and relations in math mode.

    Example:
        >>> print(latex_text("leaky_relu -0.05 ± 0.01 % < 1"))
        leaky\_relu $-$0.05 $\pm$ 0.01 \% $<$ 1
    """
    escaped = "".join(_LATEX.get(mark, mark) for mark in text)
    escaped = re.sub(r"(?<![\w.)])([+-])(?=\d)", r"$\1$", escaped)
    return re.sub(r"[<>]", r"$\g<0>$", escaped).replace("±", r"$\pm$")


def terminal_table(analysis: Analysis, width: int) -> Table:
    """Return the table for a terminal of a width: one row an activation, the baseline marked.

    On 80 columns every figure stands whole on one line and long names go on in the next; on 60 the interval does too.
    """
    metric, caption = analysis.metric, None
    if analysis.compared:
        caption = "better, worse: shown, all arms together"
        caption += (
            f"; equiv.: within {formatting.amount(margin, metric)}" if (margin := analysis.criterion.margin) else ""
        )
        caption += "; open: not decided" if Verdict.UNDECIDED in analysis.verdicts.values() else ""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,  # The box itself leaves one blank between columns.
        caption=caption,
        caption_justify="left",
    )
    # A width of its own: if rich shrank this column too, it would cut figures. The others take 62 at their widest.
    longest = max(map(len, ["activation", *(arm.activation for arm in analysis.arms)]))
    table.add_column("activation", overflow="fold", width=min(longest, max(15, width - 62)))
    # As plain text: rich would take `[interval of its look]` for markup and drop it.
    heading = metric.heading if len(metric.heading) < 18 else metric.heading.replace("_", "_\n")
    table.add_column(Text(f"{heading}\nmean ± sd (n)"), justify="right", no_wrap=True)
    points = ", pts" if metric.difference_unit == "points" else ""
    minus = Text(f"minus baseline{points}\n[{analysis.interval_name}]")
    table.add_column(minus, justify="right", overflow="fold")
    table.add_column("ver-\ndict", justify="right", no_wrap=True)
    table.add_column("fai-\nled", justify="right", no_wrap=True)
    for arm in analysis.arms:
        difference = arm.difference
        cells = (
            arm.activation,
            formatting.value_text(arm, metric),
            "baseline" if difference is None else formatting.difference_text(difference),
            formatting.NOTHING if difference is None else formatting.SHORT[difference.verdict],
            f"{arm.failed}/{arm.planned}" if arm.failed else "0",
        )
        table.add_row(*map(Text, cells))
    return table


def _compared(heading: str, cell: Callable[[Any], str]) -> Column:
    """Make a column that the baseline has no figure in."""
    return Column(heading, lambda arm: formatting.NOTHING if arm.difference is None else cell(arm.difference))


def _frame(rows: list[dict[str, Any]], first: tuple[str, ...]) -> pl.DataFrame:
    """Make a table of rows that need not have the same figures; a figure that a row lacks is null there."""
    types = {name: pl.Int64 if name in ("seed", "epoch") else pl.String for name in first}
    return pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(schema=types)
