"""The commands of `gem-act`, each a dataclass that the command line is made from.

Frameworks are imported when a command runs, so that help and errors come at once.
"""

import contextlib
import dataclasses
import io
import json
import shutil
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, OmitArgPrefixes, Positional, Suppress, arg, subcommand

from . import catalog
from .bench.command import BenchRequest
from .console import grouped, make_console, print_json, print_lines, print_report, ungrouped, with_parameters
from .edge.command import HeaderRequest, write_header
from .errors import SettingError
from .grammar import format_call, quote, suggest
from .lab.runs.request import RECIPE, Arms, Execution, FunctionRequest, Request


@dataclass(frozen=True)
class Compare(Request):
    """Train one model with several activations from several seeds, and report what the data allow to say.

    The same command run again continues where it was stopped; more activations or seeds extend the comparison.
    """

    def run(self) -> int:
        """Run the comparison, then write and print its report."""
        return _compare(self)


@dataclass(frozen=True)
class CompareFunction(FunctionRequest):
    """Train with several activations from several seeds by a function of your own, and report what the data say.

    The same command run again continues where it was stopped; more activations or seeds extend the comparison.
    """

    train: Annotated[Positional[str], arg(metavar="MODULE:FUNCTION")]
    """The training function, as mine.py:train or package.module:train."""
    activations: Arms = dataclasses.field(default=None, kw_only=True)
    options: Suppress[Mapping[str, Any]] = dataclasses.field(default_factory=dict[str, Any], kw_only=True)

    def run(self) -> int:
        """Run the comparison, then write and print its report."""
        known = {field.name: getattr(self, field.name) for field in fields(FunctionRequest)}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in known}
        return _compare(FunctionRequest(**{**known, "options": own}))


def _compare(request: Execution) -> int:
    from .lab.report.document import analyse
    from .lab.runs.engine import ProgressCallback, run_comparison
    from .lab.runs.progress import show_progress
    from .lab.training.group import is_rank_zero

    try:
        if not is_rank_zero():
            run_comparison(request, ProgressCallback())
            return 0
        with show_progress(make_console(sys.stderr)) as callback:
            comparison = run_comparison(request, callback)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"run the same command again to go on in {request.folder}") from None
    return print_report(analyse(comparison))


@dataclass(frozen=True)
class Tune(Request):
    """Search the learning rate of each activation, with equally many trials for every one, on the validation split.

    The test set is left alone. The rates go to a file that `gem-act compare --rates` takes. A trial is one run, or as
    many as --seeds says. The same command run again continues; more activations or trials extend the search.
    """

    recipe: Annotated[Positional[str], RECIPE]
    trials: int = 5
    """Learning rates of each activation, an odd number: the recipe's own in the middle."""
    factor: float = 2.0
    """Ratio of neighbouring learning rates."""
    baseline: Suppress[str | None] = dataclasses.field(default=None, kw_only=True)
    rates: Suppress[Path | None] = None
    until_decided: Suppress[bool] = dataclasses.field(default=False, kw_only=True)
    max_seeds: Suppress[int | None] = dataclasses.field(default=None, kw_only=True)

    def run(self) -> None:
        """Run the search, then print the chosen rates."""
        from .lab.runs.progress import show_progress
        from .lab.runs.tuning import tune, tuning_folder, tuning_lines

        if ":" in self.recipe:
            raise SettingError(
                f"gem-act tune searches the rates of the lab's recipes, and {self.recipe} is a training function of "
                "your own: make the rate a parameter of it, and compare at each rate by a figure of validation data"
            )
        folder = tuning_folder(self)
        try:
            with show_progress(make_console(sys.stderr)) as callback:
                tuning = tune(self, self.trials, self.factor, callback)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"run the same command again to go on in {folder}") from None
        hint = f"Take them with `gem-act compare {self.recipe} --rates {folder}` and the same options."
        print_lines([*tuning_lines(tuning), hint], make_console(sys.stdout))


