"""`compare`: train a user's own model with several activations from several seeds, and report what the results say."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
from rich.console import Console

from .report.document import Report, make_report
from .runs.engine import run_comparison
from .runs.experiment import make_arms
from .runs.progress import show_progress
from .runs.request import Choice, FunctionRequest
from .statistics.tables import results_frame
from .statistics.verdicts import Verdict


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


def compare(
    train: Callable[..., Mapping[str, Any]] | str,
    *,
    activations: Sequence[Choice] | Mapping[str, Choice],
    metric: str,
    better: Literal["higher", "lower"],
    seeds: int | None = None,
    out: str | os.PathLike[str] | None = None,
    baseline: str | None = None,
    margin: float | None = None,
    unit: str = "",
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed_start: int = 0,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    replicas: int = 1,
    until_decided: bool = False,
    max_seeds: int | None = None,
    retry_failed: bool = False,
    allow_changed: bool = False,
    keep_checkpoints: bool = False,
    track: Sequence[Literal["tensorboard", "wandb", "mlflow"]] = (),
) -> ComparisonResult:
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
    request = FunctionRequest(
        train if isinstance(train, str) else "",
        function=None if isinstance(train, str) else train,
        arms=make_arms(activations),
        metric=metric,
        better=better,
        seeds=seeds,
        out=None if out is None else Path(out),
        baseline=baseline,
        margin=margin,
        unit=unit,
        options=options or {},
        device=device,
        seed_start=seed_start,
        engine=engine,
        ray_address=ray_address,
        replicas=replicas,
        until_decided=until_decided,
        max_seeds=max_seeds,
        retry_failed=retry_failed,
        allow_changed=allow_changed,
        keep_checkpoints=keep_checkpoints,
        track=tuple(track),
    )
    with show_progress(Console(file=sys.stderr)) as callback:
        run_comparison(request, callback)
    report, _ = make_report(request.folder)
    return ComparisonResult(
        folder=request.folder,
        verdicts=report.analysis.verdicts,
        table=results_frame(report.comparison),
        report_path=request.folder / "report.html",
        report=report,
    )
