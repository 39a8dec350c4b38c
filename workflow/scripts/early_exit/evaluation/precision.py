"""What coarser number formats cost, and whether a change dies out: the table precision.csv, and two claims.

The claims are those of arXiv 2406.00209 on the stability of Mamba models. They form a family of their own: Holm's
procedure adjusts their pooled rows apart from those of the paper (see `claims`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from early_exit.evaluation import bootstrap, claims

FIRST_LAGS = {"all lags": 1, "lags from 4": 4}  # 4: beyond Mamba's convolution, chosen after a look at one text
MARGIN = 1.0  # points; our bound, the paper names none
REFERENCE = "float32"
FREE = ("answers_changed", "metric", "agreement", "flops_saved")
COLUMNS = (
    "preset", "backbone", "family", "dataset", "format", "policy", "setting", "measure", "block", "position", "size",
    "value", "low", "high", "examples",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What rule measure_precision found on one dataset of one backbone; its frames have column `format`.

    `groups` is the group of each example, `labels` the columns preset, backbone, family and dataset.
    """

    labels: Mapping[str, str]
    groups: Mapping[str, str]
    states: pd.DataFrame
    predictions: pd.DataFrame
    decisions: pd.DataFrame
    changes: pd.DataFrame
    evaluated: pd.DataFrame


@dataclass(frozen=True)
class Resampling:
    seed: int
    resamples: int


def table(measured: Measured, how: Resampling) -> pd.DataFrame:
    """The rows of precision.csv of one backbone and dataset, with the columns COLUMNS (see docs/results.md)."""
    rows = [*_states(measured, how), *_tokens(measured, how), *_free(measured, how), *_changes(measured, how)]
    return pd.DataFrame(rows).assign(**measured.labels).reindex(columns=list(COLUMNS))


def exponents(changes: pd.DataFrame, first_lag: int = 1) -> pd.DataFrame:
    """Exponents of growth per token, by example, what is followed, block and size of the change.

    The least-squares slope of the mean logarithmic distance on the lag, from `first_lag` on: below 0 the change dies
    out.
    """
    changes = changes[changes["lag"] >= first_lag]
    by = ["example_id", "followed", "block", "size"]
    x, y = changes["lag"], changes["log_distance"]
    mean = changes.groupby(by)[["lag", "log_distance"]].transform("mean")
    dx, dy = x - mean["lag"], y - mean["log_distance"]
    sums = changes[by].assign(xy=dx * dy, xx=dx * dx).groupby(by)[["xy", "xx"]].sum()
    return (sums["xy"] / sums["xx"]).rename("exponent").reset_index()


def test(measured: Sequence[Measured], how: Resampling, *, experiment: str, preset: str) -> pd.DataFrame:
    """The verdicts on both claims with the columns `claims.COLUMNS`: pooled rows, each before its cells."""
    rows = []
    for claim in CLAIMS:
        cells: dict[str, list] = {}
        for metric, labels, values in claim.cells(measured):
            cells.setdefault(metric, []).append((labels, *values))
        for metric, found in cells.items():
            rows += _judged(claim, metric, found, how)
    frame = pd.DataFrame(rows, columns=list(claims.COLUMNS)).assign(experiment=experiment, preset=preset)
    return claims.adjusted(frame) if rows else frame