@dataclass(frozen=True)
class Report:
    """Make the report of a comparison again from what its folder stores, or that of a table of results from elsewhere.

    A table is a CSV or Parquet file with one row a run; an empty metric is a failed run. Several folders are ranked
    over tasks.
    """

    sources: Annotated[Positional[tuple[Path, ...]], arg(metavar="FOLDER [FOLDER ...] | TABLE", help_behavior_hint="")]
    """Output folders of comparisons, finished or not, or one table."""
    baseline: str | None = None
    """Activation that the others are compared with; the comparison's own, or gelu, if not given."""
    json: Annotated[bool, FlagCreatePairsOff] = False
    """Print statistics, sentences and files as JSON."""
    out: Path | None = None
    """Folder for the report; the comparison's own, or TABLE-report, if not given."""
    target: float | None = None
    """Value of the metric to which steps are counted; the mean at which the baseline's runs end if not given."""
    arm: str = "activation"
    """Column of a table with what is compared."""
    seed: str = "seed"
    """Column of a table with the seed."""
    metric: str = "accuracy"
    """Column of a table with the metric."""
    better: str | None = None
    """Whether a higher or a lower value of a table's metric is better, if its name does not say so."""
    margin: float = 0.0
    """Differences in a table's metric that are too small to matter; 0 for no test of equivalence."""
    unit: str | None = None
    """Unit of a table's metric, such as %."""
    chance: float | None = None
    """Value of a table's metric by guessing."""

    def run(self) -> int:
        """Write and print the report."""
        from .lab.report.document import analyse, read_report, write_report
        from .lab.statistics.across import across_lines, rank_arms
        from .lab.statistics.reading import read_table

        if len(self.sources) > 1:
            if self.out is not None:
                raise SettingError("--out: each comparison's page is written to its own folder; leave it out")
            reports = [read_report(folder, self.baseline, self.target) for folder in self.sources]
            found = {str(report.comparison.folder): report.analysis for report in reports}
            lines = across_lines(found)
            if not self.json:
                print_lines(lines, make_console(sys.stdout))
            pages = [path for report in reports for path in write_report(report) if path.suffix == ".html"]
            if self.json:
                standings, critical = rank_arms(found)
                rows = [standing._asdict() for standing in standings]
                print_json({"standings": rows, "critical_difference": critical, "sentences": lines, "pages": pages})
            else:
                print_lines(["Pages:", *(f"  {page}" for page in pages)], make_console(sys.stdout))
            return 0
        (source,) = self.sources or (Path(),)
        if source.is_dir() or not source.suffix:
            return print_report(read_report(source, self.baseline, self.target), self.json, self.out)
        out = self.out or source.with_name(f"{source.stem}-report")
        names = ("arm", "seed", "metric", "better", "baseline", "margin", "unit", "chance")
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        table = read_table(source, out, **given)
        return print_report(analyse(table), self.json)


@dataclass(frozen=True)
class Plan:
    """Say how many seeds show a difference of a size at 80 % power, by the spread of the runs of a comparison."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Output folder of a comparison."""
    effect: float
    """True difference to the baseline, in the unit of the report, such as 0.5 points."""

    def run(self) -> None:
        """Compute and print."""
        from .lab.report.document import read_report
        from .lab.statistics.analysis import plan_seeds

        analysis = read_report(self.folder).analysis
        metric = analysis.metric
        found, low, high = plan_seeds(analysis, self.effect / metric.scale)
        unit = metric.difference_unit or metric.title
        size = f"{self.effect:g} {unit} to {analysis.baseline}, {len(analysis.compared)} arms"
        allowed = f"{low:,} to {high:,} for the spreads that these runs allow"
        print(f"{size}: {found:,} seeds at 80 % power ({allowed})")


@dataclass(frozen=True)
class Merge:
    """Put the runs of two comparisons of the same experiment into one folder, such as those of two machines."""

    folders: Annotated[Positional[tuple[Path, Path]], arg(metavar="A B")]
    """Output folders of comparisons."""
    out: Path
    """New folder for the runs of both."""

    def run(self) -> None:
        """Merge."""
        from .lab.store.comparison import merge

        runs = merge(*self.folders, self.out)
        print(f"{runs} runs in {self.out}; next: gem-act report {self.out}")


@dataclass(frozen=True)
class Data:
    """Download data sets from where they are published and check them (get), or check the files that are there (check).

    The exit status of a check is 2 if a file of a data set that is looked at is not as published.
    """

    action: Annotated[Positional[Literal["get", "check"]], arg(metavar="get|check")]
    """What to do."""
    names: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME ...]", help_behavior_hint="")] = ()
    """Of mnist, fashion-mnist, cifar10, cifar100, stl10, tinyshakespeare, wikitext-2. A check without names looks at
    those of which at least one file is there."""
    data_dir: Path | None = None
    """Data folder; the environment variable GEM_ACTIVATIONS_DATA, else a cache folder, if not given."""

    def run(self) -> None:
        """Download, and print the folder of each data set; or check, and print a line for each file."""
        from .lab.data.holdings import check_all, get_all

        if self.action == "check":
            check_all(self.names, self.data_dir, make_console(sys.stdout))
            return
        try:
            for folder in get_all(self.names, self.data_dir, make_console(sys.stderr)):
                print(folder)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("run the same command again to go on") from None


