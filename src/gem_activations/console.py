"""What the commands show: lines, JSON and tables on stdout, as wide as the terminal, or as a file needs them; and help.

The help of a command has the options of a comparison in groups, and is silent on defaults that say nothing.
"""

import copy
import dataclasses
import json
import sys
import typing
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from tyro.conf import arg

from .errors import SettingError
from .lab.runs.request import Execution

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


GROUPS = {
    "training": {
        *("epochs", "steps", "batch_size", "learning_rate", "width", "context", "micro_batch", "precision"),
        *("channels_last", "compiled", "model", "initialisation", "resplit", "scale", "input_scale", "data_dir"),
        "rates",
    },
    "execution": {"device", "engine", "ray_address", "replicas"},
    "storage": {"out", "retry_failed", "allow_changed", "keep_checkpoints", "track"},
}
"""Groups of the options of a comparison, as its help shows them."""


def grouped(kind: Any) -> type:
    """Return a command as its help shows it: silent on defaults of None, () and False; options of runs in groups.

    The words beside such an option say what holds without it. A group is a subclass in which the fields of
    the others are not asked for, since tyro reads the words from a class's source.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    groups = {name: options for name, options in GROUPS.items() if issubclass(kind, Execution)}
    members: dict[str, list[Any]] = {name: [] for name in ("", *groups)}
    for each in fields(kind):
        silent = each.default is None or each.default is False or each.default == ()
        hint = Annotated[hints[each.name], arg(help_behavior_hint="")] if silent else hints[each.name]
        own = next((name for name, options in groups.items() if each.name in options), "")
        for name, shown in members.items():
            if name == own:
                default = {"default": each.default, "default_factory": each.default_factory, "kw_only": each.kw_only}
                shown.append((each.name, hint, dataclasses.field(**default)))
            else:
                shown.append((each.name, hint, dataclasses.field(init=False)))
    for name in groups:
        group = dataclasses.make_dataclass(name, members[name], bases=(kind,), frozen=True)
        members[""].append((name, group, dataclasses.field(kw_only=True)))
    namespace = {"__doc__": kind.__doc__}
    return dataclasses.make_dataclass(kind.__name__, members[""], bases=(kind,), namespace=namespace, frozen=True)


def ungrouped(given: Any, kind: Any) -> Any:
    """Return the command of a kind whose options, in groups, tyro has read from the command line."""
    options = dict(vars(given))
    for group in GROUPS:
        options |= vars(options.pop(group)) if group in options else {}
    return kind(**options)


def with_parameters(command: type[Any], place: str) -> type[Any]:
    """Return the command whose options are those of any comparison and the parameters of a user's function."""
    from .lab.runs.experiment import load_object, own_parameters

    train = load_object(place, "a training function")
    parameters = own_parameters(train)
    taken = [name for name in parameters if name in {*GROUPS, *(field.name for field in dataclasses.fields(command))}]
    if taken:
        raise SettingError(f"the parameter {taken[0]} of {place} has the name of an option of gem-act; rename it")
    hints = typing.get_type_hints(train)
    own: list[Any] = []
    for name, parameter in parameters.items():
        default = dataclasses.field(default_factory=lambda value=parameter.default: copy.copy(value), kw_only=True)
        own.append((name, hints.get(name, type(parameter.default)), default))
    namespace = {"__doc__": command.__doc__}
    return dataclasses.make_dataclass(command.__name__, own, bases=(command,), namespace=namespace, frozen=True)
