"""The claims of both papers, in one frozen table, and what results say of each: `gem-act claims` prints it.

We read the papers through their abstracts and public summaries; statements are in our words. Where a paper leaves the
eps of E-GEM open, the claim is read at eps = 1e-4. Sizes are in the metric's stored unit: accuracies are fractions,
differences of perplexity are given as differences of their logarithm, in nats.

A claim is supported, contradicted, not decided, or not run. A verdict on it stands on the tests of all verdicts of the
lab, corrected for the pairs of arms within the claim. Results at another scale or setting than the paper's can speak of
the direction only; results of `--scale smoke` say nothing.
"""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..catalog import parse
from ..errors import ActivationNameError, GemError, SettingError, StoreError
from .recipes.arms import parse_arm
from .recipes.pipeline import Pipeline
from .recipes.registry import LARGE_EPS, SMALL_EPS, STUDIES, TWENTY, make_recipe
from .statistics.analysis import Difference, analyse_runs
from .statistics.contrasts import ALPHA
from .statistics.formatting import amount, interval_text, signed
from .statistics.metrics import LOSS, PERPLEXITY, Criterion, Metric, criterion_of
from .statistics.reading import comparison_runs, read_comparison
from .statistics.verdicts import Verdict
from .store.comparison import Comparison, flatten

GEM = "E. Krause, arXiv:2604.21677"
GELU = "M. Lee, arXiv:2305.12073"

BASELINES = ("relu", "gelu", "silu", "mish")


