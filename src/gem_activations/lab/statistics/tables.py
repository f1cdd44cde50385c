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

from ..store.records import Comparison
from .metrics import Measure, measures_beside
from .summary import ArmSummary, Summary
from .words import (
    NOTHING,
    SHORT,
    amount,
    difference_text,
    interval_text,
    measure_text,
    p_text,
    ratio_text,
    seeds_text,
    value_text,
    verdict_text,
)

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
_LATEX = {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}", **{mark: rf"\{mark}" for mark in "&%$#_{}"}}


class Column(NamedTuple):
    """A column of a table for readers: heading, and the cell of an arm."""

    heading: str
    cell: Callable[[ArmSummary], str]


def results_frame(comparison: Comparison) -> pl.DataFrame:
    """Give the results as a table of one row a run: activation, seed, status, reason, every figure, epochs, seconds."""
    return _frame([run.row() for run in comparison.results], ("activation", "seed", "status", "reason"))


def epochs_frame(comparison: Comparison) -> pl.DataFrame:
    """Give the finished epochs as a table of one row an epoch: activation, seed, and what was logged."""
    rows = [
        {"activation": activation, "seed": seed, **epoch}
        for (activation, seed), curve in comparison.curves.items()
        for epoch in curve
    ]
    return _frame(rows, ("activation", "seed", "epoch"))


def depth_frame(comparison: Comparison) -> pl.DataFrame:
    """Give what was measured by depth as a table of one row a layer of a run, at the run's start and end.

    `part` is "gradient" (norm of the loss gradient of a layer's weights) or "dead" (share of an activation's units
    that are dead); `position` counts the layers of the part from 0 at the input.
    """
    rows: list[dict[str, Any]] = []
    for (activation, seed), depth in comparison.depths.items():
        parts = (
            ("gradient", depth.layers, depth.start_gradients, depth.gradients),
            ("dead", depth.activations, depth.start_dead, depth.dead),
        )
        for part, names, starts, ends in parts:
            for position, (name, start, end) in enumerate(zip(names, starts, ends, strict=True)):
                rows.append(dict(zip(_DEPTH_SCHEMA, (activation, seed, part, position, name, start, end), strict=True)))
    return pl.DataFrame(rows, schema=_DEPTH_SCHEMA)


def summary_frame(summary: Summary) -> pl.DataFrame:
    """Give the statistics as a table of one row an activation, in stored units."""
    return pl.DataFrame([_summary_row(arm, summary) for arm in summary.arms], infer_schema_length=None)


def recorded(summary: Summary) -> list[Measure]:
    """List the further figures that at least one arm has, in the order of the report."""
    beside = measures_beside(summary.metric)
    return [measure for measure in beside if any(measure.name in arm.measures for arm in summary.arms)]


def result_columns(summary: Summary) -> list[Column]:
    """Give the columns of the table of results, the activation's name first."""
    metric, baseline = summary.metric, summary.baseline
    unit = f", {metric.difference_unit}" if metric.difference_unit else ""
    columns = [
        Column("activation", lambda arm: arm.activation),
        Column(f"{metric.heading}, mean ± sd (n)", lambda arm: value_text(arm, metric)),
        Column(
            f"minus {baseline}{unit} [95 % bootstrap]",
            lambda arm: "baseline" if arm.difference is None else difference_text(arm.difference),
        ),
        _compared("[95 % Student t]", lambda one: interval_text(one.student, metric)),
        _compared("pairs", lambda one: str(one.pairs)),
        _compared("p, Holm", lambda one: p_text(one.p_adjusted)),
        _compared("verdict", verdict_text),
        _compared("probability better", lambda one: ratio_text(one.probability_better)),
        _compared("seeds for 80 % power", lambda one: seeds_text(one.seeds_needed)),
        Column("step time / ReLU", lambda arm: ratio_text(arm.step_time_ratio)),
        Column("failed", lambda arm: str(arm.failed)),
    ]
    if any(arm.missing for arm in summary.arms):
        columns.append(Column("no result yet", lambda arm: str(arm.missing)))
    return columns


def measure_columns(summary: Summary) -> list[Column]:
    """Give the columns of the table of further figures; the activation's name alone where nothing was recorded."""

    def column(measure: Measure) -> Column:
        return Column(measure.heading, lambda arm: measure_text(arm.measures.get(measure.name), measure))

    return [Column("activation", lambda arm: arm.activation), *map(column, recorded(summary))]


