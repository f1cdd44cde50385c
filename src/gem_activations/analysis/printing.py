"""Certificates on a terminal: one table for each group."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .values import GROUPS, Certificate


def print_certificate(certificate: Certificate, console: Console) -> None:
    """Print the definition and every row, with the places and the method of each."""
    console.print(f"[bold]{escape(certificate.title)}[/bold]  {escape(certificate.name)}", highlight=False)
    console.print(f"f(x) = {certificate.formula}", markup=False, highlight=False)
    if certificate.reading:
        console.print(certificate.reading, markup=False, highlight=False)
    for group, title in GROUPS.items():
        rows = [row for row in certificate.properties if row.group == group]
        if not rows:
            continue
        table = Table(
            "property", "value", "where", "proved by", title=title, title_justify="left", box=None, pad_edge=False
        )
        for row in rows:
            table.add_row(*map(escape, (row.title, str(row.value), "; ".join(map(str, row.where)), row.method)))
        console.print()
        console.print(table)
    console.print()