class Ahead(NamedTuple):
    """One part of a claim: at least one of the leaders is better than the rival."""

    leaders: tuple[str, ...]
    rival: str


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, in our words.

    Attributes:
        recipes: Recipes whose comparisons bear on it.
        parts: Every part must hold.
        kind: "ahead": the leaders are better. "tie": the leader is equivalent to the best rival.
        size: How far the leaders are ahead, of the first part, in stored units; None if the paper gives none.
        reported: The figures that the paper gives, in its words and units.
        margin: Margin of equivalence of a tie, in stored units; None for the recipe's.
    """

    name: str
    source: str
    statement: str
    recipes: tuple[str, ...]
    parts: tuple[Ahead, ...]
    kind: Literal["ahead", "tie"] = "ahead"
    size: float | None = None
    reported: str = ""
    margin: float | None = None

    @property
    def arms(self) -> tuple[str, ...]:
        """Every activation of the claim, each once."""
        return tuple(dict.fromkeys(name for part in self.parts for name in (*part.leaders, part.rival)))


def _over(leaders: str | tuple[str, ...], *rivals: str) -> tuple[Ahead, ...]:
    leaders = (leaders,) if isinstance(leaders, str) else leaders
    return tuple(Ahead(tuple(str(parse(name)) for name in leaders), str(parse(rival))) for rival in rivals)


_E_GEM, _SE_GEM = "egem(eps=1e-4)", "segem(eps=1e-4)"
_CNNS = ("cifar10-resnet56", "cifar100-resnet56")
_CIFAR10, _CIFAR100, _GPT2, _BERT = ("cifar10-resnet56",), ("cifar100-resnet56",), ("gpt2-124m",), ("bert-small",)


def _best_of_twenty(second: str) -> tuple[Ahead, ...]:
    """GELU over each of the others, the one that the paper names second first: the size is that over it."""
    others = (name for name in TWENTY if name not in ("gelu", second))
    return _over("gelu", second, *others)


_NET = "14-layer residual network"
_WORST = tuple(part for name in TWENTY if name != "sigmoid" for part in _over(name, "sigmoid"))
CLAIMS = (
    Claim("cifar100-gem2", GEM, "CIFAR-100, ResNet-56: GEM n=2 is behind GELU", _CIFAR100,
          _over("gelu", "gem(n=2)"), size=0.0610, reported="6.10 points"),
    Claim("cifar100-gem1", GEM, "CIFAR-100, ResNet-56: GEM n=1 is behind GELU", _CIFAR100,
          _over("gelu", "gem"), size=0.0212, reported="2.12 points"),
    Claim("cifar100-egem", GEM, "CIFAR-100, ResNet-56: E-GEM is behind GELU", _CIFAR100,
          _over("gelu", _E_GEM), size=0.0062, reported="0.62 points"),
    Claim("cifar100-gap", GEM, "CIFAR-100, ResNet-56: E-GEM closes most of GEM's gap to GELU", _CIFAR100,
          _over(_E_GEM, "gem"), size=0.0150, reported="2.12 to 0.62 points"),
    Claim("cifar10-segem", GEM, "CIFAR-10, ResNet-56: SE-GEM passes GELU", _CIFAR10,
          _over(_SE_GEM, "gelu"), size=0.0007, reported="92.51 % to 92.44 %"),
    Claim("mnist-tie", GEM, "MNIST: E-GEM ties the best baseline", ("mnist",),
          _over(_E_GEM, *BASELINES), kind="tie", reported="99.23 %", margin=0.001),
    Claim("gpt2-gem2", GEM, "GPT-2 124M: GEM n=2 has a lower perplexity than GELU", _GPT2,
          _over("gem(n=2)", "gelu"), size=math.log(73.76 / 72.57), reported="72.57 to 73.76"),
    Claim("gpt2-gem1", GEM, "GPT-2 124M: GEM n=1 has a lower perplexity than GELU", _GPT2,
          _over("gem", "gelu"), size=math.log(73.76 / 73.32), reported="73.32 to 73.76"),
    Claim("gpt2-n", GEM, "GPT-2 124M: GEM n=2 has a lower perplexity than n=1", _GPT2,
          _over("gem(n=2)", "gem"), size=math.log(73.32 / 72.57), reported="72.57 to 73.32"),
    Claim("bert-egem10", GEM, "BERT-small: E-GEM with eps=10 has the lowest loss of all tested", _BERT,
          _over("egem(eps=10)", *BASELINES, "gem", "gem(n=2)", _E_GEM), reported="6.656 nats"),
    Claim("n-cnn", GEM, "n-ablation: n=1 is best for deep CNNs", _CNNS, _over("gem", "gem(n=2)", "gem(n=3)")),
    Claim("n-cnn-larger", GEM, "n-ablation: a larger n loses accuracy in deep CNNs", _CNNS,
          _over("gem", "gem(n=2)") + _over("gem(n=2)", "gem(n=3)")),
    Claim("n-transformer", GEM, "n-ablation: n=2 is best for transformers", (*_GPT2, *_BERT, "cifar10-vit"),
          _over("gem(n=2)", "gem", "gem(n=3)")),
    Claim("eps-cnn", GEM, "eps-ablation: eps of 1e-6 to 1e-4 is best for deep CNNs", _CNNS,
          _over(SMALL_EPS, *LARGE_EPS)),
    Claim("eps-gpt2", GEM, "eps-ablation: eps of 1e-6 to 1e-4 is best for larger transformers", _GPT2,
          _over(SMALL_EPS, *LARGE_EPS)),
    Claim("eps-bert", GEM, "eps-ablation: eps=10 is best for BERT-small", _BERT,
          _over("egem(eps=10)", *(eps for eps in LARGE_EPS if eps != "egem(eps=10)"), *SMALL_EPS)),
    Claim("cifar10-gelu", GELU, f"CIFAR-10, {_NET}: GELU is best of twenty", ("cifar10-lee14",),
          _best_of_twenty("hardswish"), size=0.0075, reported="89.52 %, next Hardswish 88.77 %"),
    Claim("cifar10-sigmoid", GELU, f"CIFAR-10, {_NET}: Sigmoid is worst of twenty", ("cifar10-lee14",),
          _WORST, reported="33.90 %"),
    Claim("cifar100-gelu", GELU, f"CIFAR-100, {_NET}: GELU is best of twenty", ("cifar100-lee14",),
          _best_of_twenty("hardswish"), size=0.0059, reported="64.71 %, next Hardswish 64.12 %"),
    Claim("stl10-gelu", GELU, f"STL-10, {_NET}: GELU is best of twenty", ("stl10-lee14",),
          _best_of_twenty("leaky_relu"), size=0.0222, reported="58.48 %, next LeakyReLU 56.26 %"),
)  # fmt: skip
"""Every claim, the GEM paper's first."""

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
"""The results that a checkout of the repository carries; an installed package has none."""

_NAMED = 3  # Settings that differ from the lab's own recipe are named up to this many.


