"""The report of a comparison: tables, sentences, plots and one self-contained page, all made from the store alone."""

import base64
import hashlib
import io
import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from filelock import FileLock
from markupsafe import Markup, escape

from ... import __version__
from ...catalog import ENTRIES
from ...errors import StoreError
from ..claims import Finding, judge_comparison
from ..recipes.pipeline import Pipeline
from ..statistics import formatting, tables
from ..statistics.analysis import Analysis
from ..statistics.reading import DEPTH, ENVIRONMENT, EPOCHS, RESULTS, analyse_comparison, read_comparison
from ..store.comparison import Comparison, flatten, write_atomically
from ..store.rates import FILE as RATES
from .drawing import INK, render
from .plots import comparison_figures

FILES = {
    "report.html": "the page: table, verdicts, plots, recipe, environment",
    "report.md": "the same words and tables in Markdown",
    "summary.csv": "one row an activation",
    "summary.tex": "the table in LaTeX",
    "results.csv": "one row a run",
    RESULTS: "the same",
    EPOCHS: "one row an epoch of a run",
    DEPTH: "one row a layer of a run, if it was measured",
    ENVIRONMENT: "versions, hardware, command",
}
"""The files of a report beside `plots/`, and what is in them."""

_CAPTIONS = {
    "value": "Each seed, the mean, and Student's 95 % interval of the mean of each activation by itself.",
    "differences": "The metric minus the baseline's of the same seed, with intervals that hold for all arms together. "
    "Grey: the margin of equivalence.",
    "slopes": "A line a seed, from the baseline's run to the arm's: what was shared by both runs cancels.",
    "pareto": "Mean of the metric against its cost. Named and ringed: no other activation is better at no more cost.",
    "n-ablation": "The metric against n: mean and Student's 95 % interval, each seed as a dash. Lines: other arms.",
    "eps-ablation": "The metric against eps: mean and Student's 95 % interval, each seed as a dash. Lines: other arms.",
    "validation-accuracy": "Validation accuracy after each epoch, mean and standard error. The frame leaves out the "
    "lowest values of the first epochs.",
    "validation-loss": "Validation loss after each epoch, mean and standard error. The frame leaves out the highest "
    "values of the first epochs.",
    "train-loss": "Training loss of each epoch, mean and standard error.",
    "gradient-norm": "Norm of the loss gradient of each layer's weights, counted from the input, with the weights that "
    "were scored: mean and standard error.",
    "dead-share": "Share of each activation's units that are dead, counted from the input, with the weights that were "
    "scored: mean and standard error.",
    "activations": "The activations that were compared, with their derivatives.",
}


@dataclass(frozen=True)
class Report:
    """A comparison with everything that is said of it, computed once.

    Attributes:
        findings: What it says of the papers' claims.
        sentences: The headline, then one line an arm, failed runs, limits and controls.
        banners: What a reader must know before the figures: smoke runs, arms at chance, mixed environments.
    """

    comparison: Comparison
    analysis: Analysis
    findings: tuple[Finding, ...]
    sentences: tuple[str, ...]
    banners: tuple[str, ...] = ()


def read_report(folder: Path, baseline: str | None = None, target: float | None = None) -> Report:
    """Read a comparison, finished or not, or kept results without their runs, and compute all that its report says.

    Args:
        baseline: Another baseline than the comparison's own.
        target: Value of the metric, as a report shows it, to which steps are counted; None: the baseline's end.
    Raises: StoreError: the folder holds no comparison, or a trial of a search without test scores, or is damaged.
    """
    found = read_comparison(folder)
    if isinstance(found.recipe, Pipeline) and found.recipe.scored == "validation":
        raise StoreError(
            f"{folder} is a trial of `gem-act tune` without test scores; its outcome is in {folder.parent / RATES}"
        )
    return analyse(found, baseline, target)


