"""Policies at equal compute, and each setting against the full model, with intervals that are paired over examples.

A policy's settings (thresholds, numbers of blocks dropped) are points of a curve: quality against the FLOPs saved on
the decode passes, everything counted. Between neighbouring points, in the order of what they save, the curve is a
straight line, which is roughly what sending some requests through one setting and the rest through the other would
reach. Points that save the same count as their mean. The curve is used as measured: no frontier is picked out of it,
which would favour policies with more points, and nothing is extrapolated.

Two policies are compared where both curves are: at given savings, and by the mean height over the common range (the
area under the curve over its width). In a resample, curves and common range are those of the resample. FLOPs are of
the tokens that a setting generated; that longer answers take more of them does not show here.
"""

from collections.abc import Mapping
from itertools import product
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from early_exit.base.records import ALL_METRICS, MAIN_METRIC
from early_exit.evaluation import bootstrap
from early_exit.evaluation.resampled import Curve, ResampledRuns
from early_exit.experiment.config.policies import is_untrained

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # shares of FLOPs saved at which curves are compared
COMPARISONS = ("static-pruning", "stateless-head", "state-fill", "adaptive-threshold", "no-training", "random-exits")
STATELESS = ("calm", "ffn")
FREE_FILLS = ("copy", "skip")
LOSSLESS = ("full", "self-speculative")  # their answers are the full model's: no curve
DIFFERENCES = {**dict.fromkeys(ALL_METRICS), "degenerate": None, "mean_tokens": "tokens"}  # and their columns, if other
SETTING = ("preset", "backbone", "family", "dataset", "policy", "head", "state_fill")
EQUAL_COLUMNS = (
    "preset", "backbone", "family", "dataset", "metric", "comparison", "policy", "head", "state_fill", "reference",
    "examples", "groups", "saved_from", "saved_to", "points", "reference_points", "at", "value", "reference_value",
    "difference", "difference_low", "difference_high",
)  # fmt: skip
STANDING_COLUMNS = (
    "preset", "backbone", "family", "dataset", "metric", "policy", "kind", "adapt", "head", "state_fill", "examples",
    "groups", "points", "saved_from", "saved_to", "at", "value", "difference", "difference_low", "difference_high",
)  # fmt: skip


def compared_pairs(runs: ResampledRuns) -> list[tuple[str, str, str]]:
    """(comparison, policy, reference) of every pair that is compared at equal compute.

    `static-pruning`: each policy against every pruning, and every other pruning against the first; `stateless-head`: a
    Mamba head against a linear or FFN head with the same state fill; `state-fill`: propagate against a fill that
    costs nothing, with the same head; `adaptive-threshold`: thresholds that adapt against one that does not, of the
    same confidence; `no-training`: a head against a confidence that needs no training, with the same state fill;
    `random-exits`: a policy against exits drawn at that policy's rates.
    """
    curves = [curve for curve in runs.curves.values() if curve.kind not in LOSSLESS]
    pruned = [curve for curve in curves if curve.kind == "pruned"]
    heads = [curve for curve in curves if curve.is_head]
    pairs = [("static-pruning", one, other) for one in curves if one.kind != "pruned" for other in pruned]
    pairs += [("static-pruning", one, pruned[0]) for one in pruned[1:]]
    for one, other in product(heads, heads):
        if one.head_kind == "mamba" and other.head_kind in STATELESS and one.state_fill == other.state_fill:
            pairs.append(("stateless-head", one, other))
        if one.head == other.head and one.state_fill == "propagate" and other.state_fill in FREE_FILLS:
            pairs.append(("state-fill", one, other))
    alike = attrgetter("kind", "head", "state_fill")
    for one, other in product(curves, curves):
        if one.adapt and not other.adapt and alike(one) == alike(other):
            pairs.append(("adaptive-threshold", one, other))
        if one.is_head and is_untrained(other.kind) and not other.adapt and one.state_fill == other.state_fill:
            pairs.append(("no-training", one, other))
        if other.match == one.policy:
            pairs.append(("random-exits", one, other))
    return [(name, one.policy, other.policy) for name, one, other in sorted(pairs, key=_comparison)]


def _comparison(pair: tuple) -> int:
    return COMPARISONS.index(pair[0])


