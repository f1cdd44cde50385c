"""Reads the golden table: one GemSpec with its inputs and the values of f, f', f'' from mpmath."""

import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gem_activations import GemSpec

PATH = Path(__file__).with_name("gem.json")


@dataclass(frozen=True)
class Golden:
    """The rows of one member; arrays of float64 of one length."""

    spec: GemSpec
    x: NDArray[np.float64]
    value: NDArray[np.float64]
    derivative: NDArray[np.float64]
    second_derivative: NDArray[np.float64]

    def __str__(self) -> str:
        return str(self.spec)


def read() -> list[Golden]:
    """Return the table, one entry a member."""
    rows = json.loads(PATH.read_text())["rows"]
    return [_member(key, list(group)) for key, group in groupby(rows, key=lambda row: tuple(row[:3]))]


def _member(key: tuple[int, str, str], rows: list[list[str]]) -> Golden:
    columns = np.array([[float.fromhex(value) for value in row[3:]] for row in rows]).T
    spec = GemSpec(key[0], float.fromhex(key[1]), float.fromhex(key[2]))
    return Golden(spec, *columns)
