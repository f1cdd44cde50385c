"""The string grammar of activations: `name` or `name(key=value, ...)`, with exact numbers.

`1e-4` and `1/10000` are read as the same rational number, so that nothing is lost between a command line and an
exact analysis. Every value is a number, or an option as a printed module has it: the grammar never evaluates code.
"""

import difflib
import math
import re
import reprlib
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any

from .errors import ActivationNameError

Number = int | Fraction

_CALL = re.compile(r"\s*([a-z][a-z0-9_-]*)\s*(?:\(([^()]*)\))?\s*")
_ARGUMENT = re.compile(r"\s*([a-z][a-z0-9_]*)\s*=\s*(\S(?:.*\S)?)\s*")
_NUMBER = re.compile(r"[+-]?(\d+/\d+|(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?)", re.IGNORECASE)
# What a printed module says of how it computes, not of which function.
_OPTIONS = ("approximate", "backend", "channels", "inplace", "save", "trainable")
_OPTION_VALUE = re.compile(r"true|false|'[a-z_]+'|[1-9]\d{0,8}", re.IGNORECASE)
# More than any float64 needs; both what is read and what is written back must fit.
_MAX_CHARACTERS = 40
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_FORM = "expected name or name(key=number, ...), for example egem(n=2, eps=1e-4)"


def parse_call(text: str, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Number]]:
    """Read `name(key=value, ...)` into a name and its exact arguments.

    Args:
        text: The string; blanks are free, names are lower case.
        options: Takes the options of a printed module, such as inplace=True or save='input'; None to refuse them.
    Returns: The name, and the arguments in the order given: whole numbers as int, all others as Fraction.
    Raises: ActivationNameError: the string does not follow the grammar, gives an argument twice, or gives a number
        that is too long, or that a float64 would round to 0 or infinity.
    Example:
        >>> parse_call("egem(n=2, eps=1e-4)")
        ('egem', {'n': 2, 'eps': Fraction(1, 10000)})
    """
    match = _CALL.fullmatch(str(text))
    if match is None:
        raise ActivationNameError(f"{quote(text)} is not an activation: {_FORM}")
    name, inside = match.groups()
    arguments: dict[str, Number] = {}
    for part in inside.split(",") if inside and inside.strip() else []:
        argument = _ARGUMENT.fullmatch(part)
        if argument is None:
            raise ActivationNameError(f"{quote(text)}: cannot read {quote(part.strip())}; {_FORM}")
        key, value = argument.groups()
        if key in arguments or key in (options or ()):
            raise ActivationNameError(f"{quote(text)}: {quote(key)} is given twice; give it once")
        if options is not None and key in _OPTIONS and _OPTION_VALUE.fullmatch(value):
            word = value.strip("'")
            options[key] = int(word) if word.isdigit() else {"true": True, "false": False}.get(word.lower(), word)
            continue
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


def scale_to_eps(arguments: Mapping[str, Number], text: str) -> dict[str, Number]:
    """Replace the argument `scale` by eps = scale^(2n), exact if it has at most 40 characters, else rounded to float64.

    Args:
        arguments: Of a member of the family; without `scale` they are returned as they are.
        text: What the user wrote, for the message.
    Raises: ActivationNameError: `eps` is given as well; a scale that is not above 0; an eps that no float64 holds.
    Example:
        >>> scale_to_eps({"n": 2, "scale": Fraction(1, 100)}, "egem(n=2, scale=0.01)")
        {'n': 2, 'eps': Fraction(1, 100000000)}
    """
    if "scale" not in arguments:
        return dict(arguments)
    scale, order = arguments["scale"], arguments.get("n", 1)
    if "eps" in arguments:
        raise ActivationNameError(f"{quote(text)}: give eps or scale, not both; eps = scale^(2n)")
    if not scale > 0:
        raise ActivationNameError(f"{quote(text)}: scale must be above 0")
    if not isinstance(order, int) or not 1 <= order <= 64:
        eps: Number = scale  # The order is refused where it is checked.
    else:
        eps = scale ** (2 * order)
    if not _representable(eps):
        raise ActivationNameError(f"{quote(text)}: eps = scale^{2 * order} leaves the range of float64")
    if len(format_number(eps)) > _MAX_CHARACTERS:
        eps = to_exact(float(eps))
    return {("eps" if key == "scale" else key): (eps if key == "scale" else value) for key, value in arguments.items()}


def to_exact(value: Number | float) -> Number:
    """Read a number as the exact rational that its shortest decimal spelling stands for.

    Example:
        >>> to_exact(0.1), to_exact(2.0)
        (Fraction(1, 10), 2)
    """
    exact = Fraction(repr(float(value))) if isinstance(value, float) else Fraction(value)
    return int(exact) if exact.denominator == 1 else exact


def quote(text: object) -> str:
    """Quote a user's text for a message in one line; the middle of a long text is left out.

    Example:
        >>> quote("gellu"), len(quote("9" * 5000))
        ("'gellu'", 80)
    """
    return _SHORT.repr(text)


def suggest(name: str, known: Collection[str], all_of_them: str) -> str:
    """Return the end of a message that a name is not known: the nearest names, or all of them.

    Example:
        >>> suggest("digit", ["digits", "mnist"], "the recipes are"), suggest("x", ["a", "b"], "the letters are")
        ('did you mean digits?', 'the letters are a, b')
    """
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"{all_of_them} {', '.join(known)}"


def _parse_number(value: str, text: str) -> Number:
    if _NUMBER.fullmatch(value) is None or ("/" in value and not value.rpartition("/")[2].strip("0")):
        raise ActivationNameError(
            f"{quote(text)}: {quote(value)} is not a finite number; write for example 2, 0.01, 1e-4 or 1/3"
        )
    if len(value) > _MAX_CHARACTERS:
        raise ActivationNameError(_too_long(value, text))
    exact = to_exact(Fraction(value))
    if not _representable(exact):
        bound = "small" if abs(exact) < 1 else "large"
        raise ActivationNameError(f"{quote(text)}: {value} is too {bound} for a float64; write 0 or 1e-300 to 1e300")
    if len(format_number(exact)) > _MAX_CHARACTERS:
        raise ActivationNameError(_too_long(value, text))
    return exact


def _too_long(value: str, text: str) -> str:
    return f"{quote(text)}: {quote(value)} has too many digits; write at most 17"


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