class Status(StrEnum):
    """What results say of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "not decided"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Finding:
    """What one comparison says of one claim.

    Attributes:
        setting: "full", "small", or either with what else differs from the paper's pipeline.
        detail: Why, with the closest part of the claim, in words; empty if nothing was run.
        seeds: Fewest paired seeds of the claim's arms.
        folder: Of the comparison; None if nothing was run.
    """

    claim: Claim
    setting: str
    status: Status
    detail: str = ""
    seeds: int = 0
    folder: Path | None = None

    @property
    def verdict(self) -> str:
        """The status as a table writes it, with the seeds; at another setting than the full one, of the direction."""
        if self.status is Status.NOT_RUN:
            return str(self.status)
        direction = "" if self.status is Status.UNDECIDED or self.setting == "full" else "direction "
        return f"{direction}{self.status} ({self.seeds} seed{'s' if self.seeds != 1 else ''})"

    @property
    def sentence(self) -> str:
        """Claim, paper, setting, verdict and detail, as a report writes them."""
        claim = self.claim
        return f"Claim: {claim.statement} ({claim.source}). At scale {self.setting}: {self.verdict}. {self.detail}."


@dataclass(frozen=True)
class _Part:
    """One part of a claim with its comparisons: leader -> leader minus rival."""

    part: Ahead
    differences: dict[str, Difference]

    @property
    def closest(self) -> str:
        """The leader that is furthest ahead of the rival, or least behind it."""
        return max(self.differences, key=lambda name: self.differences[name].improvement or 0.0)

    @property
    def best(self) -> Difference:
        return self.differences[self.closest]


def judge_all(comparisons: Iterable[Comparison]) -> list[Finding]:
    """Judge every claim by every comparison that bears on it, in the order of the table.

    Returns: At least one finding a claim. Where no comparison at full scale bears on it, the first says "not run".
    """
    comparisons = list(comparisons)
    findings: list[Finding] = []
    for claim in CLAIMS:
        found = [finding for one in comparisons if (finding := judge(claim, one)) is not None]
        if not any(finding.setting == "full" for finding in found):
            findings.append(Finding(claim, "full", Status.NOT_RUN))
        findings += found
    return findings


def judge_comparison(comparison: Comparison) -> list[Finding]:
    """Judge the claims that one comparison bears on."""
    return [finding for claim in CLAIMS if (finding := judge(claim, comparison)) is not None]


def judge(claim: Claim, comparison: Comparison) -> Finding | None:
    """Say what a comparison says of a claim; None if it bears on it in no part, or is of scale smoke."""
    recipe = comparison.recipe
    if not isinstance(recipe, Pipeline) or recipe.name not in claim.recipes or recipe.scale == "smoke":
        return None
    criterion = criterion_of(recipe)
    if criterion.metric is PERPLEXITY:  # It is compared by its logarithm, the loss, as the papers' sizes are.
        criterion = Criterion(LOSS, LOSS.margin)
    if claim.margin is not None:
        criterion = criterion._replace(margin=claim.margin)
    parts, absent = _compare_parts(claim, comparison, criterion)
    if not parts:
        return None
    setting = setting_of(recipe)
    status, best = _status(claim.kind, parts), parts[0].best
    within = best.equivalent and not best.shown and (claim.size or 0) > best.criterion.margin
    if setting == "full" and within and parts[0].part == claim.parts[0]:
        status = Status.CONTRADICTED  # What should differ by more than the margin is shown to differ by less.
    if absent and status is Status.SUPPORTED:
        status = Status.UNDECIDED
    closest = min(parts, key=lambda one: one.best.improvement or 0.0)
    return Finding(
        claim=claim,
        setting=setting,
        status=status,
        detail=_detail(claim, closest, absent, setting, criterion.metric),
        seeds=min(difference.pairs for one in parts for difference in one.differences.values()),
        folder=comparison.folder,
    )


def setting_of(recipe: Pipeline) -> str:
    """Name the scale of a stored recipe, and where it differs from the lab's own recipe of that name and scale.

    Example:
        >>> setting_of(make_recipe("mnist", model="mlp").pipeline())
        'full, other model.kind'
    """
    try:
        own = flatten(make_recipe(recipe.name, scale=recipe.scale).pipeline())
    except GemError:
        return recipe.scale
    parts = ("data", "model", "training", "subset", "augmentation", "initialisation", "selection", "resplit")
    stored = flatten(recipe)
    shared = [key for part in parts for key in stored if key.partition(".")[0] == part and key in own]
    found = [key for key in shared if stored[key] != own[key]]
    found += ["learning rates"] if recipe.rates else []
    named = ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")
    return f"{recipe.scale}, other {named}" if found else recipe.scale


def find_comparisons(folders: Sequence[Path]) -> list[Comparison]:
    """Read the comparisons of some folders, or of the folders right inside them; none for the repository's own results.

    Raises: SettingError: none is given, and this is no checkout of the repository; StoreError: a folder holds no
        comparison, or a damaged one.
    """
    if not folders and not RESULTS.is_dir():
        raise SettingError(
            "an installed package carries no results; name folders of comparisons, such as runs/mnist, or the folder "
            "benchmarks/results of a checkout of the repository"
        )
    comparisons: list[Comparison] = []
    for folder in folders or [RESULTS]:
        kept = sorted(path.parent for path in folder.glob("*/comparison.json"))
        inside = [folder] if (folder / "comparison.json").exists() else kept
        if not inside:
            raise StoreError(f"{folder} holds no comparison: neither it nor a folder in it has a comparison.json")
        comparisons += map(read_comparison, inside)
    return comparisons


def _compare_parts(claim: Claim, comparison: Comparison, criterion: Criterion) -> tuple[list[_Part], list[str]]:
    """Compare the arms of each part that has runs; give the parts, and the activations of the claim without any.

    The leaders of a part are a family beside their rival, at 5 % over the number of rivals. All arms of the claim help
    to estimate the spread. If seeds were added until verdicts came, a part is judged by the look at which the first of
    its arms left, and at that look's level: by Boole's inequality all looks together keep the 5 %.
    """
    ours = _named_as(claim.arms, comparison.activations)
    found_runs = comparison_runs(comparison, criterion.metric)
    runs = [replace(run, arm=ours[run.arm]) for run in found_runs if run.arm in ours]
    order = sorted({run.seed for run in runs})
    there = [name for name in claim.arms if any(run.arm == name and run.value is not None for run in runs)]
    runs = [run for run in runs if run.arm in there]
    rivals = {part.rival for part in claim.parts}
    found: list[_Part] = []
    for part in claim.parts:
        leaders = [name for name in part.leaders if name in there]
        if part.rival not in there or not leaders:
            continue
        level, seeds, arms = ALPHA, order, there
        if comparison.max_seeds is not None:
            of_part = {name for name, own in ours.items() if own in (part.rival, *leaders)}
            left = (look for look in comparison.looks if not of_part.isdisjoint(look.left))
            look = next(left, comparison.looks[-1] if comparison.looks else None)
            level, seeds = (look.level, order[: look.seeds]) if look else (0.0, [])
            arms = [name for name in there if {run.seed for run in runs if run.arm == name}.issuperset(seeds)]
        arms = [part.rival, *leaders, *(name for name in arms if name not in (part.rival, *leaders))]
        compared = [run for run in runs if run.seed in seeds and run.arm in arms]
        analysis = analyse_runs(compared, criterion, part.rival, arms, alpha=level / len(rivals), family=len(leaders))
        differences = {arm.activation: one for arm, one in analysis.compared if arm.activation in leaders and one.pairs}
        if differences:
            found.append(_Part(part, differences))
    return found, [name for name in claim.arms if name not in there]


def _named_as(arms: Sequence[str], activations: Sequence[str]) -> dict[str, str]:
    """Return activation of a comparison -> arm of a claim that is the same function, as `egem(eps=1)` is `gem`."""

    def function(name: str) -> object:
        try:
            return parse(name).spec or name
        except ActivationNameError:  # The user's own, or one whose scale is found in the run.
            return name

    functions = {function(name): name for name in reversed(activations)}  # Of two spellings the first.
    return {functions[spec]: arm for arm in arms if (spec := function(arm)) in functions}


def _status(kind: str, parts: Sequence[_Part]) -> Status:
    """Say what the verdicts of all parts together make of a claim to be ahead, or to tie."""
    if kind == "tie":
        apart = [one.verdict if one.shown and not one.equivalent else None for one in (part.best for part in parts)]
        # Who is ahead of the best ties with none.
        contradicted = Verdict.WORSE in apart or all(verdict is Verdict.BETTER for verdict in apart)
    else:
        contradicted = any(all(one.verdict is Verdict.WORSE for one in part.differences.values()) for part in parts)
    if contradicted:
        return Status.CONTRADICTED
    holds = all(
        any(one.verdict is Verdict.BETTER or (kind == "tie" and one.equivalent) for one in part.differences.values())
        for part in parts
    )
    return Status.SUPPORTED if holds else Status.UNDECIDED


def _detail(claim: Claim, closest: _Part, absent: Sequence[str], setting: str, metric: Metric) -> str:
    """Say how far the leader is ahead of the rival that comes closest, and whether the paper's size is within reach."""
    best = closest.best
    size = f"{signed(best.mean or 0.0, metric)} {metric.difference_unit}".rstrip()
    words = f"{closest.closest} beside {closest.part.rival}: {size}"
    if best.interval is not None and best.error:
        words += f" {interval_text(best.interval, metric)}"
        if claim.size is not None and setting == "full" and closest.part == claim.parts[0]:
            inside = "inside" if best.interval.low <= metric.sign * claim.size <= best.interval.high else "outside"
            words += f"; the paper's {amount(claim.size, metric)} is {inside} the interval"
    if absent:
        words += f"; without {', '.join(absent)}"
    return words


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

    The folders, and what is raised, are those of `find_comparisons`.
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
    without = total - len({finding.claim.name for finding in findings if finding.folder})
    smaller = counts[Status.NOT_RUN] - without
    yield f"Not run at full scale: {smaller} with results at other settings, {without} without any."


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
        >>> from gem_activations.lab.claims import CLAIMS
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
