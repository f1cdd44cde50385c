"""Files that appear whole or not at all."""

import contextlib
import os
import re
import secrets
from pathlib import Path

_TOKEN_BYTES = 8


def write_atomically(
    path: Path, content: bytes | memoryview, *, sync: bool = True, over: Path | None = None, keep: Path | None = None
) -> None:
    """Write a file under a name of its own in the same folder, then rename it. Missing folders are made.

    A reader sees the old content or the new, whatever happens to the writer; of two writers at once one wins. A writer
    that is killed leaves its temporary file behind, `.NAME.TOKEN.tmp`: see `remove_leftovers`.

    Args:
        path: The file. Its permissions follow the process's umask.
        content: All of its bytes.
        sync: Wait until the disk has them, which a power cut after the rename asks for, and a kill does not.
        over: A file of the same folder that nobody needs any more. It is written over: a file of some megabytes that
            is made anew and removed again takes twice the time.
        keep: Where the content that is there goes, if there is any.
    Raises: OSError: the folder or the file cannot be written; nothing of the attempt is left.
    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder, "new", "a.txt"), b"whole")
        ...     [path.name for path in Path(folder, "new").iterdir()]
        ['a.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}.tmp")
    try:
        if over is not None and over.is_file():
            over.replace(temporary)
        with temporary.open("r+b" if temporary.exists() else "xb") as file:
            file.write(content)
            file.truncate()
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if keep is not None and path.is_file():
            path.replace(keep)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of a file left beside it. Only its one writer, who holds its lock, may ask for this.

    Raises: OSError: the folder cannot be read, or a file in it not removed.
    """
    leftover = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.tmp")
    for entry in path.parent.iterdir():
        if leftover.fullmatch(entry.name):
            entry.unlink(missing_ok=True)
