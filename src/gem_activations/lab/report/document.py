"""The report of a comparison: tables, sentences, plots and one self-contained page, all made from the store alone."""

import io
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from filelock import FileLock
from markupsafe import Markup
from matplotlib.figure import Figure

from ... import __version__
from ...errors import StoreError
from ..claims.evidence import Finding, judge_comparison
from ..statistics.archive import DEPTH, ENVIRONMENT, EPOCHS, RESULTS, read_comparison
from ..statistics.summary import Summary, summarise
from ..statistics.tables import (
    Column,
    depth_frame,
    epochs_frame,
    latex_table,
    markdown_table,
    measure_columns,
    result_columns,
    results_frame,
    summary_frame,
)
from ..statistics.words import NOTHING, amount, control_sentences, summary_sentences
from ..store.comparison import write_atomically
from ..store.rates import FILE as RATES
from ..store.records import FAILED, Comparison
from .drawing import INK, find_known, render
from .plots import comparison_figures

FILES = {
    "report.html": "the page: table, verdicts, plots, recipe, environment",
    "report.md": "the same words and tables in Markdown",
    "summary.csv": "one row an activation",
    "summary.tex": "the table in LaTeX",
    "results.csv": "one row a run",
    RESULTS: "the same",
    EPOCHS: "one row an epoch of a run",
    DEPTH: "one row a layer of a run, where it was measured",
    ENVIRONMENT: "versions, hardware, command",
}
"""The files of a report beside `plots/`, and what is in them."""

_CAPTIONS = {
    "value": "Each seed, mean, and Student's 95 % t interval of the mean. For a comparison look at the paired "
    "differences: runs of one seed share initial weights and data order.",
    "differences": "The metric minus the baseline's of the same seed, with both 95 % intervals of the mean difference, "
    "before the correction for the number of arms. Grey: the margin of equivalence.",
    "n-ablation": "The metric against n: mean and Student's 95 % t interval, each seed as a dash. Lines: other arms.",
    "eps-ablation": "The metric against eps: mean and Student's 95 % t interval, each seed as a dash. Lines: other "
    "arms.",
    "validation-accuracy": "Validation accuracy after each epoch: mean and range over the seeds. The frame leaves out "
    "the lowest values of the first epochs.",
    "validation-loss": "Validation loss after each epoch: mean and range over the seeds. The frame leaves out the "
    "highest values of the first epochs.",
    "train-loss": "Training loss of each epoch: mean and range over the seeds.",
    "gradient-norm": "Norm of the loss gradient of each layer's weights, counted from the input, with the weights that "
    "were scored: mean and range over the seeds.",
    "dead-share": "Share of each activation's units that are dead, counted from the input, with the weights that were "
    "scored: mean and range over the seeds.",
    "activations": "The activations that were compared, with their derivatives.",
}


@dataclass(frozen=True)
class Report:
    """A comparison with everything that is said of it, computed once.

    Attributes:
        comparison: What the store holds.
        summary: Its statistics.
        findings: What it says of the papers' claims.
        sentences: The headline, then verdicts, limits and controls in words.
    """

    comparison: Comparison
    summary: Summary
    findings: tuple[Finding, ...]
    sentences: tuple[str, ...]


def make_report(folder: Path) -> tuple[Report, list[Path]]:
    """Read a comparison and write its report; processes that do so at the same time take turns.

    Args:
        folder: An output folder of `gem-act compare`, finished or not, or one of kept results without their runs.
    Returns: What was reported, and the files that were written.
    Raises: StoreError: the folder holds no comparison, or a trial of a search without test scores, is damaged, or a
        file cannot be written.
    """
    found = read_comparison(folder)  # What is no comparison is refused before a lock is left in it.
    if found.recipe.get("scored") == "validation":
        raise StoreError(
            f"{folder} is a trial of `gem-act tune` without test scores; its outcome is in {folder.parent / RATES}"
        )
    with FileLock(folder / ".report.lock"):
        report = analyse(read_comparison(folder))
        return report, write_report(report)


def analyse(comparison: Comparison) -> Report:
    """Compute all that a report says of a comparison; it may be unfinished, and have one arm or one seed."""
    summary = summarise(comparison)
    sentences = (*summary_sentences(summary), *control_sentences(comparison.recipe))
    return Report(comparison, summary, tuple(judge_comparison(comparison)), sentences)