def _judged(claim: "Claim", metric: str, cells: Sequence[tuple], how: Resampling) -> Iterator[dict[str, Any]]:
    """The pooled row of a claim and metric, and that of each cell (labels, values, groups)."""
    effects, of_cells = [], []
    for labels, values, groups in cells:
        sums, counts = bootstrap.group_sums(values, groups), bootstrap.group_sums(np.ones_like(values), groups)
        drawn = bootstrap.draws(how.seed, len(sums), how.resamples)
        effect = np.concatenate([[sums.sum() / counts.sum()], (drawn @ sums) / (drawn @ counts)])
        note = "no two texts differ, which says nothing about spread" if np.ptp(values) == 0.0 else ""
        if len(sums) < claims.FEWEST_GROUPS:
            note = f"fewer than {claims.FEWEST_GROUPS} groups to resample"
        row = claims.verdict_row(claim, effect, note) | labels | {"family": "mamba", "metric": metric}
        of_cells.append(row | {"examples": len(values), "groups": len(sums)})
        effects += [] if note else [effect]
    used = [row for row in of_cells if not row["note"]]
    mean = np.mean(effects, axis=0) if effects else None
    note = "" if len(used) == len(of_cells) else f"{len(used)} of {len(of_cells)} cells"
    pooled = {"family": "mamba", "backbone": claims.POOLED, "dataset": claims.POOLED, "metric": metric, "note": note}
    pooled |= {name: sum(row[name] for row in used) for name in ("examples", "groups")}
    pooled["compared"] = "; ".join(row["compared"] for row in used)
    yield claims.verdict_row(claim, mean, "" if used else note) | pooled
    yield from of_cells


def _states(measured: Measured, how: Resampling) -> Iterator[dict[str, Any]]:
    states = measured.states
    last = states["block"].max()
    for name, rows in states.groupby("format", sort=False):
        for measure in ("difference", "kl"):
            for block, same in rows.groupby("block"):
                yield _row(measured, same, same[measure] * same["tokens"], same["tokens"], how) | {
                    "format": name, "measure": measure, "block": block}  # fmt: skip
            for position, same in rows[rows["block"] == last].groupby("position"):
                yield _row(measured, same, same[measure] * same["tokens"], same["tokens"], how) | {
                    "format": name, "measure": measure, "block": last, "position": position}  # fmt: skip


def _tokens(measured: Measured, how: Resampling) -> Iterator[dict[str, Any]]:
    for name, rows in measured.predictions.groupby("format", sort=False):
        yield _row(measured, rows, rows["flips"], rows["tokens"], how) | {"format": name, "measure": "tokens_flipped"}
        some = rows[rows["first"].notna()]
        if len(some):
            yield _row(measured, some, some["first"], None, how) | {"format": name, "measure": "first_flip"}
    for (name, policy, setting), rows in measured.decisions.groupby(["format", "policy", "setting"], sort=False):
        yield _row(measured, rows, rows["flips"], rows["passes"], how) | {
            "format": name, "policy": policy, "setting": setting, "measure": "decisions_flipped"}  # fmt: skip


def _free(measured: Measured, how: Resampling) -> Iterator[dict[str, Any]]:
    for (name, policy, setting), rows in measured.evaluated.groupby(["format", "policy", "setting"], sort=False):
        values = {
            "answers_changed": (rows["changed"], None),
            "metric": (rows["metric"], None),
            "agreement": (rows["agreement"], None),
            "flops_saved": (rows["flops_full"] - rows["flops"], rows["flops_full"]),
        }
        for measure in FREE:
            yield _row(measured, rows, *values[measure], how) | {
                "format": name, "policy": policy, "setting": setting, "measure": measure}  # fmt: skip


def _changes(measured: Measured, how: Resampling) -> Iterator[dict[str, Any]]:
    for first in FIRST_LAGS.values():
        found = exponents(measured.changes, first)
        for (followed, block, size), rows in found.groupby(["followed", "block", "size"], sort=False):
            yield _row(measured, rows, rows["exponent"], None, how) | {
                "format": REFERENCE, "measure": f"{followed}_exponent", "block": block, "position": first,
                "size": size}  # fmt: skip
    last = measured.changes[measured.changes["block"] == measured.changes["block"].max()]
    for (followed, lag, size), rows in last.groupby(["followed", "lag", "size"], sort=False):
        yield _row(measured, rows, rows["log_distance"], None, how) | {
            "format": REFERENCE, "measure": f"{followed}_log_distance", "block": rows["block"].iloc[0], "position": lag,
            "size": size}  # fmt: skip


