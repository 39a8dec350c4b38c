"""Percentile bootstrap intervals over groups of rows.

Rows of one group are not independent: the turns of a CoQA conversation are a group, elsewhere each example is one. So
whole groups are drawn with replacement (Davison & Hinkley 1997, section 3.8), as many as there are. The statistic is a
ratio of sums over the rows drawn; a mean is the ratio of the values' sum to the number of rows.

The draws depend only on the seed and the number of groups. Settings that were run on the same examples therefore see
the same resamples and may be compared resample by resample.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

Interval = tuple[float, float]


def interval(values: ArrayLike, groups: ArrayLike, *, seed: int, resamples: int, level: float = 0.95) -> Interval:
    """(low, high) of the mean of `values` (rows,), in their unit; `groups` (rows,) names the group of each row.

    With a single group, or equal values, both ends are the mean: such data say nothing about spread. Both are NaN if a
    value is. ValueError if the input is empty or of different lengths, or the level is outside (0, 1).
    """
    values = np.asarray(values, dtype=float)
    return ratio_interval(values, np.ones_like(values), groups, seed=seed, resamples=resamples, level=level)


def ratio_interval(
    numerator: ArrayLike, denominator: ArrayLike, groups: ArrayLike, *, seed: int, resamples: int, level: float = 0.95
) -> Interval:
    """(low, high) of sum(numerator) / sum(denominator), both (rows,): FLOPs of a setting over the full model's.

    A share saved is 1 minus the ratio, with its ends swapped. The denominator must not be negative. Resamples in which
    it is 0 have no ratio and are left out; if all are, both ends are NaN. Otherwise as `interval`.
    """
    numerator, denominator = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level {level} is not between 0 and 1")
    if resamples < 1:
        raise ValueError(f"resamples {resamples} is less than 1")
    if np.any(denominator < 0.0):
        raise ValueError("the denominator of a ratio has negative values")

    # The statistic is a ratio of sums, so all that a resample needs is how often it drew each group.
    top, bottom = group_sums(numerator, groups), group_sums(denominator, groups)
    drawn = draws(seed, len(top), resamples)
    tops, bottoms = drawn @ top, drawn @ bottom
    ratios = tops[bottoms != 0.0] / bottoms[bottoms != 0.0]
    if not len(ratios):
        return float("nan"), float("nan")
    low, high = np.quantile(ratios, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def paired_difference(
    values: ArrayLike, others: ArrayLike, groups: ArrayLike, *, seed: int, resamples: int, level: float = 0.95
) -> Interval:
    """(low, high) of mean(values) - mean(others), both (rows,) of the same examples, row by row; see `interval`.

    It is far narrower than the intervals of the two means suggest if both settings err on the same examples.
    """
    values, others = np.asarray(values, dtype=float), np.asarray(others, dtype=float)
    if values.shape != others.shape:
        raise ValueError(f"paired values have shapes {values.shape} and {others.shape}")
    return interval(values - others, groups, seed=seed, resamples=resamples, level=level)


def summary(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """(value, low, high) of a statistic: `values` (1 + resamples,) are the sample's value and those of the resamples.

    Resamples in which it is not defined (NaN) are left out. If they are more than one tail of the interval, it could
    lie anywhere, and `low` and `high` are NaN.
    """
    value, defined = float(values[0]), values[1:][~np.isnan(values[1:])]
    if np.isnan(value) or len(defined) < (1.0 + level) / 2.0 * (len(values) - 1):
        return value, float("nan"), float("nan")
    low, high = np.quantile(defined, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return value, float(low), float(high)


def p_value(resamples: np.ndarray, null: float) -> float:
    """The two-sided p-value of `null`: twice the share of resamples on its rarer side (Davison & Hinkley 1997, 4.2).

    Ties and NaN count on both sides. It is at least 2 / (resamples + 1), the least that so many resamples can show.
    """
    above, below = (resamples > null).sum(), (resamples < null).sum()
    rarer = len(resamples) - max(above, below)
    return min(1.0, 2.0 * (rarer + 1) / (len(resamples) + 1))


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values adjusted for their number (Holm 1979): rejecting those up to 0.05 errs in at most 5 % of families."""
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def group_sums(values: np.ndarray, groups: ArrayLike) -> np.ndarray:
    """(groups,) sums of `values` (rows,), groups in the order of their sorted names so that settings line up."""
    groups = np.asarray(groups)
    if values.ndim != 1 or values.shape != groups.shape or not len(values):
        raise ValueError(f"values {values.shape} and groups {groups.shape} must be equally long, and not empty")
    names, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, weights=values, minlength=len(names))


@lru_cache(maxsize=3)  # one per dataset; 144 MB for 1,000 resamples of TriviaQA's 17,944 validation questions
def draws(seed: int, groups: int, resamples: int) -> np.ndarray:
    """(resamples, groups) how often each group is drawn; float64, so that a product with sums runs in BLAS.

    It is read-only, because it is shared. A larger number of resamples begins with the same ones.
    """
    generator = np.random.default_rng([seed, groups])
    counts = np.empty((resamples, groups))
    for resample in counts:
        resample[:] = np.bincount(generator.integers(groups, size=groups), minlength=groups)
    counts.flags.writeable = False
    return counts