def write_report(report: Report) -> list[Path]:
    """Write a report into its comparison's folder, replacing an older one.

    The files of `FILES`, and `plots/NAME.png` and `.svg`. Each file appears by atomic rename. The same store gives the
    same bytes. The caller sees to it that no other process writes the report of this folder at the same time.

    Returns: The files, in the order in which they were written.
    Raises: StoreError: a file cannot be written.
    """
    written: list[Path] = []
    for name, content in _contents(report):
        path = report.comparison.folder / name
        write_atomically(path, content)
        written.append(path)
    return written


def _contents(report: Report) -> Iterator[tuple[str, bytes]]:
    """Make the files of the report one after the other: name in the folder, content."""
    comparison, summary = report.comparison, report.summary
    figures = comparison_figures(comparison, summary)
    for name, figure in figures.items():
        for suffix in ("png", "svg"):
            yield f"plots/{name}.{suffix}", render(figure, suffix)
    results = results_frame(comparison)
    yield RESULTS, _parquet(results)
    yield "results.csv", results.write_csv().encode()
    if any(comparison.curves.values()):
        yield EPOCHS, _parquet(epochs_frame(comparison))
    if comparison.depths:
        yield DEPTH, _parquet(depth_frame(comparison))
    if comparison.environment:
        yield ENVIRONMENT, (json.dumps(comparison.environment, indent=2) + "\n").encode()
    yield "summary.csv", summary_frame(summary).write_csv().encode()
    yield "summary.tex", latex_table(summary).encode()
    yield "report.md", _markdown(report, list(figures)).encode()
    yield "report.html", _page(report, figures).encode()


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _markdown(report: Report, plots: list[str]) -> str:
    comparison, summary = report.comparison, report.summary
    columns = measure_columns(summary)
    parts = [
        f"# {_title(comparison)}\n",
        f"{report.sentences[0]}\n",
        markdown_table(result_columns(summary), summary.arms),
        "".join(f"- {sentence.replace('* ', '&ast; ')}\n" for sentence in report.sentences[1:]),
    ]
    if report.findings:
        parts += ["## The papers' claims\n", "".join(f"- {finding.sentence}\n" for finding in report.findings)]
    if len(columns) > 1:
        parts += ["## Also recorded\n", markdown_table(columns, summary.arms)]
    parts += ["## Plots\n", "".join(f"![{_caption(name, summary)}](plots/{name}.png)\n" for name in plots)]
    parts += [f"Made again by `{_again(comparison)}`, gem-activations {__version__}.\n"]
    return "\n".join(part for part in parts if part)


def _page(report: Report, figures: Mapping[str, Figure]) -> str:
    comparison, summary = report.comparison, report.summary
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    command = comparison.environment.get("command", "")
    columns = measure_columns(summary)
    return template.render(
        title=_title(comparison),
        rule=comparison.recipe.get("rule", ""),
        comparison=comparison,
        summary=summary,
        margin=amount(summary.yardstick.margin, summary.metric),
        results=_cells(result_columns(summary), summary),
        measures=_cells(columns, summary) if len(columns) > 1 else None,
        sentences=report.sentences,
        findings=report.findings,
        failed=[run for run in comparison.results if run.status == FAILED],
        figures=[(name, _caption(name, summary), _inline(name, figure)) for name, figure in figures.items()],
        entries=[(name, known.entry) for name in comparison.activations if (known := find_known(name))],
        recipe=list(_flatten(comparison.recipe)),
        environment=[item for item in _flatten(comparison.environment) if item[0] != "command"],
        command=command if isinstance(command, str) else shlex.join(map(str, command)),
        again=_again(comparison),
        files=FILES,
        version=__version__,
    )


def _cells(columns: list[Column], summary: Summary) -> tuple[list[str], list[tuple[bool, list[str]]]]:
    """Give headings, and for each arm whether it is the baseline, and its cells."""
    rows = [(arm.difference is None, [column.cell(arm) for column in columns]) for arm in summary.arms]
    return [column.heading for column in columns], rows


def _caption(name: str, summary: Summary) -> str:
    return _CAPTIONS.get("value" if name == summary.metric.name else name) or f"{name} of each epoch: mean and range."


def _title(comparison: Comparison) -> str:
    return comparison.recipe.get("title") or comparison.recipe.get("name") or "Comparison"


def _again(comparison: Comparison) -> str:
    return shlex.join(["gem-act", "report", str(comparison.folder)])


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
