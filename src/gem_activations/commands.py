"""The commands of `gem-act`, each a dataclass that the command line is made from.

Frameworks are imported where a command runs, so that help and errors come at once.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, OmitArgPrefixes, Positional, arg, subcommand

from . import catalog
from .edge.command import HeaderRequest, write_header
from .grammar import format_call
from .lab.runs.options import Options

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 1000


@dataclass(frozen=True)
class Compare(Options):
    """Train one model with several activations from several seeds, and report what the data allow to say.

    The same command run again goes on where it was stopped; more activations or seeds extend the comparison.
    """

    baseline: str | None = None
    """Activation that the others are compared with; the recipe's or the study's where not given."""
    rates: Path | None = None
    """Folder or file of `gem-act tune`: each activation is trained at the learning rate chosen there."""

    def run(self) -> None:
        """Run the comparison, then write and print its report."""
        from .lab.runs.compare import compare
        from .lab.runs.distributed import leads
        from .lab.runs.progress import show_progress
        from .lab.runs.runner import Silent

        request = self.make_request(baseline=self.baseline, rates=self.rates)
        try:
            if not leads():
                compare(request, Silent())
                return
            with show_progress(_console(sys.stderr)) as observer:
                compare(request, observer)
            _report(request.folder)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"run the same command again to go on in {request.folder}") from None


@dataclass(frozen=True)
class Tune(Options):
    """Search the learning rate of each activation, with equally many trials for every one, on the validation split.

    The test set is left alone. The rates go to a file that `gem-act compare --rates` takes. A trial is one run where
    --seeds is not given. The same command run again goes on; more activations or trials extend the search.
    """

    trials: int = 5
    """Learning rates of each activation, an odd number: the recipe's own in the middle."""
    factor: float = 2.0
    """Ratio of neighbouring learning rates."""

    def run(self) -> None:
        """Run the search, then print the chosen rates."""
        from .lab.runs.progress import show_progress
        from .lab.runs.tuning import tune, tuning_folder, tuning_lines

        request = self.make_request()
        folder = tuning_folder(request)
        try:
            with show_progress(_console(sys.stderr)) as observer:
                tuning = tune(request, self.trials, self.factor, observer)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"run the same command again to go on in {folder}") from None
        hint = f"Take them with `gem-act compare {self.recipe} --rates {folder}` and the same options."
        _print_lines([*tuning_lines(tuning), hint], _console(sys.stdout))


@dataclass(frozen=True)
class Report:
    """Make the report of a comparison again from what its folder stores."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Output folder of a comparison, finished or not."""

    def run(self) -> None:
        """Write and print the report."""
        _report(self.folder)


@dataclass(frozen=True)
class DataGet:
    """Download data sets from where they are published, check them, and go on with a download that broke off."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME [NAME ...]")]
    """Of mnist, fashion-mnist, cifar10, cifar100, stl10, tinyshakespeare, wikitext-2."""
    data_dir: Path | None = None
    """Data folder; the environment variable GEM_ACTIVATIONS_DATA, else a cache folder, where not given."""

    def run(self) -> None:
        """Download, and print the folder of each data set."""
        from .lab.data.command import get_all

        try:
            for folder in get_all(self.names, self.data_dir, _console(sys.stderr)):
                print(folder)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("run the same command again to go on") from None


@dataclass(frozen=True)
class DataCheck:
    """Say of each file of the data sets whether it is there and as published; exit status 2 where one is not."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME ...]")] = ()
    """Data sets; every one of which a file is there where not given."""
    data_dir: Path | None = None
    """Data folder; the environment variable GEM_ACTIVATIONS_DATA, else a cache folder, where not given."""

    def run(self) -> None:
        """Check and print."""
        from .lab.data.command import check_all

        check_all(self.names, self.data_dir, _console(sys.stdout))


@dataclass(frozen=True)
class Data:
    """Download data sets, or check the ones that are there."""

    action: (
        Annotated[DataGet, subcommand("get", prefix_name=False)]
        | Annotated[DataCheck, subcommand("check", prefix_name=False)]
    )

    def run(self) -> None:
        """Do what was chosen."""
        self.action.run()


@dataclass(frozen=True)
class Claims:
    """Show each claim of both papers with what results say of it: supported, contradicted, not decided, not run."""

    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="[FOLDER ...]")] = ()
    """Folders of comparisons, or folders that hold such; the results in the repository where not given."""

    def run(self) -> None:
        """Judge and print."""
        from .lab.claims.command import claims_lines

        _print_lines(claims_lines(self.folders), _console(sys.stdout))


@dataclass(frozen=True)
class List:
    """Show every activation the project knows: name, defaults, formula, source."""

    def run(self) -> None:
        """Print the catalog, one row a line where it is piped."""
        from rich.markup import escape
        from rich.table import Table

        table = Table("name", "title", "formula", "group", "source", box=None, pad_edge=False)
        for entry in catalog.ENTRIES.values():
            call = format_call(entry.name, entry.defaults)
            table.add_row(*map(escape, (call, entry.title, entry.formula, entry.group, entry.citation)))
        _console(sys.stdout).print(table)


@dataclass(frozen=True)
class Plot:
    """Draw the picture of the family and its derivatives."""

    out: Path
    """File to write, ending in .svg or .png."""

    def run(self) -> None:
        """Draw it."""
        from .lab.report.plots import write_family_picture

        write_family_picture(self.out)
        print(self.out)


