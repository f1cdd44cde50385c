"""What a certificate holds: values with the proof method beside each; as frozen dataclasses, as JSON and as tables.

Every number is a pair of decimal strings that were rounded outwards from a ball of 256-bit arithmetic; the exact
expression stands beside them if there is one. Nothing here imports SymPy or FLINT.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import GemError

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = "gem-activations certificate 2"
Kind = Literal["exact", "enclosure", "infinite", "absent", "statement", "open"]
GROUPS = {
    "class": "Differentiability",
    "bounds": "Boundedness",
    "stationarity": "Stationarity and shape",
    "smoothness": "Smoothness constants",
    "gate": "Gate",
    "distance": "Distance to ReLU",
    "propagation": "Signal propagation",
    "inverse": "Invertibility and conditioning",
    "cost": "Arithmetic cost",
}


class CertificateError(GemError):
    """A function that cannot be certified: a pole, a free symbol, a function that the analysis does not know."""


class UndecidedError(CertificateError):
    """A proof that could not be closed."""


@dataclass(frozen=True)
class Value:
    """One number or statement of a certificate.

    Attributes:
        kind: "exact" (a closed expression), "enclosure" (low <= value <= high is proved), "infinite", "absent" (does
            not exist; `note` says why), "statement" (`note` is the proved statement) or "open" (the proof was not
            closed; low and high hold the best enclosure found, where there is one).
        exact: The exact expression in ASCII, "" where there is none.
        low, high: Decimal strings, rounded outwards, so that low <= value <= high; "" where there is no number.
        approx: The nearest float64, for reading only; None where there is no number, or it lies outside their range.
        note: What a reader has to know beside the number: the kind of a point, the reason of an absence.
    """

    kind: Kind
    exact: str = ""
    low: str = ""
    high: str = ""
    approx: float | None = None
    note: str = ""

    def __str__(self) -> str:
        """Write the value as a table cell."""
        number = self._number()
        return f"{number} ({self.note})" if number and self.note else number or self.note

    def _number(self) -> str:
        if self.kind == "infinite":
            return self.exact
        if not self.low:
            return ""
        digits = self.low if self.approx is None else f"{self.approx:.10g}"
        if self.kind == "exact":
            return self.exact if self.exact == digits else f"{self.exact} = {digits}"
        return f"[{self.low}, {self.high}]"


@dataclass(frozen=True)
class Fact:
    """One fact that a row rests on: its kind, and (name, value) pairs that docs/properties/schema.md lists for it."""

    kind: str
    details: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Property:
    """One row of a certificate: a value, the points where it is taken, and the method that proves it.

    Attributes:
        group: A key of `GROUPS`.
        key: Name of the row, unique in its certificate and stable between versions.
        title: The row's name in words.
        value: The value.
        where: Points of the real line that belong to the value, in rising order; empty where there are none.
        method: How the value was proved.
        rests_on: The facts that the proof used, for a checker that does not trust this package.
    """

    group: str
    key: str
    title: str
    value: Value
    where: tuple[Value, ...] = ()
    method: str = ""
    rests_on: tuple[Fact, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Certificate:
    """The proved properties of one activation. Index it by a row's key.

    Attributes:
        name: The canonical string of the activation, or the expression.
        title: Name as the literature writes it.
        formula: The pieces in ASCII, which the proofs start from.
        reading: Remarks on the definition that was certified ("" where there is nothing to remark).
        variance: Variance of the normal input of the rows on signal propagation, an exact number.
        tools: Name of each tool that made the proofs -> its version.
        properties: The rows, in the order of `GROUPS`.
    Example:
        >>> row = Property("class", "order", "Largest k with f in C^k", Value("exact", "2", "2", "2", 2.0))
        >>> str(Certificate("gem", "GEM", "x^3/(x^2+1)", "", "1", {}, (row,))["order"].value)
        '2'
    """

    name: str
    title: str
    formula: str
    reading: str
    variance: str
    tools: dict[str, str]
    properties: tuple[Property, ...] = field(repr=False)

    def __getitem__(self, key: str) -> Property:
        """Return the row called `key`. Raises: CertificateError: no such row."""
        for row in self.properties:
            if row.key == key:
                return row
        keys = ", ".join(row.key for row in self.properties)
        raise CertificateError(f"the certificate of {self.name} has no row {key!r}; it has {keys}")

    def to_json(self) -> str:
        """Write the certificate as JSON text, as docs/properties/schema.md says; equal certificates give equal text."""
        data = asdict(self)
        for row in data["properties"]:
            row["rests_on"] = [{"kind": fact["kind"], **dict(fact["details"])} for fact in row["rests_on"]]
        return json.dumps({"schema": SCHEMA, **data}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """Read what `to_json` wrote.

        Raises: CertificateError: the text is no certificate of this schema.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if data.pop("schema") != SCHEMA:
                raise CertificateError(f"the file is not a {SCHEMA!r}; write it again with `gem-act certify`")
            rows = []
            for row in data.pop("properties"):
                where = tuple(Value(**point) for point in row.pop("where"))
                facts = tuple(Fact(fact.pop("kind"), _frozen(list(fact.items()))) for fact in row.pop("rests_on"))
                rows.append(Property(value=Value(**row.pop("value")), where=where, rests_on=facts, **row))
            return cls(properties=tuple(rows), **data)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise CertificateError(f"the file is not a certificate ({error}); write it again") from None


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