@dataclass(frozen=True)
class Claims:
    """Show each claim of both papers with what results say of it: supported, contradicted, not decided, not run."""

    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="[FOLDER ...]")] = ()
    """Folders of comparisons, or folders that hold such; the results in the repository if not given."""
    json: Annotated[bool, FlagCreatePairsOff] = False
    """Print one object for each finding as JSON."""

    def run(self) -> None:
        """Judge and print."""
        from .lab.claims import claims_lines, claims_rows

        if self.json:
            print_json(claims_rows(self.folders))
            return
        print_lines(claims_lines(self.folders), make_console(sys.stdout))


@dataclass(frozen=True)
class List:
    """Show every activation the project knows: name, defaults, formula, source."""

    json: Annotated[bool, FlagCreatePairsOff] = False
    """Print every field of every activation as JSON."""

    def run(self) -> None:
        """Print the catalog, one whole row a line if it is piped."""
        rows = [
            {
                "name": format_call(entry.name, entry.defaults),
                "title": entry.title,
                "formula": entry.formula,
                "group": entry.group,
                "source": entry.citation,
            }
            for entry in catalog.ENTRIES.values()
        ]
        if self.json:
            print_json(rows)
            return
        from rich.markup import escape
        from rich.table import Table

        console = make_console(sys.stdout)
        # A terminal has room for what one types and what it means; the rest is in --json, and in a pipe.
        shown = ("name", "formula") if console.is_terminal else tuple(rows[0])
        table = Table(*shown, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(escape(row[column]) for column in shown))
        console.print(table)


