"""`compare`: train a user's own model with several activations from several seeds, and report what the results say."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

import polars as pl
from rich.console import Console

from .report.document import Report, analyse, write_report
from .runs.engine import run_comparison
from .runs.progress import show_progress
from .runs.request import FunctionRequest
from .statistics.tables import results_frame
from .statistics.verdicts import Verdict

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison found.

    Attributes:
        folder: The output folder.
        verdicts: Activation -> verdict beside the baseline; the baseline itself has none.
        table: One row a run: activation, seed, status, reason, and every figure under its own name.
        report_path: The page of the report.
        report: The statistics behind it.
    """

    folder: Path
    verdicts: dict[str, Verdict]
    table: pl.DataFrame
    report_path: Path
    report: Report

    def __str__(self) -> str:
        """Return the report in words."""
        return "\n".join([*self.report.sentences, f"Report: {self.report_path}"])

    def _repr_html_(self) -> str:
        return self.report_path.read_text(encoding="utf-8")


def _takes(maker: Callable[_P, Any]) -> Callable[[Callable[..., _R]], Callable[_P, _R]]:
    """Return a decorator that gives a function the parameters of a class, for checkers as well as for `inspect`."""

    def give(function: Callable[..., _R]) -> Callable[_P, _R]:
        hints = get_type_hints(maker)
        parameters = [one.replace(annotation=hints[one.name]) for one in inspect.signature(maker).parameters.values()]
        signature = inspect.Signature(parameters, return_annotation=ComparisonResult)
        function.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess] -- what inspect looks for
        return function

    return give


@_takes(FunctionRequest)
def compare(*arguments: Any, **options: Any) -> ComparisonResult:
    """Train with each activation from each seed, store every run, and report what the results allow to say.

    The same call again goes on where it was stopped; more activations or seeds extend the comparison.

    Args:
        train: `train(run, ...) -> dict of figures`; see `Run`. Also `"mine.py:train"` or `"package.module:train"`.
        activations: Strings of the catalog, classes or factories of modules, `"mine.py:Snake"`, `"torch.nn.CELU"`,
            `"snake=mine.py:Snake"`; or a mapping of names to these.
        metric: The figure that the activations are compared by.
        better: Whether a "higher" or a "lower" value of it is the better one.
        seeds: Runs of each activation; None for 5.
        out: Output folder; None for runs/NAME.
        baseline: Activation that the others are compared with; None for gelu, or the first if gelu is not among them.
        margin: Differences below it are too small to matter, in the metric's unit; None for no test of equivalence.
        unit: Unit of the metric; an accuracy without a unit must be a fraction.
        options: Values of the parameters of `train` after `run`.
        device: "cpu", "cuda" or "cuda:N"; "auto": "cuda" if torch finds it.
        seed_start: First seed.
        engine, ray_address, replicas: "ray" runs on a Ray cluster whose machines share the folder.
        until_decided: Add seeds, in the place of `seeds`, until each activation is decided: results are looked at by a
            schedule that keeps the false verdicts of all looks together below 5 %, and who is decided leaves.
        max_seeds: Most seeds of each activation then; None for 40.
        retry_failed: Run failed runs again.
        allow_changed: Go on although torch, this package or the source of the experiment has changed.
        keep_checkpoints: Keep the checkpoints of finished runs.
        track: Trackers that every run is exported to.
    Raises: SettingError, ActivationNameError, SpecError: an argument is wrong; ExperimentError: `train` takes no run,
        or fails in the same way with every activation; StoreError: the folder cannot be written, or belongs to another
        comparison.
    Example:
        >>> import tempfile, torch
        >>> def train(run):
        ...     layer = torch.nn.Sequential(torch.nn.Linear(2, 4), run.activation(), torch.nn.Linear(4, 1))
        ...     return {"loss": layer(torch.ones(1, 2)).square().mean()}
        >>> arms = ["relu", torch.nn.CELU]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = compare(train, activations=arms, metric="loss", better="lower", seeds=2, out=folder)
        >>> list(result.verdicts), result.table.height
        (['CELU'], 4)
    """
    request = FunctionRequest(*arguments, **options)
    with show_progress(Console(file=sys.stderr)) as callback:
        report = analyse(run_comparison(request, callback))
    write_report(report)
    return ComparisonResult(
        folder=request.folder,
        verdicts=report.analysis.verdicts,
        table=results_frame(report.comparison),
        report_path=request.folder / "report.html",
        report=report,
    )