def write_report(report: Report, out: Path | None = None) -> list[Path]:
    """Write a report into a folder, that of the comparison if none is given; processes that do so take turns.

    The files of `FILES`, and `plots/NAME.png` and `.svg`; an older report is replaced. Each file appears by atomic
    rename. The same store gives the same bytes. Return the files, in the order in which they were written.

    Raises: StoreError: the folder or a file cannot be written.
    """
    folder = out or report.comparison.folder
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".report.lock"):
            for name, content in _contents(report):
                write_atomically(folder / name, content)
                written.append(folder / name)
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"the report cannot be written to {folder}: {reason}; name another folder by --out") from error
    return written


def analyse(comparison: Comparison, baseline: str | None = None, target: float | None = None) -> Report:
    """Compute all that a report says of a comparison; it may be unfinished, and have one arm or one seed."""
    analysis = analyse_comparison(comparison, baseline, target)
    looking = formatting.looking_sentences(comparison, analysis.baseline)
    scales = formatting.scale_sentences(comparison)
    sentences = (*analysis.sentences, *looking, *scales, *formatting.control_sentences(comparison.recipe))
    banners: list[str] = []
    if isinstance(comparison.recipe, Pipeline) and comparison.recipe.scale == "smoke":
        banners.append("Smoke runs: they show that the code runs, and nothing about the activations.")
    guessing = [arm.activation for arm in analysis.arms if arm.finished and arm.at_chance == arm.finished]
    if guessing:
        banners.append(f"No better than chance in every run: {', '.join(guessing)}.")
    places: dict[str, Counter[str]] = defaultdict(Counter)
    for found in filter(None, comparison.environments.values()):
        torch_version = (found.get("packages") or {}).get("torch")
        made = {"device": found.get("device_name"), "torch": torch_version, **(found.get("sources") or {})}
        for name, value in made.items():
            places[name][value[:8] if value is not None and len(value) == 64 else str(value)] += 1  # A source's hash.
    mixed = [
        f"{name}: {', '.join(f'{value} in {count} of the runs' for value, count in sorted(values.items()))}"
        for name, values in places.items()
        if len(values) > 1
    ]
    if mixed:
        banners.append(f"The runs come from different environments. {'. '.join(mixed)}.")
    if baseline is not None:
        comparison = replace(comparison, baseline=baseline)
    return Report(comparison, analysis, tuple(judge_comparison(comparison)), sentences, tuple(banners))


def _contents(report: Report) -> Iterator[tuple[str, bytes]]:
    """Make the files of the report one after the other: name in the folder, content."""
    comparison, analysis = report.comparison, report.analysis
    figures = comparison_figures(comparison, analysis)
    drawn: dict[str, bytes] = {}
    for name, figure in figures.items():
        drawn[name] = render(figure, "svg")
        yield f"plots/{_stem(name)}.png", render(figure, "png")
        yield f"plots/{_stem(name)}.svg", drawn[name]
    results = tables.results_frame(comparison)
    yield RESULTS, _parquet(results)
    yield "results.csv", tables.guarded(results).write_csv().encode()
    if any(comparison.curves.values()):
        yield EPOCHS, _parquet(tables.epochs_frame(comparison))
    if comparison.depths:
        yield DEPTH, _parquet(tables.depth_frame(comparison))
    if comparison.environment:
        yield ENVIRONMENT, (json.dumps(comparison.environment, indent=2) + "\n").encode()
    yield "summary.csv", tables.guarded(tables.summary_frame(analysis)).write_csv().encode()
    yield "summary.tex", tables.latex_table(analysis).encode()
    yield "report.md", _markdown(report, list(drawn)).encode()
    yield "report.html", _page(report, drawn).encode()


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _markdown(report: Report, plots: list[str]) -> str:
    comparison, analysis = report.comparison, report.analysis
    columns = tables.measure_columns(analysis)
    parts = [
        f"# {tables.markdown_text(comparison.recipe.title)}\n",
        *(f"> {tables.markdown_text(banner)}\n" for banner in report.banners),
        f"{tables.markdown_text(report.sentences[0])}\n",
        tables.markdown_table(tables.result_columns(analysis), analysis.arms),
        "".join(f"- {tables.markdown_text(sentence)}\n" for sentence in report.sentences[1:]),
    ]
    if report.findings:
        claims = "".join(f"- {tables.markdown_text(finding.sentence)}\n" for finding in report.findings)
        parts += ["## The papers' claims\n", claims]
    if len(columns) > 1:
        parts += ["## Also recorded\n", tables.markdown_table(columns, analysis.arms)]
    pictures = [f"![{tables.markdown_text(_caption(name, analysis))}](plots/{_stem(name)}.png)\n" for name in plots]
    again = _again(comparison)
    command = tables.markdown_text(again) if "`" in again else f"`{again}`"
    parts += ["## Plots\n", "".join(pictures), f"Made again by {command}, gem-activations {__version__}.\n"]
    return "\n".join(part for part in parts if part)


