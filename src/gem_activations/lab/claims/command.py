"""What `gem-act claims` prints: each claim of both papers, what results say of it, and how to run it."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ..recipes.arms import parse_arm
from ..recipes.registry import make_recipe
from ..recipes.studies import STUDIES
from .evidence import Status, find_comparisons, judge_all
from .table import GEM, Claim

_READING = (
    "Read with eps added to x^(2n). If eps is the scale itself, E-GEM at 1e-4 and 1e-6 is ReLU to rounding and SE-GEM "
    "is LeakyReLU: the arms relu and leaky_relu stand for them."
)
_CONTROLS = (
    "Controls: add `--initialisation gain` to scale weights to each activation's gain; run `gem-act tune` in the place "
    "of `gem-act compare`, then add `--rates FOLDER` to that, to train each at a learning rate of its own."
)


def claims_lines(folders: Sequence[Path]) -> Iterator[str]:
    """Return the lines: a paper, its claims, a line a finding and the command under each; then how many stand where.

    Args:
        folders: Output folders of comparisons, or folders that hold such; none for the repository's own results.
    Raises: SettingError, StoreError: see `evidence.find_comparisons`.
    """
    findings = judge_all(find_comparisons(folders))
    for source, of_source in groupby(findings, key=lambda finding: finding.claim.source):
        yield f"Claims of {source}"
        if source == GEM:
            yield f"  {_READING}"
        for claim, of_claim in groupby(of_source, key=lambda finding: finding.claim):
            yield f"  {claim.statement}" + (f"; reported: {claim.reported}" if claim.reported else "")
            for finding in of_claim:
                found = f": {finding.detail}" if finding.detail else ""
                folder, here = finding.folder, Path.cwd()
                folder = folder.relative_to(here) if folder and folder.is_relative_to(here) else folder
                yield f"    {finding.setting}: {finding.verdict}{found}" + (f" ({folder})" if folder else "")
            yield f"    to run: {command_of(claim)}"
        yield ""
    yield _CONTROLS
    # If several results at full scale speak of a claim, it counts once for each status.
    full = {(finding.claim.name, finding.status) for finding in findings if finding.setting == "full"}
    counts = Counter(status for _, status in full)
    total = len({finding.claim.name for finding in findings})
    yield f"{total} claims; at full scale: " + ", ".join(f"{counts[status]} {status}" for status in Status) + "."


def claims_rows(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return what `claims_lines` says as one row for each finding."""
    return [
        {
            "source": finding.claim.source,
            "claim": finding.claim.name,
            "statement": finding.claim.statement,
            "reported": finding.claim.reported,
            "command": command_of(finding.claim),
            "setting": finding.setting,
            "status": str(finding.status),
            "detail": finding.detail,
            "seeds": finding.seeds,
            "folder": finding.folder,
        }
        for finding in judge_all(find_comparisons(folders))
    ]


def command_of(claim: Claim) -> str:
    """Return the command whose comparison has every arm of a claim: the recipe's own arms, a study's, or the claim's.

    Example:
        >>> from gem_activations.lab.claims.table import CLAIMS
        >>> print(command_of(next(claim for claim in CLAIMS if claim.name == "n-transformer")))
        gem-act compare gpt2-124m --study n-ablation (or bert-small, cifar10-vit)
    """
    first, *others = claim.recipes
    recipe = make_recipe(first)
    words = ["gem-act", "compare", first]
    if not _has_arms(claim, recipe.activations):
        studies = [name for name, study in STUDIES.items() if _has_arms(claim, study.activations)]
        words += ["--study", studies[0]] if studies else ["--activations", *claim.arms]
    return shlex.join(words) + (f" (or {', '.join(others)})" if others else "")


def _has_arms(claim: Claim, activations: Sequence[str]) -> bool:
    return set(claim.arms) <= {str(parse_arm(text)) for text in activations}
