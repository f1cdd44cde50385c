"""What `gem-act claims` prints: each claim of both papers, with what results say of it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from .evidence import Finding, Status, find_comparisons, judge_all


def claims_lines(folders: Sequence[Path]) -> Iterator[str]:
    """Give the lines: a paper, its claims, and under each claim one line a finding; then how many stand where.

    Args:
        folders: Output folders of comparisons, or folders that hold such; none for the repository's own results.
    Raises: SettingError, StoreError: see `evidence.find_comparisons`.
    """
    findings = judge_all(find_comparisons(folders))
    source = claim = None
    for finding in findings:
        if finding.claim.source != source:
            yield from ([] if source is None else [""])
            source = finding.claim.source
            yield f"Claims of {source}"
        if finding.claim != claim:
            claim = finding.claim
            yield f"  {claim.statement}" + (f"; reported: {claim.reported}" if claim.reported else "")
        yield f"    {_line(finding)}"
    yield from ("", _count(findings))


def _line(finding: Finding) -> str:
    found = f": {finding.detail}" if finding.detail else ""
    where = "" if finding.folder is None else f" ({_short(finding.folder)})"
    return f"{finding.setting}: {finding.verdict}{found}{where}"


def _short(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _count(findings: Sequence[Finding]) -> str:
    """Count the claims by what results at full scale say of them; where several do, each counts once a status."""
    full = {(finding.claim.name, finding.status) for finding in findings if finding.setting == "full"}
    counts = Counter(status for _, status in full)
    total = len({finding.claim.name for finding in findings})
    return f"{total} claims; at full scale: " + ", ".join(f"{counts[status]} {status}" for status in Status) + "."