def _page(report: Report, drawn: Mapping[str, bytes]) -> str:
    comparison, analysis = report.comparison, report.analysis
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page, script = (Path(__file__).with_name(f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "js"))
    command = comparison.environment.get("command", "")
    columns, failures = tables.measure_columns(analysis), formatting.failure_lines(analysis)
    return environment.from_string(page).render(
        title=comparison.recipe.title,
        rule=comparison.recipe.rule if isinstance(comparison.recipe, Pipeline) else "",
        comparison=comparison,
        analysis=analysis,
        banners=report.banners,
        margin=formatting.amount(analysis.criterion.margin, analysis.metric) if analysis.criterion.margin else "",
        results=_cells(tables.result_columns(analysis), analysis),
        measures=_cells(columns, analysis) if len(columns) > 1 else None,
        sentences=[sentence for sentence in report.sentences if sentence not in failures],
        failures=failures,
        findings=report.findings,
        figures=[(name, _caption(name, analysis), _inline(svg, name, analysis)) for name, svg in drawn.items()],
        entries=[(arm, ENTRIES[name]) for arm in comparison.activations if (name := arm.partition("(")[0]) in ENTRIES],
        recipe=_listed(comparison.recipe),
        environment=[item for item in _listed(comparison.environment) if item[0] != "command"],
        command=command if isinstance(command, str) else shlex.join(map(str, command)),
        again=_again(comparison),
        files=FILES,
        version=__version__,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _cells(columns: list[tables.Column], analysis: Analysis) -> tuple[list[str], list[tuple[bool, list[str]]]]:
    """Return headings, and for each arm whether it is the baseline, and its cells."""
    rows = [(arm.difference is None, [column.cell(arm) for column in columns]) for arm in analysis.arms]
    return [column.heading for column in columns], rows


def _caption(name: str, analysis: Analysis) -> str:
    logged = f"{name.removeprefix('logged-')} of each epoch, mean and standard error."
    return _CAPTIONS.get("value" if name == analysis.metric.name else name, logged)


def _again(comparison: Comparison) -> str:
    return shlex.join(["gem-act", "report", str(comparison.folder)])


def _stem(name: str) -> str:
    """Return a figure's name as a file and an identifier may have it: that of a metric is the user's own."""
    return re.sub(r"[^\w.-]+", "-", name)


def _inline(svg: bytes, name: str, analysis: Analysis) -> Markup:
    """Return an SVG to stand in a page: ink and ground are the page's, its identifiers are its own, it has no size.

    Its label says what is to be seen in it, for readers who do not see it.
    """
    alternative = _caption(name, analysis)
    if name == analysis.metric.name:
        values = "; ".join(f"{arm.activation} {formatting.value_text(arm, analysis.metric)}" for arm in analysis.arms)
        alternative = f"{analysis.metric.heading}, mean, standard deviation and runs: {values}."
    elif name in ("differences", "slopes"):
        alternative = f"{alternative} {formatting.headline(analysis)}"
    text = svg.decode()
    text = text[text.index("<svg") :].replace("fill: #ffffff", "fill: none")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{_stem(name)}-", text)
    text = text.replace(INK, "currentColor")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(alternative)}"', 1))


def _listed(values: Any) -> list[tuple[str, str]]:
    """Return nested values as (dotted name, text) in their order."""
    return [
        (
            name,
            ", ".join(map(str, value))
            if isinstance(value, list)
            else formatting.NOTHING
            if value is None
            else str(value),
        )
        for name, value in flatten(values).items()
    ]
