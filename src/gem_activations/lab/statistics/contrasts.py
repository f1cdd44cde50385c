"""Many arms beside one baseline: differences, their standard errors, and the critical values of the whole family.

The design is a table with a row an arm and a column a seed. Runs of one seed share initial weights and data order: a
seed is a block, and its effect cancels in every difference. Under equal spreads all rows together estimate one error
variance (two-way analysis of variance), which over few seeds is worth far more than the spread of one row; the critical
values are then Dunnett's. Equal spreads are not taken on trust. A row whose spread stands out is tested with its own
spread, and from five seeds on it leaves the common estimate if that is beyond doubt. The levels of these checks were
chosen by simulation: `benchmarks/simulate_verdicts.py` repeats it, docs/statistics.md has the reasons.

Every function works on the last two axes, so that a simulation passes thousands of tables at once.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

ALPHA = 0.05
SPREAD_LEVEL = 0.07
"""p of the check of equal spreads below which a row is tested with its own spread."""
POOL_LEVEL = 0.001
"""p of that check below which the row does not enter the common spread, from `POOL_SEEDS` seeds on."""
POOL_SEEDS = 5
# Values may differ by rounding alone: equal differences of counts over counts do.
RESOLUTION = 1e-12
_FIT_STEPS = 60
_NORMAL, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Contrasts(NamedTuple):
    """Arms minus the baseline; every field has the shape (..., arms).

    Attributes:
        pairs: Seeds with a value of both.
        mean: Mean difference over them; NaN without any.
        error: Standard error of the mean; NaN if it is not known. Differences without any spread have the error 0 from
            as many seeds on as a sign test needs, and else none.
        freedom: Its degrees of freedom.
        pooled: Whether the error comes from all arms together.
        critical: Mean over error at which the two-sided test of the whole family is at 5 %.
        critical_one_sided: The same for one-sided tests.
    """

    pairs: NDArray[np.int_]
    mean: Array
    error: Array
    freedom: NDArray[np.int_]
    pooled: Flags
    critical: Array
    critical_one_sided: Array

    @property
    def shown(self) -> Flags:
        """Whether the mean is shown to differ from 0."""
        return np.abs(self.mean) > np.maximum(self.critical * self.error, RESOLUTION)

    def within(self, margin: float) -> Flags:
        """Return whether the mean is shown to lie within the margin, by two one-sided tests."""
        return np.abs(self.mean) + self.critical_one_sided * self.error <= margin


def compare_rows(
    values: ArrayLike, *, alpha: float = ALPHA, method: str = "adaptive", family: int | None = None
) -> Contrasts:
    """Compare every row but the first with the first, paired by column, as one family of tests.

    Args:
        values: Shape (..., rows, seeds), the baseline in row 0; NaN for a run without a value.
        alpha: Level of the whole family.
        method: "adaptive" as described above; "pooled" or "own" for the one or the other throughout.
        family: Number of tests that share the level; None for all rows but the first.
    Returns: One contrast a row, without the first.
    Example:
        >>> found = compare_rows([[5.0, 6.0, 7.0], [6.0, 7.0, 8.1], [5.1, 6.0, 6.9]])
        >>> found.mean.round(2), found.shown, found.freedom
        (array([1.03, 0.  ]), array([ True, False]), array([4, 4]))
    """
    table = np.asarray(values, np.float64)
    family = int(family or table.shape[-2] - 1)
    there = ~np.isnan(table)
    paired = there[..., 1:, :] & there[..., :1, :]
    pairs = paired.sum(-1)
    difference = np.where(paired, table[..., 1:, :] - table[..., :1, :], 0.0)
    mean = difference.sum(-1) / np.where(pairs, pairs, np.nan)
    square = np.where(paired, (difference - mean[..., None]) ** 2, 0.0).sum(-1)
    spread = np.where(pairs > 1, square / np.maximum(pairs - 1, 1), np.nan)
    own_error, own_freedom = np.sqrt(spread / np.maximum(pairs, 1)), np.maximum(pairs - 1, 1)
    variance, freedom, apart = pooled_variance(table)
    pooled_error = np.sqrt(2 * variance[..., None] / np.maximum(pairs, 1))
    use_pool = np.isfinite(pooled_error) & (pairs > 1)
    if method == "adaptive":
        use_pool &= ~(apart[..., 1:] | apart[..., :1])
    elif method == "own":
        use_pool &= False
    error = np.where(use_pool, pooled_error, own_error)
    few = family * 0.5 ** (pairs - 1) > alpha
    error = np.where(error <= RESOLUTION, np.where(few, np.nan, 0.0), error)
    freedom = np.where(use_pool, freedom[..., None], own_freedom)
    critical: list[Array] = []
    for sides in (2, 1):
        reach: Array = special.stdtrit(freedom, 1 - alpha / (sides * max(family, 1)))  # Bonferroni's.
        for one in np.unique(freedom[use_pool]):
            reach = np.where(use_pool & (freedom == one), dunnett_critical(family, int(one), alpha, sides), reach)
        critical.append(reach)
    return Contrasts(pairs, mean, error, freedom, use_pool, *critical)


def pooled_variance(table: Array) -> tuple[Array, NDArray[np.int_], Flags]:
    """Estimate the error variance of one run that all rows share, and find the rows whose spread stands out.

    A row's spread is tested against that of the others by the exact F test of its deviations from their mean. The table
    (..., rows, seeds) has NaN for a run without a value.

    Returns: The variance, shape (...), NaN without degrees of freedom; these; the rows that stand out, (..., rows).
    """
    there = ~np.isnan(table)
    filled = np.where(there, table, 0.0)
    kept, apart = there, np.zeros(there.shape[:-1], bool)
    while True:  # The widest rows hide the next ones: those that leave are gone before the rest is looked at again.
        square = (_residuals(np.where(kept, filled, 0.0), kept) ** 2).sum(-1)
        rows, counts = kept.any(-1).sum(-1), kept.sum(-1)
        freedom = np.maximum(counts.sum(-1) - rows - kept.any(-2).sum(-1) + 1, 0)
        total = square.sum(-1)
        row_square = square * (rows / np.maximum(rows - 1, 1))[..., None]
        row_freedom = np.maximum(counts - 1, 0)
        rest = freedom[..., None] - row_freedom
        known = (row_freedom > 0) & (rest > 0)
        others = np.maximum(total[..., None] - row_square, 0.0) / np.where(known, rest, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = row_square / np.where(known, row_freedom, 1) / others
        p_value = np.where(known, special.fdtrc(np.where(known, row_freedom, 1), np.where(known, rest, 1), ratio), 1.0)
        p_value = np.where(np.isnan(p_value), 1.0, p_value)
        apart = apart | (p_value < SPREAD_LEVEL)
        leaves = (p_value < POOL_LEVEL) & kept.any(-1)
        if there.shape[-1] < POOL_SEEDS or not leaves.any():
            return np.where(freedom > 0, total / np.maximum(freedom, 1), np.nan), freedom, apart
        kept = kept & ~leaves[..., None]


def _residuals(filled: Array, there: Flags) -> Array:
    """Return what rows and columns do not explain. With holes the two-way fit is found by turns."""
    in_rows, in_columns = np.maximum(there.sum(-1), 1)[..., None], np.maximum(there.sum(-2), 1)[..., None, :]
    left = filled
    whole = bool((there | ~there.any(-1, keepdims=True)).all())  # Rows are full or empty: one turn is exact.
    for _ in range(1 if whole else _FIT_STEPS):
        left = np.where(there, left - left.sum(-1, keepdims=True) / in_rows, 0.0)
        left = np.where(there, left - left.sum(-2, keepdims=True) / in_columns, 0.0)
    return left


@lru_cache(maxsize=4096)
def dunnett_critical(arms: int, freedom: int, alpha: float = ALPHA, sides: int = 2) -> float:
    """Compute the critical value of Dunnett's test of some arms beside one baseline, with equal numbers of runs.

    Example:
        >>> round(dunnett_critical(3, 8), 2)  # 2.88 in Dunnett's table.
        2.88
    """
    step = optimize.brentq(lambda value: dunnett_p(value, arms, freedom, sides) - alpha, 0.0, 1e4, xtol=1e-6)
    return float(step)  # pyright: ignore[reportArgumentType] -- SciPy's stub allows for more results


def dunnett_p(statistic: float, arms: int, freedom: int, sides: int = 2) -> float:
    """Compute the chance that the largest of some t statistics that share a baseline and an error exceeds a value.

    Args:
        statistic: Positive for a two-sided test.
        arms: Number of statistics; each two are correlated by 1/2, as for equal numbers of runs.
        freedom: Degrees of freedom of the common error.
        sides: 2 for the largest absolute value, 1 for the largest.
    Source: Dunnett 1955, by quadrature over the baseline and the error.
    """
    scale, weight = _error_law(freedom)
    reach = np.multiply.outer(statistic * scale, np.ones_like(_NORMAL))
    inside = special.ndtr((reach - np.sqrt(0.5) * _NORMAL) / np.sqrt(0.5))
    if sides == 2:
        inside = inside - special.ndtr((-reach - np.sqrt(0.5) * _NORMAL) / np.sqrt(0.5))
    return float(1 - weight @ (inside**arms @ (_WEIGHTS / _WEIGHTS.sum())))


@lru_cache(maxsize=512)
def _error_law(freedom: int) -> tuple[Array, Array]:
    """Return points and weights of the law of the estimated over the true error."""
    nodes, weights = np.polynomial.legendre.leggauss(96)
    return np.sqrt(special.chdtri(freedom, (1 - nodes) / 2) / freedom), weights / 2
