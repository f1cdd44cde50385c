"""ONE frozen table of what the two papers claim of experiments: statement, recipe, arms, direction, size.

We read both papers through their abstracts and public summaries; statements are in our words. Where a paper leaves the
eps of E-GEM open, the claim is read at eps = 1e-4. Sizes are in the metric's stored unit: accuracies are fractions,
differences of perplexity are given as differences of their logarithm, in nats. `evidence` says what results say.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ...catalog import parse
from ..recipes.registry import LARGE_EPS, SMALL_EPS, TWENTY

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