def markdown_table(columns: Sequence[Column], arms: Sequence[ArmSummary]) -> str:
    """Write a table in Markdown, figures to the right."""
    rows = [
        [column.heading for column in columns],
        ["---", *["---:"] * (len(columns) - 1)],
        *([column.cell(arm) for column in columns] for arm in arms),
    ]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def latex_table(summary: Summary) -> str:
    """Write the results as a LaTeX `tabular` with rules of the package booktabs, to be put in a `table` by its user."""
    chosen = [column for column in result_columns(summary) if column.heading in _latex_headings(summary)]
    rows = [[latex_text(column.cell(arm)) for column in chosen] for arm in summary.arms]
    heads = [latex_text(column.heading) for column in chosen]
    note = f"margin of equivalence {amount(summary.yardstick.margin, summary.metric)}"
    lines = [
        f"% Needs \\usepackage{{booktabs}}. Test: paired t, Holm over {len(summary.compared)} arms; {note}.",
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


def terminal_table(summary: Summary, seeds: int) -> Table:
    """Give the table for the terminal: one row an activation, the baseline marked.

    On 80 columns every figure stands whole on one line; long names go on in the next line.
    """
    metric = summary.metric
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,  # The box itself leaves one blank between columns.
        caption=_caption(summary),
        caption_justify="left",
    )
    # The other columns at their widest leave 15 of 80 columns: `segem(eps=1e-4,` fits.
    table.add_column("activation", overflow="fold", min_width=15)
    for heading in (
        f"{metric.heading}\nmean ± sd (n)",
        f"minus baseline{', pts' if metric.difference_unit == 'points' else ''}\n[95 % interval]",
        "ver-\ndict",
        "step\n/ ReLU",
        "failed",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in summary.arms:
        difference = arm.difference
        cells = (
            arm.activation,
            value_text(arm, metric),
            "baseline" if difference is None else difference_text(difference),
            NOTHING if difference is None else SHORT[difference.verdict],
            ratio_text(arm.step_time_ratio),
            f"{arm.failed}/{seeds}" if arm.failed else "0",
        )
        table.add_row(*map(Text, cells))  # As plain text: rich would take `[no interval]` for markup and drop it.
    return table


def _caption(summary: Summary) -> str | None:
    if not summary.compared:
        return None
    few = any(difference.undercovers for _, difference in summary.compared)
    margin = amount(summary.yardstick.margin, summary.metric)
    note = f"better, worse: shown; equiv.: within {margin}; open: not decided (Holm over arms)"
    return f"{note}\n* fewer than 8 seeds: the bootstrap interval covers less than 95 %" if few else note


def _compared(heading: str, cell: Callable[[Any], str]) -> Column:
    """Make a column that the baseline has no figure in."""
    return Column(heading, lambda arm: NOTHING if arm.difference is None else cell(arm.difference))


def _latex_headings(summary: Summary) -> list[str]:
    columns = result_columns(summary)
    return [*(column.heading for column in columns[:4]), "p, Holm", "verdict"]


def _frame(rows: list[dict[str, Any]], first: tuple[str, ...]) -> pl.DataFrame:
    """Make a table of rows that need not have the same figures; a figure that a row lacks is null there."""
    names = dict.fromkeys((*first, *(name for row in rows for name in row)))
    columns = [{name: row.get(name) for name in names} for row in rows]
    types = {name: pl.Int64 if name in ("seed", "epoch") else pl.String for name in first}
    return pl.DataFrame(columns, schema=None if rows else types, infer_schema_length=None)


def _summary_row(arm: ArmSummary, summary: Summary) -> dict[str, Any]:
    difference, name = arm.difference, summary.metric.name
    bootstrap = difference.bootstrap if difference else None
    student = difference.student if difference else None
    row = {
        "activation": arm.activation,
        "finished": arm.finished,
        "failed": arm.failed,
        "missing": arm.missing,
        f"test_{name}_mean": arm.mean,
        f"test_{name}_sd": arm.sd,
        "pairs": difference.pairs if difference else None,
        "difference_mean": difference.mean if difference else None,
        "difference_sd": difference.sd if difference else None,
        "bootstrap_low": bootstrap.low if bootstrap else None,
        "bootstrap_high": bootstrap.high if bootstrap else None,
        "bootstrap_method": difference.method if difference else "",
        "student_low": student.low if student else None,
        "student_high": student.high if student else None,
        "t_test_p": difference.p_value if difference else None,
        "t_test_p_holm": difference.p_adjusted if difference else None,
        "margin": summary.yardstick.margin,
        "tost_p": difference.equivalence_p if difference else None,
        "tost_p_holm": difference.equivalence_p_adjusted if difference else None,
        "verdict": str(difference.verdict) if difference else "",
        "difference_shown": difference.shown if difference else None,
        "probability_better": difference.probability_better if difference else None,
        "seeds_needed": difference.seeds_needed if difference else None,
        "seeds_for_equivalence": difference.seeds_for_equivalence if difference else None,
        "step_time_ratio": arm.step_time_ratio,
    }
    for measure in recorded(summary):
        found = arm.measures.get(measure.name)
        row[f"{measure.name}_mean"] = found.mean if found else None
    return row
