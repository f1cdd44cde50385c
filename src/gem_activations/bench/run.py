"""The benchmark as a whole: which rows are measured, the table that is printed, the file that keeps them."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..errors import SettingError
from ..files import write_atomically
from ..lab.store.environment import describe_environment
from ..spec import GemSpec
from .blocks import ARMS, BLOCKS, measure_block
from .elementwise import DIRECTIONS, DTYPES, LAYOUTS, Case, candidates, cases, measure
from .scales import measure_scales
from .second_order import measure_second_order
from .timing import Timing

MAX_LOG2_SIZE = 30


@dataclass(frozen=True)
class Plan:
    """What to measure, as `BenchRequest` words it."""

    log2_sizes: tuple[int, ...]
    dtypes: tuple[str, ...]
    layouts: tuple[str, ...]
    directions: tuple[str, ...]
    orders: tuple[int, ...]
    compiled: bool
    blocks: tuple[str, ...]
    seconds: float
    second_order: bool = False
    scales: bool = False


SHORT = Plan((8, 12, 22), ("float32",), ("contiguous",), DIRECTIONS, (1, 2), False, ("feed-forward",), seconds=3.0)
_MOST = ("float32", "bfloat16", "float16")
FULL = Plan(tuple(range(8, 27, 2)), _MOST, LAYOUTS, DIRECTIONS, (1, 2, 3, 4), True, tuple(BLOCKS), seconds=4.0)


def make_plan(short: bool, changes: Mapping[str, Any]) -> Plan:
    """Return the short or the full plan with some fields replaced.

    Raises: SettingError: a dtype, layout, direction, block, size, order or time that there is not.
    """
    plan = replace(SHORT if short else FULL, **changes)
    if plan.blocks == ("none",):
        plan = replace(plan, blocks=())
    known: dict[str, tuple[tuple[str, ...], Collection[str]]] = {
        "dtype": (plan.dtypes, DTYPES),
        "layout": (plan.layouts, LAYOUTS),
        "direction": (plan.directions, DIRECTIONS),
        "block": (plan.blocks, BLOCKS),
    }
    for what, (given, expected) in known.items():
        for name in given:
            if name not in expected:
                raise SettingError(f"{what} {name!r}: expected one of {', '.join(expected)}")
    if not all(0 <= size <= MAX_LOG2_SIZE for size in plan.log2_sizes):
        raise SettingError(f"sizes {plan.log2_sizes}: expected powers of two from 0 to {MAX_LOG2_SIZE}")
    if not 0 < plan.seconds < math.inf:
        raise SettingError(f"seconds={plan.seconds}: expected a number above 0")
    for n in plan.orders:
        GemSpec(n)
    return plan


def run_benchmark(plan: Plan, out: Path | None, console: Console) -> list[dict[str, Any]]:
    """Measure, print a table for each case and block, and keep the rows as JSON lines.

    Args:
        plan: What to measure.
        out: File for the rows; it appears at the end, by atomic rename. None keeps nothing.
        console: Where the tables go.
    Returns: The rows, the environment first.
    Raises: WrongResultError: a kernel's result is wrong.
    """
    rows = [{"row": "environment", **describe_environment(torch.device("cpu"))}]
    sizes = [2**power for power in plan.log2_sizes]
    if plan.second_order or plan.scales:
        second = plan.second_order
        found = measure_second_order(plan.compiled, plan.seconds * 4) if second else measure_scales(sizes, plan.seconds)
        for _, group in groupby(found, itemgetter("title")):
            measured = list(group)
            console.print(_ratio_table(measured))
            rows += measured
    else:
        functions = candidates(plan.orders, plan.compiled)
        for case in cases(sizes, list(plan.dtypes), list(plan.layouts), list(plan.directions)):
            timings = measure(case, functions, plan.seconds)
            console.print(_case_table(case, timings))
            for name, timing in timings.items():
                seconds = {"seconds": timing.median, "low": timing.low, "high": timing.high, "rounds": timing.rounds}
                rows.append({"row": "elementwise", **asdict(case), "name": name, **seconds})
        for block in plan.blocks:
            measured = measure_block(block, list(ARMS), plan.seconds * 4)
            console.print(_block_table(measured))
            rows += measured
    if out is not None:
        write_atomically(out, "".join(json.dumps(row) + "\n" for row in rows).encode())
        console.print(f"Rows: {out}", markup=False)
    return rows


def _ratio_table(rows: list[dict[str, Any]]) -> Table:
    """Return the table of a work of second order, or of learnt scales."""
    learnt = rows[0]["row"] == "scale"
    columns = ("", "median ms", *(f"/ {peer}" for peer in rows[0]["ratios"]), *["quartiles"] * learnt)
    table = Table(*columns, title=rows[0]["title"], title_justify="left")
    for row in rows:
        ratios = (f"{ratio:.2f}" for ratio in row["ratios"].values())
        spread = [f"{row['low']:.2f} .. {row['high']:.2f}"] if learnt else []
        table.add_row(row["name"], f"{row['seconds'] * 1e3:.4g}", *ratios, *spread)
    return table


def _case_table(case: Case, timings: dict[str, Timing]) -> Table:
    title = f"{case.direction}, 2^{case.size.bit_length() - 1} {case.dtype}, {case.layout}"
    peers = ("copy", "relu", "gelu")
    table = Table("", "median us", "quartiles us", *(f"/ {peer}" for peer in peers), title=title, title_justify="left")
    for name, timing in timings.items():
        spread = f"{timing.low * 1e6:.1f} .. {timing.high * 1e6:.1f}"
        ratios = (f"{timing.median / timings[peer].median:.2f}" for peer in peers)
        table.add_row(name, f"{timing.median * 1e6:.1f}", spread, *ratios)
    return table


def _block_table(rows: list[dict[str, Any]]) -> Table:
    columns = ("", "step ms", "quartiles ms", "/ relu", "/ gelu", "kept MiB", "peak MiB")
    table = Table(*columns, title=BLOCKS[rows[0]["block"]].title, title_justify="left")
    medians = {row["arm"]: row["seconds_median"] for row in rows}
    for row in rows:
        median, low, high = (1e3 * row[f"seconds_{part}"] for part in ("median", "low", "high"))
        ratios = (f"{row['seconds_median'] / medians[peer]:.3f}" for peer in ("relu", "gelu"))
        sizes = (row["kept_bytes"], row["peak_bytes"])
        memory = ("-" if size is None else f"{size / 2**20:.1f}" for size in sizes)
        table.add_row(row["arm"], f"{median:.2f}", f"{low:.2f} .. {high:.2f}", *ratios, *memory)
    return table