@dataclass(frozen=True)
class Certify:
    """Prove properties of activations: smoothness, bounds, Lipschitz constants, signal propagation and more.

    Each number is exact or an interval that is proved to hold it, with the method beside it.
    """

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="A [B ...]")]
    """Activations, such as gelu "egem(eps=1/10000)", or all."""
    out: Path = Path("certificates")
    """Folder for NAME.json and NAME.md."""
    variance: str = "1"
    """Variance of the normal input of the signal-propagation rows, an exact number such as 1/4."""

    def run(self) -> None:
        """Prove, print and write."""
        from .analysis.command import CertifyRequest, certify_all

        console = _console(sys.stdout)
        for certificate in certify_all(CertifyRequest(self.names, self.out, self.variance)):
            from .analysis.printing import print_certificate

            print_certificate(certificate, console)
        print(f"Certificates: {self.out}")


@dataclass(frozen=True)
class Bench:
    """Time activations beside their rivals in one process on the same data, and measure the memory of whole blocks.

    Every GEM row is checked against the oracle first; a wrong one is not timed. Without options the full table is made,
    which takes about an hour on two cores; --short takes about two minutes.
    """

    short: Annotated[bool, FlagCreatePairsOff] = False
    """Two sizes, one dtype, one block."""
    log2_sizes: tuple[int, ...] | None = None
    """Numbers of elements, as powers of two."""
    dtypes: tuple[str, ...] | None = None
    """Of float32, bfloat16, float16, float64."""
    layouts: tuple[str, ...] | None = None
    """Of contiguous, channels_last."""
    directions: tuple[str, ...] | None = None
    """Of forward, backward, both."""
    orders: tuple[int, ...] | None = None
    """The n of GEM."""
    blocks: tuple[str, ...] | None = None
    """Of feed-forward, gpt2-block, resnet56, or none."""
    compiled: bool | None = None
    """Time torch.compile's code too; needs a C++ compiler."""
    seconds: float | None = None
    """Wanted length of the timing of each table."""
    out: Path | None = None
    """File for the rows, one JSON object a line."""

    def run(self) -> None:
        """Measure and print."""
        from .bench.run import make_plan, run_benchmark

        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        out, short = chosen.pop("out"), chosen.pop("short")
        plan = make_plan(short, {name: value for name, value in chosen.items() if value is not None})
        run_benchmark(plan, out, _console(sys.stdout))


@dataclass(frozen=True)
class Monitor:
    """Show what DeadUnitMonitor recorded of a training: dead units, gradients of zero, gates and pre-activations."""

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """File that a monitor or one of its callbacks has written."""
    out: Path | None = None
    """Picture to write, ending in .png or .svg; none where not given."""

    def run(self) -> None:
        """Print the last window, and draw all of them."""
        from .lab.report.monitoring import show_recording

        console = _console(sys.stdout)
        for part in show_recording(self.file, self.out):
            _print_lines([part], console) if isinstance(part, str) else console.print(part)


@dataclass(frozen=True)
class CHeader(HeaderRequest):
    """Write an activation in integers as a C99 header: int8 or int16, no floating point, no heap, no table."""

    source: Annotated[Positional[str], arg(metavar="ACTIVATION|FILE")]

    def run(self) -> None:
        """Make the layers, print how exact they are, and write."""
        _print_lines(write_header(self), _console(sys.stdout))


Command = (
    Annotated[Compare, subcommand("compare")]
    | Annotated[Tune, subcommand("tune")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Data, subcommand("data")]
    | Annotated[Claims, subcommand("claims")]
    | Annotated[List, subcommand("list")]
    | Annotated[Plot, subcommand("plot")]
    | Annotated[Bench, subcommand("bench")]
    | Annotated[Certify, subcommand("certify")]
    | Annotated[Monitor, subcommand("monitor")]
    | Annotated[CHeader, subcommand("c")]
)


def run_command(words: list[str]) -> None:
    """Read the words of a command line and run the command they name.

    Raises: SystemExit: after printing help, with status 0, or for words that fit no command, with status 2;
        GemError: something the user asks for is wrong; KeyboardInterrupt: with what to do next as its argument.
    """
    description = "Smooth activation functions made of rational arithmetic, and a lab that compares them."
    command = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType] -- a union of annotated types is tyro's way to name subcommands
        prog="gem-act",
        description=f"{description} `gem-act --version` prints the version.",
        args=words,
        config=(DisallowNone, OmitArgPrefixes),
    )
    command.run()


def _report(folder: Path) -> None:
    from .lab.report.document import FILES, make_report
    from .lab.statistics.tables import terminal_table

    report, written = make_report(folder)
    console = _console(sys.stdout)
    console.print(terminal_table(report.summary, report.comparison.seeds))
    claims = [finding.sentence for finding in report.findings]
    lines = [*report.sentences, *claims, "", f"Report: {folder / 'report.html'}", f"Written to {folder}:"]
    names = [path.relative_to(folder).as_posix() for path in written]
    lines += [f"  {name}: {FILES[name]}" for name in FILES if name in names]
    lines.append(f"  plots/: {sum(name.startswith('plots/') for name in names)} files")
    _print_lines(lines, console)


def _print_lines(lines: Iterable[str], console: "Console") -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _console(stream: TextIO) -> "Console":
    """Give a console of the terminal's width; a pipe or file gets lines as long as they need to be."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else _WIDE)
