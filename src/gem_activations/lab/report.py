"""The report of a comparison: tables, sentences, plots and one self-contained page, all made from the store alone."""

import dataclasses
import io
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from filelock import FileLock
from markupsafe import Markup
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from rich.text import Text

from .. import __version__
from ..catalog import parse
from .drawing import INK, render
from .plots import comparison_figures
from .statistics import ArmSummary, summarise
from .store import FAILED, Comparison, RunResult, load_comparison, write_atomically
from .words import (
    NOTHING,
    accuracy_text,
    difference_text,
    interval_text,
    ratio_text,
    seeds_text,
    summary_sentences,
)

_COLUMNS: dict[Any, type[pl.DataType]] = {
    str: pl.String,
    int: pl.Int64,
    float: pl.Float64,
    int | None: pl.Int64,
    float | None: pl.Float64,
}
_CAPTIONS = {
    "accuracy": "Test accuracy of each seed, mean, and Student's 95 % t interval of the mean. For a comparison look "
    "at the paired differences: runs of one seed share initial weights and data order.",
    "differences": "Test accuracy minus the baseline's of the same seed, with both 95 % intervals of the mean "
    "difference. A difference counts as shown where both leave 0 out.",
    "validation-accuracy": "Validation accuracy after each epoch: mean and range over the seeds. The frame leaves out "
    "the lowest values of the first epochs.",
    "train-loss": "Training loss of each epoch: mean and range over the seeds.",
    "activations": "The activations that were compared, with their derivatives.",
}


def make_report(folder: Path) -> Comparison:
    """Read a comparison and write its report; processes that do so at the same time take turns.

    Args:
        folder: An output folder of `gem-act compare`, finished or not.
    Returns: The comparison as it was reported.
    Raises: StoreError: the folder holds no comparison, is damaged, or a file cannot be written.
    """
    load_comparison(folder)  # What is no comparison is refused before a lock is left in it.
    with FileLock(folder / ".report.lock"):
        comparison = load_comparison(folder)
        write_report(comparison)
    return comparison


def write_report(comparison: Comparison) -> None:
    """Write the report of a comparison into its folder, replacing an older one.

    `report.html`, `results.parquet` and `results.csv` (one row a run), `summary.csv` (one row an activation, fractions
    and not percent), and `plots/NAME.png` and `.svg`. Each file appears by atomic rename. The same store gives the
    same bytes. The caller sees to it that no other process writes the report of this folder at the same time.

    Args:
        comparison: From `store.load_comparison`; it may be unfinished, and have one arm or one seed.
    Raises: StoreError: a file cannot be written.
    """
    for name, content in _contents(comparison):
        write_atomically(comparison.folder / name, content)


def _contents(comparison: Comparison) -> Iterator[tuple[str, bytes]]:
    """Make the files of the report one after the other: name in the folder, content."""
    arms = summarise(comparison)
    figures = comparison_figures(comparison)
    for name, figure in figures.items():
        for suffix in ("png", "svg"):
            yield f"plots/{name}.{suffix}", render(figure, suffix)
    results = results_frame(comparison)
    parquet = io.BytesIO()
    results.write_parquet(parquet)
    yield "results.parquet", parquet.getvalue()
    yield "results.csv", results.write_csv().encode()
    yield "summary.csv", summary_frame(arms).write_csv().encode()
    yield "report.html", _page(comparison, arms, figures).encode()


def results_frame(comparison: Comparison) -> pl.DataFrame:
    """Give the results as a table of one row a run, with the fields of `RunResult` as columns."""
    schema = {field.name: _COLUMNS[field.type] for field in dataclasses.fields(RunResult)}
    return pl.DataFrame([dataclasses.asdict(run) for run in comparison.results], schema=schema)


def summary_frame(arms: tuple[ArmSummary, ...]) -> pl.DataFrame:
    """Give the statistics as a table of one row an activation; accuracies and differences are fractions."""
    return pl.DataFrame([_summary_row(arm) for arm in arms], infer_schema_length=None)