def curve_points(runs: ResampledRuns, policy: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """(saved, mean), both (1 + resamples, points): a policy's curve in ascending order of what it saves.

    Points that save the same stand at their mean. The full model, which drops no block, is the first point of static
    pruning's curve.
    """
    curve, full = runs.curves[policy], runs.curves["full"]
    x, y = curve.saved(), curve.mean(column)
    if curve.kind == "pruned":
        x, y = np.hstack([full.saved(), x]), np.hstack([full.mean(column), y])
    measured = ~np.isnan(x[0])  # answers of one token have no decode pass
    x, y = x[:, measured].round(9), y[:, measured]
    same = x[:, :, None] == x[:, None, :]
    with np.errstate(invalid="ignore"):
        y = (same * y[:, None, :]).sum(axis=2) / same.sum(axis=2)
    order = np.argsort(x, axis=1, kind="stable")
    return np.take_along_axis(x, order, axis=1), np.take_along_axis(y, order, axis=1)


def common_range(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(from, to) of the savings that both curves reach, each (1 + resamples,); NaN where they share no range."""
    if not (a.shape[1] and b.shape[1]):
        return np.full(len(a), np.nan), np.full(len(a), np.nan)
    low, high = np.maximum(a.min(axis=1), b.min(axis=1)), np.minimum(a.max(axis=1), b.max(axis=1))
    shared = low < high
    return np.where(shared, low, np.nan), np.where(shared, high, np.nan)


def mean_height(x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Area under each curve from `low` to `high`, which lie on it, over the width: (1 + resamples,)."""
    start, low, high = x[:, :-1], low[:, None], high[:, None]
    left, right = np.clip(start, low, high), np.clip(x[:, 1:], low, high)
    middle = y[:, :-1] + _slopes(x, y) * ((left + right) / 2.0 - start)
    return ((right - left) * middle).sum(axis=1) / (high - low)[:, 0]


def height_at(x: np.ndarray, y: np.ndarray, level: float) -> np.ndarray:
    """Height of each curve at one saving: (1 + resamples,); NaN where the curve does not reach it."""
    start, end = x[:, :-1], x[:, 1:]
    within = (start <= level) & (level <= end) & (start < end)  # two segments at a point that they share
    heights = np.where(within, y[:, :-1] + _slopes(x, y) * (level - start), 0.0).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return heights / within.sum(axis=1)


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    run, rise = np.diff(x, axis=1), np.diff(y, axis=1)
    return np.divide(rise, run, out=np.zeros_like(run), where=run > 0.0)


def area_difference(runs: ResampledRuns, policy: str, reference: str, column: str) -> np.ndarray:
    """Mean height of one policy's curve minus that of another over their common range: (1 + resamples,)."""
    one, other = curve_points(runs, policy, column), curve_points(runs, reference, column)
    shared = common_range(one[0], other[0])
    return mean_height(*one, *shared) - mean_height(*other, *shared)


def equal_compute(runs: ResampledRuns, preset: str) -> pd.DataFrame:
    """equal_compute.csv: every pair of policies at equal compute, with the columns EQUAL_COLUMNS.

    For each pair the dataset's main metric and the agreement, in 0..100. The row whose `at` is NaN has the means over
    the common range `saved_from` .. `saved_to`, in which the curves have `points` and `reference_points`; all NaN and 0
    if there is no such range. The other rows have the heights at one saving: a row for each of LEVELS in that range. A
    difference has no interval if too many resamples lack its place (see `bootstrap.summary`).
    """
    rows = [
        row
        for pair in compared_pairs(runs)
        for metric in (MAIN_METRIC[runs.kind], "agreement")
        for row in _pair_rows(runs, pair, metric)
    ]
    return pd.DataFrame(rows, columns=list(EQUAL_COLUMNS)).assign(preset=preset)


def _pair_rows(runs: ResampledRuns, pair: tuple[str, str, str], metric: str) -> list[dict[str, Any]]:
    """The rows of one pair and metric: the mean heights over the common range, then the heights at LEVELS."""
    comparison, policy, reference = pair
    one, other = curve_points(runs, policy, metric), curve_points(runs, reference, metric)
    low, high = common_range(one[0], other[0])
    points, reference_points = (int(((low[0] <= x[0]) & (x[0] <= high[0])).sum()) for x, _ in (one, other))
    names = _run_columns(runs) | {
        "metric": metric, "comparison": comparison, "policy": policy, "head": runs.curves[policy].head,
        "state_fill": runs.curves[policy].state_fill, "reference": reference, "saved_from": low[0], "saved_to": high[0],
        "points": points, "reference_points": reference_points,
    }  # fmt: skip
    heights = {float("nan"): [mean_height(*curve, low, high) for curve in (one, other)]}
    for level in LEVELS:
        if low[0] <= level <= high[0]:
            heights[level] = [height_at(*curve, level) for curve in (one, other)]
    return [
        names | {"at": at, "value": height[0], "reference_value": other_height[0]} | _difference(height - other_height)
        for at, (height, other_height) in heights.items()
    ]


def standings(runs: ResampledRuns, preset: str) -> pd.DataFrame:
    """policies.csv: what every policy loses against the full model at equal compute, with STANDING_COLUMNS.

    For each policy, main metric or agreement (0..100), and each of LEVELS above 0: the height of its curve there, and
    that minus the full model's on the same examples, with its interval; NaN where the curve does not reach.
    """
    rows = [
        row
        for curve in runs.curves.values()
        if curve.kind not in LOSSLESS
        for metric in (MAIN_METRIC[runs.kind], "agreement")
        for row in _standing_rows(runs, curve, metric)
    ]
    return pd.DataFrame(rows, columns=list(STANDING_COLUMNS)).assign(preset=preset)


def _standing_rows(runs: ResampledRuns, curve: Curve, metric: str) -> list[dict[str, Any]]:
    """The rows of one policy and metric. The oracle's answers are the full model's, so its curve starts there."""
    full = runs.curves["full"].mean(metric)[:, 0]
    x, y = curve_points(runs, curve.policy, metric)
    if curve.kind == "oracle":
        x, y = np.hstack([np.zeros_like(x), x]), np.hstack([y, y])
    saved_from, saved_to = (x[0].min(), x[0].max()) if x.shape[1] else (float("nan"),) * 2
    names = _run_columns(runs) | {
        "metric": metric, "policy": curve.policy, "kind": curve.kind, "adapt": curve.adapt, "head": curve.head,
        "state_fill": curve.state_fill, "points": len(curve.settings), "saved_from": saved_from, "saved_to": saved_to,
    }  # fmt: skip
    heights = {level: height_at(x, y, level) for level in LEVELS[1:]}
    return [names | {"at": level, "value": height[0]} | _difference(height - full) for level, height in heights.items()]


def _run_columns(runs: ResampledRuns) -> dict[str, Any]:
    return {name: getattr(runs, name) for name in ("backbone", "family", "dataset", "examples", "groups")}


def _difference(values: np.ndarray) -> dict[str, float]:
    """The columns of a difference (1 + resamples,)."""
    names = ("difference", "difference_low", "difference_high")
    return dict(zip(names, bootstrap.summary(values), strict=True))


def differences_from_full(
    entry: Mapping[str, Any], rows: pd.DataFrame, full: pd.DataFrame, *, preset: str, seed: int, resamples: int
) -> pd.DataFrame:
    """differences.csv: a run's settings minus the full model on the same examples, a row per setting.

    Metrics in 0..100, `degenerate` a share, `mean_tokens` per answer; columns `<metric>_difference`, `_low`, `_high`. A
    setting differs from the full model only if the interval does not contain zero. Metrics of other kinds of dataset
    are NaN.

    Args:
        entry: of `runs.settings`.
        rows, full: of the run and of the full model, as `resampled.read_by_dataset` returns them.
    """
    labels = {name: entry.get(name) or "" for name in SETTING} | {"preset": preset}
    full = full.set_index("example_id")
    table = []
    for setting, same in rows.groupby("setting"):
        paired = full.loc[same["example_id"]]
        row = labels | {"setting": setting, "examples": len(same), "groups": same["group_id"].nunique()}
        for name, column in DIFFERENCES.items():
            ends, column = (float("nan"),) * 3, column or name
            if column in same:
                values, others = same[column].to_numpy(dtype=float), paired[column].to_numpy(dtype=float)
                bounds = bootstrap.paired_difference(
                    values, others, same["group_id"].to_numpy(), seed=seed, resamples=resamples
                )
                ends = (values.mean() - others.mean(), *bounds)
            row |= zip((f"{name}_difference{end}" for end in ("", "_low", "_high")), ends, strict=True)
        table.append(row)
    return pd.DataFrame(table)
