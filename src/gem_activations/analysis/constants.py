"""Signs of exact constants: by a ball where it excludes zero, else by exact algebra."""

from .balls import Expr, constant_ball, sign_of
from .spelling import simplest
from .values import CertificateError


def constant_sign(expression: Expr) -> int:
    """Give the sign of a real constant, proving zero by exact algebra where the ball cannot exclude it.

    Raises: CertificateError: neither decides, or the constant is not real.
    """
    sign = sign_of(constant_ball(expression))
    if sign is not None:
        return sign
    simple = simplest(expression)
    if simple.is_zero:
        return 0
    sign = sign_of(constant_ball(simple))
    if sign is None:
        raise CertificateError(f"cannot decide the sign of {expression}")
    return sign
