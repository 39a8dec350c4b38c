"""Thresholds with a guarantee, chosen on the calibration split: arrays in, no paths and no torch.

A promise names a risk, a level epsilon and a method:

- `learn-then-test` (Angelopoulos et al. 2021): with probability 1 - delta at least over the calibration units, the
  chosen threshold's risk is at most epsilon. "The risk exceeds epsilon" is tested for one threshold after another, the
  safest first, each at level delta, until a test fails. The order is fixed before the data are seen, so this
  fixed-sequence testing keeps the chance of any false promise at delta. The p-values are Hoeffding-Bentkus, by MAPIE.
  The promise holds for all thresholds that pass at once, so the one with the least computation may be taken.
- `conformal-risk-control` (Angelopoulos et al. 2022): the chosen threshold's risk is at most epsilon in expectation
  over the calibration units. It needs losses that never fall from the safest threshold on; a unit's loss is therefore
  taken as the highest so far.

If not even the safest threshold passes, none is chosen, and the full model, without heads, keeps the promise. Each
promise holds by itself; that several hold at once is less probable.
"""

from typing import Any

import numpy as np
from mapie.risk_control import control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

from early_exit.evaluation.risks import NOT_OF_FULL, UnitLosses
from early_exit.experiment.config.run import Promise

LEVELS = np.arange(1, 1000) / 1000.0  # at which an upper confidence bound is looked for
DIGITS = 9  # rounds sums of losses, since a ceiling would see their rounding errors
NONE = -1  # in place of a setting's index: no setting keeps the promise


def p_values(sums: np.ndarray, units: int, epsilon: float | np.ndarray, *, binary: bool) -> np.ndarray:
    """Hoeffding-Bentkus p-values of "the risk exceeds epsilon", given sums of losses over so many units.

    Of the shape of `sums` for one epsilon, with one more axis for an array (levels,). For binary losses, which `sums`
    counts, the exact binomial tail, else Hoeffding's or Bentkus' bound, whichever is lower.
    """
    totals, places = np.unique(np.round(sums, DIGITS), return_inverse=True)
    means = totals / units
    # MAPIE takes the ceiling of units * mean. As floats that may lie just above the count that the mean came from, and
    # the ceiling is one too many: 0.07 * 100 is 7.000000000000001. The next smaller mean returns the count itself.
    while (above := np.ceil(units * means) > np.ceil(totals)).any():
        means[above] = np.nextafter(means[above], 0.0)
    levels = np.atleast_1d(np.asarray(epsilon, dtype=float))
    values = compute_hoeffding_bentkus_p_value(means, int(units), levels, binary=binary)
    shape = np.shape(sums) + (() if np.ndim(epsilon) == 0 else levels.shape)
    return values[places.ravel()].reshape(shape)


def learn_then_test(sums: np.ndarray, units: int, promise: Promise, *, binary: bool) -> tuple[np.ndarray, np.ndarray]:
    """(p-values, passed), both (draws, settings), given sums of losses in that shape, the safest setting first."""
    values = p_values(sums, units, promise.epsilon, binary=binary)
    # How far a sequence gets depends only on which tests fail, and few of many draws differ in that.
    _, first, places = np.unique(values <= promise.delta, axis=0, return_index=True, return_inverse=True)
    patterns = np.zeros((len(first), values.shape[1]), dtype=bool)
    for pattern, draw in zip(patterns, first, strict=True):
        pattern[control_fwer(values[draw], promise.delta, "fixed_sequence")] = True
    return values, patterns[places.ravel()]


def conformal_risk_control(sums: np.ndarray, units: int, promise: Promise) -> tuple[np.ndarray, np.ndarray]:
    """(bounds on the expectation, passed), as `learn_then_test`; the losses must never fall along the settings."""
    bound = (sums + 1.0) / (units + 1)  # 1: the highest loss that the next unit may have
    return bound, bound <= promise.epsilon + 10.0**-DIGITS


def certify(losses: np.ndarray, drawn: np.ndarray, promise: Promise, *, binary: bool) -> tuple[np.ndarray, np.ndarray]:
    """(statistic, passed), both (draws, settings): p-value or bound on the expectation, and which settings pass.

    Args:
        losses: (units, settings) in [0, 1], the safest setting first.
        drawn: (draws, units) how often each unit is in each calibration set; all sets are equally large.
        promise: its method, epsilon and delta.
        binary: whether a loss can be 0 or 1 only.
    """
    drawn = np.asarray(drawn, dtype=float)
    units = int(drawn[0].sum())
    if promise.method == "conformal-risk-control":
        return conformal_risk_control(drawn @ np.maximum.accumulate(losses, axis=1), units, promise)
    return learn_then_test(drawn @ losses, units, promise, binary=binary)


def choose(passed: np.ndarray, cost: np.ndarray, risk: str) -> np.ndarray:
    """(draws,) index of the cheapest setting that passed, at equal cost the safer one; NONE where none passed.

    `passed` and `cost` are (draws, settings), the safest setting first; a cost without any decode pass is NaN and
    counts as the highest. The full model costs 1. For a risk that it does not have, no setting is taken that costs as
    much or more.
    """
    if risk in NOT_OF_FULL:
        passed = passed & ~(cost >= 1.0)
    cheapest = np.where(passed, np.nan_to_num(cost, nan=np.finfo(float).max), np.inf).argmin(axis=1)
    return np.where(passed.any(axis=1), cheapest, NONE)


def flops_share(units: UnitLosses, drawn: np.ndarray) -> np.ndarray:
    """(draws, settings) FLOPs of the decode passes over the full model's, all included; NaN without any pass."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (drawn @ units.flops) / (drawn @ units.flops_full)


def upper_bounds(sums: np.ndarray, units: int, delta: float, *, binary: bool) -> np.ndarray:
    """(settings,) the upper confidence bounds at 1 - delta on the risks, each for one setting alone.

    A bound is the lowest of LEVELS for which "the risk exceeds it" has a p-value of at most delta, else 1. `sums`
    (settings,) are of losses over so many units.
    """
    is_below = p_values(sums, units, LEVELS, binary=binary) <= delta
    return np.where(is_below.any(axis=1), LEVELS[is_below.argmax(axis=1)], 1.0)


def calibrate(sample: UnitLosses, promise: Promise) -> dict[str, Any]:
    """The threshold that keeps a promise and how it was found, as `thresholds.schema.yaml` says.

    `sample` is the calibration split, with the safest setting first. `threshold` is None if no setting keeps the
    promise for less than the full model costs.
    """
    risk, by_test = promise.risk, promise.method == "learn-then-test"
    losses, binary, units = sample.losses[risk], sample.binary[risk], len(sample.groups)
    everything = np.ones((1, units))
    statistic, passed = certify(losses, everything, promise, binary=binary)
    share = flops_share(sample, everything)
    (place,) = choose(passed, share, risk)
    bounds = upper_bounds(losses.sum(axis=0), units, promise.delta, binary=binary) if by_test else statistic[0]
    curve = [
        {
            "threshold": float(setting),
            "risk": float(losses[:, i].mean()),
            "p_value": float(statistic[0, i]) if by_test else None,
            "bound": float(bounds[i]),
            "passed": bool(passed[0, i]),
            "flops_share": None if np.isnan(share[0, i]) else float(share[0, i]),
        }
        for i, setting in enumerate(sample.settings)
    ]
    return {
        "risk": risk,
        "method": promise.method,
        "epsilon": promise.epsilon,
        "delta": promise.delta if by_test else None,
        "n": units,
        "binary": binary,
        "threshold": None if place == NONE else curve[place]["threshold"],
        "curve": curve,
    }
