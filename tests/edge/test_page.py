"""The figures of docs/edge.md are those of the committed rows."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [json.loads(line) for line in (ROOT / "benchmarks/results/edge_integers.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['bits']}-{row['method']}-{row.get('division')}")
def test_a_row_stands_on_the_page(row):
    page = (ROOT / "docs/edge.md").read_text()
    assert row["settings"] >= 200
    if row["method"] == "linear_table":
        assert f"off by {row['error_median']:.0f} LSB at the median, and by up to {row['largest_error']:,}." in page
        middle = [round(row[f"error_{percent}_percent"]) for percent in (5, 95)]
        assert f"nine settings in ten lie between {middle[0]} and {middle[1]} LSB" in page
        assert f"| {row['error_median']:.0f} LSB at the median of the settings above |" in page
        return
    cells = f"int{row['bits']}, {row['method']}, {row['division']} | {row['settings']:,} | {row['exact_settings']:,} | "
    assert cells + f"{row['inexact_inputs']} | {row['largest_error']} LSB |" in page
    assert row["largest_error"] <= 1
    if row["division"] == "udiv" and row["method"] == "q31":
        assert row["exact_settings"] >= 0.99 * row["settings"]
