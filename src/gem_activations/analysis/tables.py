"""Certificates as Markdown: one table for each group of properties, and one table that compares activations."""

from collections.abc import Sequence

from .values import GROUPS, Certificate, CertificateError, Property, Value

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
            parts += [_line(row) for row in rows]
    return "\n".join(parts) + "\n"


def _line(row: Property) -> str:
    where = "; ".join(map(str, row.where))
    return f"| {_cell(row.title)} | {_cell(str(row.value))} | {_cell(where)} | {_cell(row.method)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def comparison_table(certificates: Sequence[Certificate], links: dict[str, str]) -> str:
    """Give one row for each activation: the properties of `COMPARED`, numbers to six digits.

    Args:
        links: Name of an activation -> address of its page.
    """
    lines = ["| activation | " + " | ".join(COMPARED.values()) + " |", "|---" * (len(COMPARED) + 1) + "|"]
    for certificate in certificates:
        cells = [_short(certificate, key) for key in COMPARED]
        lines.append(f"| [{certificate.title} `{certificate.name}`]({links[certificate.name]}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _short(certificate: Certificate, key: str) -> str:
    try:
        row = certificate[key]
    except CertificateError:
        return "open"
    if key == "dead_regions":
        return ", ".join(region.note.split(", a half")[0].split(", measure")[0] for region in row.where) or "none"
    return _cell(_brief(row.value))


def _brief(value: Value) -> str:
    if value.kind == "open":
        return "open"
    if value.low:
        return value.low if value.approx is None else f"{value.approx:.6g}"
    if value.kind == "infinite":
        return value.exact.replace("oo", "inf")
    if value.kind == "absent":
        return "inf" if value.note.startswith("infinite") else "none"
    return value.note.partition(":")[0]
