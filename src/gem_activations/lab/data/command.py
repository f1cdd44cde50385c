"""What `gem-act data` does: fetch data sets with a bar, and say what is in a data folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ...errors import DataError, SettingError
from .download import DownloadCallback
from .holdings import GOOD, Holding, check_dataset, default_data_dir, describe, get_dataset
from .sources import SOURCES, find_source


def get_all(names: tuple[str, ...], data_dir: Path | None, console: Console) -> list[Path]:
    """Fetch data sets that are not in a data folder yet; what is there is checked.

    Args:
        names: Names in `sources.SOURCES`.
        data_dir: The data folder; None for the default one.
        console: Where the bar and a line for each data set go.
    Returns: The folder of each data set.
    Raises: SettingError: no name or an unknown one; DataError: a file is damaged or cannot be downloaded.
    """
    if not names:
        raise SettingError(f"name at least one data set: {', '.join(SOURCES)}")
    sources = {name: find_source(name) for name in names}
    folders: list[Path] = []
    for name, source in sources.items():
        with _show_bar(name, console) as callback:
            holdings = get_dataset(source, data_dir or default_data_dir(), callback=callback)
        folders.append(holdings[0].path.parent)
        line = f"{name}: {len(holdings)} files in {folders[-1]} (licence: {source.licence})"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return folders


def check_all(names: tuple[str, ...], data_dir: Path | None, console: Console) -> None:
    """Print what is there of data sets, one line a file.

    Args:
        names: Names in `sources.SOURCES`; none for every data set of which a file is there.
        data_dir: The data folder; None for the default one.
        console: Where the lines go.
    Raises: SettingError: an unknown name; DataError: after the lines, where a file is damaged or foreign, or is
        missing from a data set that is named, or there in part.
    """
    folder = data_dir or default_data_dir()
    sources = {name: find_source(name) for name in names or SOURCES}
    bad: list[Holding] = []
    for name, source in sources.items():
        holdings = check_dataset(source, folder)
        if not names and all(holding.state == "missing" for holding in holdings):
            console.print(f"{name}: not there", markup=False, highlight=False, soft_wrap=True)
            continue
        for holding in holdings:
            console.print(f"{name}: {describe(holding)}", markup=False, highlight=False, soft_wrap=True)
        bad += [holding for holding in holdings if holding.state not in GOOD]
    if bad:
        raise DataError(
            f"{len(bad)} of the files in {folder} are not as published, the first being {bad[0].path} "
            f"({bad[0].state}); delete what is damaged, then fetch it with gem-act data get"
        )


@contextlib.contextmanager
def _show_bar(name: str, console: Console) -> Iterator[DownloadCallback | None]:
    """Return what moves a bar that stays away until the first bytes arrive; nothing where no terminal shows it."""
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(name, total=None, visible=False)

        def move(there: int, wanted: int | None) -> None:
            progress.update(task, completed=there, total=wanted, visible=True)

        yield move
