"""What the commands print on stdout: lines, JSON and tables, as wide as the terminal, or as a file needs them."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from .lab.report.document import Report

_WIDE = 1000
RUNS_FAILED = 3
"""Exit status of a comparison that came to its end and in which a run failed."""


def print_lines(lines: Iterable[str], console: "Console") -> None:
    """Print lines as they are: no markup, and wrapped on a terminal only."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def print_json(document: object) -> None:
    """Print a document as JSON."""
    print(json.dumps(document, ensure_ascii=False, indent=1, default=str))


def make_console(stream: TextIO) -> "Console":
    """Return a console of the terminal's width; a pipe or file gets lines as long as they need to be."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else _WIDE)


def print_report(report: "Report", as_json: bool = False, out: Path | None = None) -> int:
    """Print a report, then write it: what cannot be written has been shown. Return the exit status."""
    from .lab.report.document import FILES, write_report
    from .lab.statistics.tables import summary_frame, terminal_table
    from .lab.store.comparison import FINISHED

    status = RUNS_FAILED if any(run.status != FINISHED for run in report.comparison.results) else 0
    console = make_console(sys.stdout)
    if not as_json:
        console.print(terminal_table(report.analysis, console.width))
        print_lines([*report.banners, *report.sentences, *(finding.sentence for finding in report.findings)], console)
    written: list[Path] = []
    try:
        written = write_report(report, out)
    finally:
        if as_json:
            summary, sentences = summary_frame(report.analysis).to_dicts(), report.sentences
            print_json({"summary": summary, "sentences": sentences, "files": written})
    if as_json:
        return status
    folder = out or report.comparison.folder
    names = [path.relative_to(folder).as_posix() for path in written]
    lines = ["", f"Report: {folder / 'report.html'}", f"Written to {folder}:"]
    lines += [f"  {name}: {FILES[name]}" for name in FILES if name in names]
    lines.append(f"  plots/: {sum(name.startswith('plots/') for name in names)} files")
    print_lines(lines, console)
    return status