COMPARED = {
    "order": "C^k, k =",
    "dead_regions": "dead regions",
    "monotonicity": "monotone",
    "infimum": "inf f",
    "lipschitz": "sup abs f'",
    "slope_infimum": "inf f'",
    "gradient_lipschitz": "sup abs f''",
    "distance_sup": "sup distance to ReLU",
    "distance_l2": "L^2 distance to ReLU",
    "gain": "gain",
    "chi": "chi",
    "map_slope": "variance-map slope",
    "cost_value": "operations for f",
}


def to_markdown(certificate: Certificate, *, level: int = 1) -> str:
    """Write a certificate as Markdown: the definition, then a table for each group.

    Args:
        level: Level of the page's heading.
    """
    mark = "#" * level
    parts = [f"{mark} {certificate.title}: `{certificate.name}`", "", f"f(x) = `{certificate.formula}`"]
    if certificate.reading:
        parts += ["", certificate.reading]
    for group, title in GROUPS.items():
        rows = [row for row in certificate.properties if row.group == group]
        if rows:
            parts += ["", f"{mark}# {title}", "", "| property | value | where | proved by |", "|---|---|---|---|"]
        for row in rows:
            cells = (row.title, str(row.value), "; ".join(map(str, row.where)), row.method)
            parts.append(f"| {' | '.join(map(to_cell, cells))} |")
    return "\n".join(parts) + "\n"


# "inf f" is an infimum; elsewhere the three spellings mean the same.
_INFINITY = re.compile(r"\boo\b|(?<=[-+^])inf(?:inity)?\b|(?<=measure )inf\b|^inf(?:inity|inite)?(?=$|:)")


def to_cell(text: str) -> str:
    """Return a text as a cell of a Markdown table, with one spelling of infinity; formulas between dollars stay."""
    parts = re.split(r"(\$[^$]+\$)", _INFINITY.sub("∞", text).replace("|", "\\|"))
    return "".join(part if part.startswith("$") else part.replace("*", "\\*") for part in parts)


def comparison_table(certificates: Sequence[Certificate], links: dict[str, str]) -> str:
    """Return one row for each activation: the properties of `COMPARED`, numbers to six digits.

    Args:
        links: Name of an activation -> address of its page.
    """
    lines = ["| activation | " + " | ".join(COMPARED.values()) + " |", "|---" * (len(COMPARED) + 1) + "|"]
    for certificate in certificates:
        cells = [to_cell(brief_cell(certificate, key)) for key in COMPARED]
        lines.append(f"| [{certificate.title} `{certificate.name}`]({links[certificate.name]}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def brief_cell(certificate: Certificate, key: str) -> str:
    """Return a property for a table of many activations: a number to six digits, a few words, or "open"."""
    try:
        row = certificate[key]
    except CertificateError:
        return "open"
    if key == "dead_regions" and row.value.kind != "open":
        regions = ", ".join(region.note.split(", a half")[0].split(", measure")[0] for region in row.where)
        return _INFINITY.sub("∞", regions) or "none"
    return _INFINITY.sub("∞", _brief(row.value))


def _brief(value: Value) -> str:
    if value.kind == "open":
        return "open"
    if value.low:
        return value.low if value.approx is None else f"{value.approx:.6g}"
    if value.kind == "infinite":
        return value.exact
    if value.kind == "absent":
        return "inf" if value.note.startswith("infinite") else "none"
    return value.note.partition(":")[0]


def print_certificate(certificate: Certificate, console: "Console") -> None:
    """Print the definition and every row, with the places and the method of each."""
    from rich.markup import escape
    from rich.table import Table

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