def summary_table(comparison: Comparison) -> Table:
    """Give the table for the terminal: one row an activation, the baseline marked.

    On 80 columns every figure stands whole on one line; long names go on in the next line.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,  # The box itself leaves one blank between columns.
        caption=_star_note(comparison),
        caption_justify="left",
    )
    # The other columns at their widest leave 15 of 80 columns: `segem(eps=1e-4,` fits.
    table.add_column("activation", overflow="fold", min_width=15)
    for heading in (
        "test accuracy, %\nmean ± sd (n)",
        "minus baseline, pts\n[95 % interval]",
        "prob.\nbetter",
        "step\n/ ReLU",
        "failed",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in summarise(comparison):
        difference = arm.difference
        cells = (
            arm.activation,
            accuracy_text(arm),
            "baseline" if difference is None else difference_text(difference),
            ratio_text(difference.probability_better if difference else None),
            ratio_text(arm.step_time_ratio),
            f"{arm.failed}/{comparison.seeds}" if arm.failed else "0",
        )
        table.add_row(*map(Text, cells))  # As plain text: rich would take `[no interval]` for markup and drop it.
    return table


def summary_words(comparison: Comparison) -> list[str]:
    """Say in sentences what the comparison shows, what it does not, and what limits it."""
    return summary_sentences(summarise(comparison), comparison.baseline)


def _star_note(comparison: Comparison) -> str | None:
    few = any(arm.difference and arm.difference.undercovers for arm in summarise(comparison))
    return "* fewer than 8 seeds: the bootstrap interval covers less than 95 %" if few else None


def _summary_row(arm: ArmSummary) -> dict[str, Any]:
    difference = arm.difference
    bootstrap = difference.bootstrap if difference else None
    student = difference.student if difference else None
    return {
        "activation": arm.activation,
        "finished": arm.finished,
        "failed": arm.failed,
        "missing": arm.missing,
        "test_accuracy_mean": arm.mean,
        "test_accuracy_sd": arm.sd,
        "pairs": difference.pairs if difference else None,
        "difference_mean": difference.mean if difference else None,
        "difference_sd": difference.sd if difference else None,
        "bootstrap_low": bootstrap.low if bootstrap else None,
        "bootstrap_high": bootstrap.high if bootstrap else None,
        "bootstrap_method": difference.method if difference else "",
        "student_low": student.low if student else None,
        "student_high": student.high if student else None,
        "difference_shown": difference.shown if difference else None,
        "probability_better": difference.probability_better if difference else None,
        "seeds_needed": difference.seeds_needed if difference else None,
        "step_time_ratio": arm.step_time_ratio,
    }


def _page(comparison: Comparison, arms: tuple[ArmSummary, ...], figures: Mapping[str, Figure]) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        accuracy=accuracy_text, difference=difference_text, interval=interval_text, ratio=ratio_text, seeds=seeds_text
    )
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    command = comparison.environment.get("command", "")
    return template.render(
        title=comparison.recipe.get("title") or comparison.recipe.get("name") or "Comparison",
        rule=comparison.recipe.get("rule", ""),
        comparison=comparison,
        arms=arms,
        sentences=summary_sentences(arms, comparison.baseline),
        failed=[run for run in comparison.results if run.status == FAILED],
        figures=[(name, _CAPTIONS[name], _inline(name, figure)) for name, figure in figures.items()],
        entries=[(name, parse(name).entry) for name in comparison.activations],
        recipe=list(_flatten(comparison.recipe)),
        environment=[item for item in _flatten(comparison.environment) if item[0] != "command"],
        command=command if isinstance(command, str) else shlex.join(map(str, command)),
        again=shlex.join(["gem-act", "report", str(comparison.folder)]),
        version=__version__,
    )


def _inline(name: str, figure: Figure) -> Markup:
    """Give a figure as SVG to stand in a page: its ink is the page's, its identifiers are its own, it has no size."""
    text = render(figure, "svg", transparent=True).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace(INK, "currentColor")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{name}"', 1))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give nested values as (dotted name, text) in their order."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", NOTHING if value is None else str(value)