def _row(
    measured: Measured, rows: pd.DataFrame, top: pd.Series, bottom: pd.Series | None, how: Resampling
) -> dict[str, Any]:
    """The ratio of sums over the examples (without `bottom` the mean), and its interval; NaN over nothing."""
    top = top.to_numpy(float)
    bottom = np.ones_like(top) if bottom is None else bottom.to_numpy(float)
    groups = rows["example_id"].map(measured.groups).to_numpy()
    low, high = bootstrap.ratio_interval(top, bottom, groups, seed=how.seed, resamples=how.resamples)
    value = top.sum() / bottom.sum() if bottom.sum() else float("nan")
    return {"value": value, "low": low, "high": high, "examples": rows["example_id"].nunique()}


Cells = Iterator[tuple[str, dict[str, str], tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Claim:
    """A hypothesis: that the mean over examples is below `bound` (`side` -1); `cells` gives metric, labels, values."""

    name: str
    says: str
    tested: str
    cells: Callable[[Sequence[Measured]], Cells]
    bound: float = 0.0
    side: int = -1


def _harm(measured: Sequence[Measured]) -> Cells:
    """Of each Mamba and each Transformer on a dataset: points lost by the one minus points lost by the other."""
    for mamba in (one for one in measured if one.labels["family"] == "mamba"):
        for other in (one for one in measured if one.labels["family"] == "transformer"):
            if other.labels["dataset"] != mamba.labels["dataset"]:
                continue
            labels = {name: mamba.labels[name] for name in ("backbone", "dataset")}
            labels["compared"] = f"{labels['backbone']} - {other.labels['backbone']}"
            for name in mamba.predictions["format"].unique():
                for measure, lost in (("tokens flipped", _flipped), ("answers changed", _changed)):
                    difference = (lost(mamba, name) - lost(other, name)).dropna()
                    groups = difference.index.map(mamba.groups).to_numpy()
                    if len(difference):  # nothing is decoded under autocast
                        yield f"{measure} in {name}", labels, (difference.to_numpy(), groups)


def _flipped(measured: Measured, name: str) -> pd.Series:
    rows = measured.predictions[measured.predictions["format"] == name].set_index("example_id")
    return 100.0 * rows["flips"] / rows["tokens"]


def _changed(measured: Measured, name: str) -> pd.Series:
    rows = measured.evaluated.query("policy == 'full' and format == @name").set_index("example_id")
    return 100.0 * rows["changed"].astype(float)


def _growth(measured: Sequence[Measured]) -> Cells:
    """Of each Mamba: the largest exponent of its recurrent states over blocks and sizes, by example."""
    for one in (one for one in measured if one.labels["family"] == "mamba"):
        states = one.changes[one.changes["followed"] == "state"]
        labels = {name: one.labels[name] for name in ("backbone", "dataset")} | {"compared": one.labels["backbone"]}
        for name, first in FIRST_LAGS.items():
            largest = 100.0 * exponents(states, first).groupby("example_id")["exponent"].max()
            yield f"state exponent, {name}", labels, (largest.to_numpy(), largest.index.map(one.groups).to_numpy())


CLAIMS = (
    Claim(
        name="precision-harms-mamba-no-more",
        says="Coarser number formats harm Mamba no more than the Transformer (arXiv 2406.00209)",
        tested=(
            "Mamba minus Transformer on the same questions, in points: tokens of the float32 answer that another is "
            "more probable than, and answers that change when decoded freely. Bound: at most one point more."
        ),
        cells=_harm,
        bound=MARGIN,
    ),
    Claim(
        name="change-dies-out-in-mamba",
        says="A small change dies out along the sequence in Mamba (arXiv 2406.00209)",
        tested=(
            "Exponent of growth of the recurrent states after a change of one embedding, in percent per token: slope "
            "of the logarithmic distance on the lag, the largest over blocks and sizes, averaged over texts. Lags from "
            "4 on leave out the convolution's reach; that they are shown was decided after one text, in which a block "
            "grew over all lags, so the claim rests on both rows."
        ),
        cells=_growth,
    ),
)
