"""How an arm is spelt: an activation of the catalog, or a member of the family whose scale is found in the run itself.

`egem(a=0.1sigma)` is calibrated before the first step: a is 0.1 times the deviation of the pre-activations.
`egem(a=1sigma..0.1sigma)` is calibrated to the first ratio and moves to the second along a half cosine.
`trainable=true` learns the scale, from eps, scale or a on.
"""

import re
from dataclasses import dataclass
from typing import Any

from ... import catalog
from ...errors import ActivationNameError
from ...grammar import Number, format_call, format_number, parse_call, quote

_SCALE = re.compile(r"\ba\s*=\s*([^\s,()]+?)\s*sigma(?:\s*\.\.\s*([^\s,()]+?)\s*sigma)?\s*(?=[,)])")
_TRAINABLE = re.compile(r",\s*trainable\s*=\s*true\s*(?=[,)])|\btrainable\s*=\s*true\s*,?")
_MEMBERS = ("egem", "segem")


@dataclass(frozen=True)
class Arm:
    """An activation as an arm of a comparison; called, it makes a module of it, whose scale is not calibrated.

    Attributes:
        base: The activation; of a calibrated arm, its eps stands for nothing.
        ratio: The scale over the deviation of the pre-activations at the start; None for a scale of its own.
        end: The same at the end of a schedule; None without one.
        trainable: Whether the scale is learnt.
    """

    base: catalog.Activation
    ratio: Number | None = None
    end: Number | None = None
    trainable: bool = False

    def __call__(self) -> Any:
        """Return a new `torch.nn.Module`."""
        from ...torch import make_activation

        return make_activation(self.base, **({"trainable": True} if self.trainable else {}))

    def __str__(self) -> str:
        """Write the canonical string, which `parse_arm` reads back."""
        text = str(self.base)
        if self.ratio is not None:
            scale = "..".join(f"{format_number(part)}sigma" for part in (self.ratio, self.end) if part is not None)
            text = re.sub(r"\beps=[^,)]+", f"a={scale}", text)
        return f"{text[:-1]}, trainable=true)" if self.trainable else text


def parse_arm(text: str) -> Arm:
    """Read an arm: what `catalog.parse` reads, and in `egem` and `segem` also `a=` and `trainable=true`.

    Raises: ActivationNameError: a malformed string, or a scale that is both trained and scheduled, or given twice;
        SpecError: a parameter out of its range.
    Example:
        >>> str(parse_arm("EGEM(trainable=true, a = 1/10 sigma)")), parse_arm("egem(n=2, a=1sigma..0.1sigma)").end
        ('egem(a=0.1sigma, trainable=true)', Fraction(1, 10))
        >>> str(parse_arm("gelu")), str(parse_arm("segem(a=1sigma, n=2)"))
        ('gelu', 'segem(n=2, a=1sigma, leak=0.01)')
    """
    plain, trained = _TRAINABLE.subn("", str(text).lower())
    plain, calibrated = _SCALE.subn(lambda match: f"a={match[1]}" + (f", a_end={match[2]}" if match[2] else ""), plain)
    if not trained and not calibrated:
        return Arm(catalog.parse(text))
    name, arguments = parse_call(plain)
    if catalog.find_name(name) not in _MEMBERS:
        raise ActivationNameError(f"{quote(text)}: a= and trainable= belong to {' and '.join(_MEMBERS)}")
    ratios = [arguments.pop(key, None) for key in ("a", "a_end")]
    if calibrated and {"eps", "scale"} & arguments.keys():
        raise ActivationNameError(f"{quote(text)}: give one of a, eps and scale")
    if any(ratio is not None and ratio <= 0 for ratio in ratios):
        raise ActivationNameError(f"{quote(text)}: a must be above 0, in units of sigma")
    if trained and ratios[1] is not None:
        raise ActivationNameError(f"{quote(text)}: a scale is scheduled or trained, not both")
    base = catalog.parse(format_call(name, arguments))
    return Arm(base, *ratios, trainable=bool(trained))
