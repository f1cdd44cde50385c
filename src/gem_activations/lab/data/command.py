"""What `gem-act data` does: fetch data sets, and say what is in a data folder."""

from pathlib import Path

from rich.console import Console

from ...errors import DataError, SettingError
from .holdings import GOOD, Holding, check_dataset, find_data_dir, get_dataset
from .sources import SOURCES, find_source


def get_all(names: tuple[str, ...], data_dir: Path | None, console: Console) -> list[Path]:
    """Fetch data sets that are not in a data folder yet; what is there is checked.

    Args:
        names: Names in `sources.SOURCES`.
        data_dir: The data folder; None for the default one.
        console: Where a line for each data set goes. If it is a terminal, a bar on standard error shows a download.
    Returns: The folder of each data set.
    Raises: SettingError: no name or an unknown one, or no such folder; DataError: a file is damaged or cannot be
        downloaded.
    """
    if not names:
        raise SettingError(f"name at least one data set: {', '.join(SOURCES)}")
    folders: list[Path] = []
    for name, source in {name: find_source(name) for name in names}.items():
        folders.append(get_dataset(source, find_data_dir(data_dir), bar=console.is_terminal))
        line = f"{name}: {len(source.items)} files in {folders[-1]} (licence: {source.licence})"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return folders


def check_all(names: tuple[str, ...], data_dir: Path | None, console: Console) -> None:
    """Print what is there of data sets, one line a file.

    Args:
        names: Names in `sources.SOURCES`; none for every data set of which a file is there.
        data_dir: The data folder; None for the default one.
        console: Where the lines go.
    Raises: SettingError: an unknown name, or no such folder; DataError: after the lines, if a file is damaged or
        foreign, or is missing from a data set that is named, or there in part.
    """
    folder = find_data_dir(data_dir)
    bad: list[Holding] = []
    for name, source in {name: find_source(name) for name in names or SOURCES}.items():
        holdings = check_dataset(source, folder)
        absent = not names and all(holding.state == "missing" for holding in holdings)
        for line in ["not there"] if absent else map(str, holdings):
            console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)
        bad += [holding for holding in holdings if holding.state not in GOOD and not absent]
    if bad:
        raise DataError(
            f"{len(bad)} of the files in {folder} are not as published, the first being {bad[0].path} "
            f"({bad[0].state}); delete what is damaged, then fetch it with gem-act data get"
        )
