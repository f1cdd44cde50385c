"""The string grammar of activations: `name` or `name(key=value, ...)`, with exact numbers.

`1e-4` and `1/10000` are read as the same rational number, so that nothing is lost between a command line and an
exact analysis. Every value is a number: the grammar never evaluates code.
"""

import math
import re
from collections.abc import Mapping
from fractions import Fraction

from .errors import ActivationNameError

Number = int | Fraction

_CALL = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(?:\(([^()]*)\))?\s*")
_ARGUMENT = re.compile(r"\s*([a-z][a-z0-9_]*)\s*=\s*(\S(?:.*\S)?)\s*")
_NUMBER = re.compile(r"[+-]?(\d+/\d+|(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?)", re.IGNORECASE)
_FORM = "expected name or name(key=number, ...), for example egem(n=2, eps=1e-4)"


def parse_call(text: str) -> tuple[str, dict[str, Number]]:
    """Read `name(key=value, ...)` into a name and its exact arguments.

    Args:
        text: The string; blanks are free, names are lower case.
    Returns: The name, and the arguments in the order given: whole numbers as int, all others as Fraction.
    Raises: ActivationNameError: the string does not follow the grammar, or gives an argument twice.
    Example:
        >>> parse_call("egem(n=2, eps=1e-4)")
        ('egem', {'n': 2, 'eps': Fraction(1, 10000)})
    """
    match = _CALL.fullmatch(str(text))
    if match is None:
        raise ActivationNameError(f"{text!r} is not an activation: {_FORM}")
    name, inside = match.groups()
    arguments: dict[str, Number] = {}
    for part in inside.split(",") if inside and inside.strip() else []:
        argument = _ARGUMENT.fullmatch(part)
        if argument is None:
            raise ActivationNameError(f"{text!r}: cannot read {part.strip()!r}; {_FORM}")
        key, value = argument.groups()
        if key in arguments:
            raise ActivationNameError(f"{text!r}: {key} is given twice; give it once")
        arguments[key] = _parse_number(value, text)
    return name, arguments


def format_call(name: str, arguments: Mapping[str, Number | float]) -> str:
    """Write a name and its arguments as the string that `parse_call` reads back to the same values.

    Example:
        >>> format_call("egem", {"n": 2, "eps": Fraction(1, 10000)})
        'egem(n=2, eps=1e-4)'
    """
    inside = ", ".join(f"{key}={format_number(value)}" for key, value in arguments.items())
    return f"{name}({inside})" if inside else name


def format_number(value: Number | float) -> str:
    """Write a number in the shortest of its exact spellings: whole, decimal, exponent or ratio.

    Example:
        >>> format_number(1e-4), format_number(0.01), format_number(Fraction(1, 3)), format_number(1.0)
        ('1e-4', '0.01', '1/3', '1')
    """
    exact = to_exact(value)
    if isinstance(exact, int) and abs(exact) < 10**6:
        return str(exact)
    spellings = [_shorten(repr(float(exact)))] if _representable(exact) else []
    spellings += [_scientific(spelling) for spelling in spellings]
    faithful = [spelling for spelling in spellings if Fraction(spelling) == exact]
    return min(faithful, key=len, default=str(exact))


def to_exact(value: Number | float) -> Number:
    """Read a number as the exact rational that its shortest decimal spelling stands for.

    Example:
        >>> to_exact(0.1), to_exact(2.0)
        (Fraction(1, 10), 2)
    """
    exact = Fraction(repr(float(value))) if isinstance(value, float) else Fraction(value)
    return int(exact) if exact.denominator == 1 else exact


def _parse_number(value: str, text: str) -> Number:
    if _NUMBER.fullmatch(value) is None or ("/" in value and not value.rpartition("/")[2].strip("0")):
        raise ActivationNameError(f"{text!r}: {value!r} is not a finite number; write for example 2, 0.01, 1e-4 or 1/3")
    return to_exact(Fraction(value))


def _representable(exact: Number) -> bool:
    try:
        return math.isfinite(float(exact)) and (exact == 0) == (float(exact) == 0)
    except OverflowError:
        return False


def _shorten(spelling: str) -> str:
    mantissa, mark, exponent = spelling.partition("e")
    mantissa = mantissa.removesuffix(".0")
    return f"{mantissa}{mark}{int(exponent)}" if mark else mantissa


def _scientific(spelling: str) -> str:
    digits = Fraction(spelling)
    exponent = math.floor(math.log10(abs(digits))) if digits else 0
    return f"{_shorten(repr(float(digits / Fraction(10) ** exponent)))}e{exponent}"
