"""Read gzip-compressed IDX files, the format of MNIST: two zero bytes, element type, rank, sizes, then the elements."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError

_UNSIGNED_BYTES = 8


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read a .gz IDX file of unsigned bytes whose shape is known.

    Args:
        path: The file.
        shape: The sizes that its header must give.
    Returns: uint8 array of that shape.
    Raises: DataError: the file is missing, truncated, too long, no gzip, no IDX file, or of another type or shape.
    """
    wanted = 4 + 4 * len(shape) + math.prod(shape)
    try:
        with gzip.open(path) as file:
            content = file.read(wanted + 1)
    except EOFError as error:
        raise DataError(f"{path} is truncated; delete it and fetch it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is no intact gzip file ({error}); delete it and fetch it again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    _check_header(path, content, shape)
    if len(content) != wanted:
        what = "truncated" if len(content) < wanted else "too long"
        raise DataError(f"{path} is {what}: {wanted} bytes are expected inside; delete it and fetch it again")
    return np.frombuffer(content, np.uint8, offset=wanted - math.prod(shape)).reshape(shape)


def _check_header(path: Path, content: bytes, shape: tuple[int, ...]) -> None:
    if len(content) < 4 or content[:3] != bytes([0, 0, _UNSIGNED_BYTES]):
        raise DataError(f"{path} is no IDX file of unsigned bytes; put the file of the data set there")
    rank, header = content[3], content[4 : 4 + 4 * len(shape)]
    sizes = tuple(int(size) for size in np.frombuffer(header[: len(header) // 4 * 4], ">u4"))
    if rank != len(shape) or sizes != shape[: len(sizes)]:
        found = f"rank {rank}" if rank != len(shape) else f"the shape {sizes}"
        raise DataError(f"{path} has {found}, expected the shape {shape}; put the file of this data set there")