@dataclass(frozen=True)
class Plot:
    """Draw f, f' and f'' of activations or expressions, or of the family beside ReLU and GELU."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="[A ...]", help_behavior_hint="")] = ()
    """Activations, such as gelu "egem(eps=0.01)", or expressions in x, such as "x*tanh(x)"; the family without any."""
    out: Path = Path("plot.svg")
    """File to write, ending in .svg or .png."""

    def run(self) -> None:
        """Draw, and print where."""
        if self.names:
            from .analysis.pages import draw
            from .analysis.source import read

            first, *others = map(read, self.names)
            draw(first, self.out, *others)
        else:
            from .lab.report.plots import write_family_picture

            write_family_picture(self.out)
        print(f"Picture: {self.out}")


@dataclass(frozen=True)
class Certify:
    """Prove properties of activations: smoothness, bounds, Lipschitz constants, signal propagation and more.

    Each number is exact or an interval that is proved to hold it, with the method beside it.
    """

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="A [B ...]", help_behavior_hint="")]
    """Activations, such as gelu "egem(eps=1/10000)", expressions in x, such as "x*tanh(x)", or all."""
    out: Path = Path("certificates")
    """Folder for NAME.json and NAME.md. An earlier certificate of the same question is replaced, no other file."""
    variance: str = "1"
    """Variance of the normal input of the signal-propagation rows, an exact number such as 1/4."""
    budget: float = 60
    """Seconds for each certificate; a row that is not proved by then is open, and says so."""
    json: Annotated[bool, FlagCreatePairsOff] = False
    """Print the certificates as JSON."""

    def run(self) -> None:
        """Prove, print and write."""
        from .analysis.certification import certify_all, print_certificate

        proved = certify_all(self.names, self.out, self.variance, self.budget)
        if self.json:
            print_json([json.loads(certificate.to_json()) for certificate in proved])
            return
        console = make_console(sys.stdout)
        for certificate in proved:
            print_certificate(certificate, console)
        print(f"Certificates: {self.out}")


@dataclass(frozen=True)
class Bench(BenchRequest):
    """Time activations beside their rivals in one process on the same data, and measure the memory of whole blocks.

    Every GEM row is checked against the oracle first; a wrong one is not timed. Without options the full table is made,
    which takes about an hour on two cores; --short takes about two minutes.
    """

    def run(self) -> None:
        """Measure and print."""
        from .bench.run import make_plan, run_benchmark

        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        out, short, as_json = chosen.pop("out"), chosen.pop("short"), chosen.pop("json")
        plan = make_plan(short, {name: value for name, value in chosen.items() if value is not None})
        rows = run_benchmark(plan, out, make_console(sys.stderr if as_json else sys.stdout))
        if as_json:
            print_json(rows)


@dataclass(frozen=True)
class Monitor:
    """Show what DeadUnitMonitor recorded of a training: dead units, gradients of zero, gates and pre-activations."""

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """File that a monitor or one of its callbacks has written."""
    out: Path | None = None
    """Picture to write, ending in .png or .svg; none if not given."""

    def run(self) -> None:
        """Print the last window, and draw all of them."""
        from .lab.report.monitoring import show_recording

        console = make_console(sys.stdout)
        for part in show_recording(self.file, self.out):
            print_lines([part], console) if isinstance(part, str) else console.print(part)


@dataclass(frozen=True)
class CheckScale:
    """Compare the scale of an activation with its pre-activations, in the model of a recipe on its first batch."""

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """Name of a recipe, as for `gem-act compare`."""
    activation: str = "gem"
    """A member of the family, such as "egem(n=2, scale=0.1)"."""
    calibrate: float | None = None
    """Set each scale to this ratio of the deviation first, and show the scales that this gives."""
    input_scale: float = 1.0
    """Factor on the standardised pixels of images."""
    seed: int = 0
    """Seed of the initial weights."""
    out: Path | None = None
    """Picture to write, ending in .png or .svg; none if not given."""
    data_dir: Path | None = None
    """Folder with data files."""

    def run(self) -> None:
        """Measure and print."""
        from .lab.recipes.registry import make_recipe
        from .lab.training.trainer import measure_scale

        spec = catalog.parse(self.activation).spec
        if spec is None:
            raise SettingError(f"--activation {self.activation}: expected a member of the family, gem, egem or segem")
        recipe = dataclasses.replace(make_recipe(self.recipe), input_scale=self.input_scale)
        report = measure_scale(recipe, spec, self.seed, self.data_dir, self.calibrate)
        print_lines(str(report).splitlines(), make_console(sys.stdout))
        if self.out is not None:
            report.plot(self.out)
            print_lines([f"Picture: {self.out}"], make_console(sys.stdout))


@dataclass(frozen=True)
class CHeader(HeaderRequest):
    """Write an activation in integers as a C99 header: int8 or int16, no floating point, no heap, no table.

    A JSON file is a list of objects with name, activation, in_scale, in_zero, out_scale, out_zero and, if wanted, bits
    and rounding. Of a quantised ONNX file each member of the family becomes a layer.
    """

    source: Annotated[Positional[str], arg(metavar="ACTIVATION|FILE")]

    def run(self) -> None:
        """Make the layers, print how exact they are, and write."""
        print_lines(write_header(self), make_console(sys.stdout))


def run_command(words: list[str]) -> int:
    """Read the words of a command line and run the command they name.

    Returns: Exit status: 0, or 3 if a run of a comparison failed.
    Raises: SystemExit: after printing help, with status 0, or for words that fit no command, with status 2;
        GemError: something the user asks for is wrong; KeyboardInterrupt: with what to do next as its argument.
    """
    own = words[:1] == ["compare"] and ":" in "".join(words[1:2])
    compare = with_parameters(CompareFunction, words[1]) if own else Compare
    commands = {
        "compare": compare,
        "tune": Tune,
        "report": Report,
        "plan": Plan,
        "merge": Merge,
        "data": Data,
        "claims": Claims,
        "list": List,
        "plot": Plot,
        "bench": Bench,
        "certify": Certify,
        "monitor": Monitor,
        "check-scale": CheckScale,
        "c": CHeader,
    }
    if words and not words[0].startswith("-") and words[0] not in commands:
        hint = suggest(words[0], commands, "the commands are")
        raise SettingError(f"no command is called {quote(words[0])}; {hint}")
    description = "Smooth activation functions made of rational arithmetic, and a lab that compares them."
    named = tuple(Annotated[grouped(kind), subcommand(name)] for name, kind in commands.items())
    union: Any = typing.Union[named]  # noqa: UP007 -- a union of annotated types is tyro's way to name subcommands
    options: Any = {"prog": "gem-act", "args": words, "config": (DisallowNone, OmitArgPrefixes)}
    options["description"] = f"{description} `gem-act --version` prints the version."
    if {"-h", "--help"}.isdisjoint(words):
        return ungrouped(tyro.cli(union, **options), commands[words[0]]).run() or 0
    # tyro wraps neither the usage nor the description of a command: what it prints is wrapped here.
    from rich.console import Console
    from rich.text import Text

    printed = io.TextIOWrapper(io.BytesIO(), sys.stdout.encoding, write_through=True)
    printed.isatty = sys.stdout.isatty
    try:
        with contextlib.redirect_stdout(printed):
            tyro.cli(union, **options)
    finally:
        printed.seek(0)
        Console(width=shutil.get_terminal_size().columns).print(Text.from_ansi(printed.read()), end="")
    return 0
