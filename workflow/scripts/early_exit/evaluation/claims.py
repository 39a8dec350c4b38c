"""The claims of DYNAMAX (arXiv 2504.20922) as hypotheses, each with its effect, interval and verdict.

An effect is in points of 0..100 and is compared with a bound: a claim is supported if the 95 % bootstrap interval lies
wholly on the claimed side, contradicted if it lies wholly on the other, else undecided. A cell is one dataset of one
backbone (a `ResampledRuns`). The pooled row of a family is the mean over its cells, resampled with them; the p-values
of all pooled rows are adjusted together, by Holm's procedure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from early_exit.base.records import MAIN_METRIC
from early_exit.costs import passes
from early_exit.costs.passes import CostTable
from early_exit.evaluation import bootstrap, compare
from early_exit.evaluation.resampled import ResampledRuns
from early_exit.experiment.config.policies import is_exit

POINT, FIFTH = 1.0, 20.0  # of 0..100: a loss that counts as none, and percent of FLOPs
LITTLE, MUCH = 10.0, 25.0  # percent of what skipping blocks saves; our bounds, the paper names none
FEWEST_GROUPS = 20  # percentile intervals of fewer are too narrow
LEVEL = 0.95
POOLED = "pooled"
SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
COLUMNS = (
    "experiment", "preset", "claim", "family", "backbone", "dataset", "metric", "effect", "low", "high", "bound", "p",
    "p_holm", "verdict", "note", "examples", "groups", "compared",
)  # fmt: skip

# Maps a cell, the cost tables of all backbones, and a metric to what was compared, {name: effect (1 + resamples,)}.
Effects = Callable[[ResampledRuns, Mapping[str, Any], str], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Claim:
    """A hypothesis: that `effects`, on average, are above `bound` (below it, if `side` is -1) in points."""

    name: str
    says: str
    tested: str
    metrics: tuple[str, ...]  # "main" is the dataset's main metric
    effects: Effects
    families: tuple[str, ...] = ("transformer", "mamba")
    bound: float = 0.0
    side: int = 1


def test(
    cells: Iterable[ResampledRuns], cost_tables: Mapping[str, CostTable], *, experiment: str, preset: str
) -> pd.DataFrame:
    """The verdicts, with the columns COLUMNS: for each claim, family and metric the pooled row, then its cells.

    `cost_tables` are those of rule layer_costs, by backbone. Column `compared` names the runs; a verdict is about them
    and no others. A claim whose runs are missing is undecided, and `note` says so.
    """
    cells = list(cells)
    rows = []
    for claim in CLAIMS:
        for family in [f for f in claim.families if any(cell.family == f for cell in cells)]:
            for metric in claim.metrics:
                of_cells = [_of_cell(claim, cell, cost_tables, metric) for cell in cells if cell.family == family]
                rows += [_pooled(claim, family, metric, of_cells), *(row for row, _ in of_cells)]
    table = pd.DataFrame(rows).assign(experiment=experiment, preset=preset)
    return adjusted(table)[list(COLUMNS)]


def _of_cell(
    claim: Claim, cell: ResampledRuns, cost_tables: Mapping[str, CostTable], metric: str
) -> tuple[dict[str, Any], np.ndarray | None]:
    """The row of one cell, and its effect in every resample; None if it may not be pooled."""
    metric = MAIN_METRIC[cell.kind] if metric == "main" else metric
    compared = claim.effects(cell, cost_tables, metric)
    defined = {name: values for name, values in compared.items() if _has_interval(values)}
    effect = np.mean(list(defined.values()), axis=0) if defined else None
    note = ""
    if not compared:
        note = "no such runs"
    elif effect is None:
        note = "no range of compute in common"
    elif cell.groups < FEWEST_GROUPS:
        note = f"fewer than {FEWEST_GROUPS} groups to resample"
    row = verdict_row(claim, effect, note) | {
        "family": cell.family,
        "backbone": cell.backbone,
        "dataset": cell.dataset,
        "metric": metric,
        "examples": cell.examples,
        "groups": cell.groups,
        "compared": "; ".join(defined),
    }
    return row, None if note else effect


def _pooled(
    claim: Claim, family: str, metric: str, cells: Sequence[tuple[dict[str, Any], np.ndarray | None]]
) -> dict[str, Any]:
    """The row of the mean over all cells of a family that have an effect."""
    used = [(row, effect) for row, effect in cells if effect is not None]
    mean = np.mean([effect for _, effect in used], axis=0) if used else None
    note = "" if len(used) == len(cells) else f"{len(used)} of {len(cells)} cells"
    return verdict_row(claim, mean, "" if used else note) | {
        "family": family,
        "backbone": POOLED,
        "dataset": POOLED,
        "note": note,
        "metric": "main metric" if metric == "main" else metric,
        "examples": sum(row["examples"] for row, _ in used),
        "groups": sum(row["groups"] for row, _ in used),
        "compared": "; ".join(f"{row['backbone']}/{row['dataset']}" for row, _ in used),
    }


def verdict_row(claim: Any, values: np.ndarray | None, note: str) -> dict[str, Any]:
    """Effect, interval, p-value and verdict; a row with a note is undecided."""
    effect, low, high = (float("nan"),) * 3 if values is None else bootstrap.summary(values, LEVEL)
    p = float("nan") if np.isnan(low) else bootstrap.p_value(values[1:], claim.bound)
    verdict = UNDECIDED if note else judge(low, high, claim.bound, claim.side)
    return {
        "claim": claim.name,
        "effect": effect,
        "low": low,
        "high": high,
        "bound": claim.bound,
        "p": p,
        "verdict": verdict,
        "note": note,
    }


def judge(low: float, high: float, bound: float = 0.0, side: int = 1) -> str:
    """The verdict of an interval on the claim that the effect is above `bound` (below it, if `side` is -1)."""
    if low > bound:
        return SUPPORTED if side > 0 else CONTRADICTED
    if high < bound:
        return CONTRADICTED if side > 0 else SUPPORTED
    return UNDECIDED  # also without an interval: comparisons with NaN are false


def adjusted(table: pd.DataFrame) -> pd.DataFrame:
    """The table with Holm's p-values of the pooled rows; a verdict whose p is above 1 - LEVEL becomes undecided."""
    family = (table["dataset"] == POOLED) & table["p"].notna()
    table.loc[family, "p_holm"] = bootstrap.holm(table.loc[family, "p"])
    lost = family & (table["p_holm"] > 1.0 - LEVEL) & (table["verdict"] != UNDECIDED)
    table.loc[lost, "note"] = [
        "; ".join(filter(None, (note, f"{verdict} but for Holm's adjustment")))
        for note, verdict in table.loc[lost, ["note", "verdict"]].itertuples(index=False)
    ]
    return table.assign(verdict=table["verdict"].mask(lost, UNDECIDED))


def _has_interval(values: np.ndarray) -> bool:
    return not np.isnan(bootstrap.summary(values, LEVEL)).any()


def _at_equal_compute(comparison: str, head_kind: str | None = None) -> Effects:
    """Mean height of a head policy's curve minus its reference's, for each pair of a comparison whose reference has a
    head of this kind, or for each pair."""

    def effects(cell: ResampledRuns, cost_tables: Mapping[str, CostTable], metric: str) -> dict[str, np.ndarray]:
        return {
            f"{policy} - {reference}": compare.area_difference(cell, policy, reference, metric)
            for name, policy, reference in compare.compared_pairs(cell)
            if name == comparison
            and cell.curves[policy].is_head
            and head_kind in (None, cell.curves[reference].head_kind)
        }

    return effects


def _lowest_threshold(cell: ResampledRuns, cost_tables: Mapping[str, CostTable], metric: str) -> dict[str, np.ndarray]:
    """Share at a head policy's lowest threshold minus the full model's."""
    full = cell.curves["full"].mean(metric)[:, 0]
    return {
        f"{curve.policy} at {curve.settings[0]:g} - full": curve.mean(metric)[:, 0] - full
        for curve in cell.curves.values()
        if curve.is_head
    }


def saving_lost(cell: ResampledRuns, cost_tables: Mapping[str, CostTable], metric: str = "") -> dict[str, np.ndarray]:
    """What propagate costs, in percent of what the skipped blocks save, over all thresholds of a run.

    Cost and saving use the run's own exits; copy and skip would save all of it. The cost of heads is left out: it is
    the same for every fill. NaN where nothing left early.
    """
    table = cost_tables[cell.backbone]
    fill, lost = passes.flops(table["state_fill"]["propagate"]), {}
    for curve in cell.curves.values():
        if curve.is_head and curve.state_fill == "propagate":
            total = {name: curve.sums[name].sum(axis=1) for name in curve.sums}
            spent = fill * (table["depth"] * total["passes"] - total["blocks"])
            saved = total["flops_blocks_full"] - total["flops_blocks"]
            share = np.divide(spent, saved, out=np.full_like(saved, np.nan), where=saved > 0.0)
            lost[curve.policy] = 100.0 * share
    return lost


def _largest_saving(cell: ResampledRuns, cost_tables: Mapping[str, CostTable], metric: str) -> dict[str, np.ndarray]:
    """Percent of FLOPs saved by the exit policy that saves most while it loses no more than a POINT of the metric.

    Policy and setting are chosen anew in each resample, so that the interval has what choosing the best adds; 0 if none
    qualifies. The name is that of the choice on all examples, with its agreement.
    """
    full = cell.curves["full"].mean(metric)[:, :1]
    curves = [curve for curve in cell.curves.values() if is_exit(curve.kind)]
    if not curves:
        return {}
    names = ["full"] + [
        f"{curve.policy} at {setting:g} (agreement {agreement:.1f})"
        for curve in curves
        for setting, agreement in zip(curve.settings, curve.mean("agreement")[0], strict=True)
    ]
    quality = np.hstack([full, *(curve.mean(metric) for curve in curves)])
    saved = np.hstack([np.zeros_like(full), *(np.nan_to_num(curve.saved()) for curve in curves)])
    qualifying = np.where(quality >= full - POINT, 100.0 * saved, -np.inf)
    return {names[int(qualifying[0].argmax())]: qualifying.max(axis=1)}


QUALITY = ("main", "agreement")
AT_EQUAL_COMPUTE = "mean height of the curves over the FLOPs saved that both reach, heads and state fill counted"
PROPAGATE_COST = "What propagate costs, in percent of what skipping blocks saves on the same exits"
CLAIMS = (
    Claim(
        name="mamba-heads-over-linear",
        says="Mamba heads beat stateless ones: a linear head (calm)",
        tested=f"Mamba head minus linear head with the same state fill: {AT_EQUAL_COMPUTE}.",
        metrics=QUALITY,
        effects=_at_equal_compute("stateless-head", "calm"),
    ),
    Claim(
        name="mamba-heads-over-ffn",
        says="Mamba heads beat stateless ones: an FFN head (ffn)",
        tested=f"Mamba head minus FFN head with the same state fill: {AT_EQUAL_COMPUTE}.",
        metrics=QUALITY,
        effects=_at_equal_compute("stateless-head", "ffn"),
    ),
    Claim(
        name="exits-over-pruning",
        says="Exits beat static pruning at equal compute",
        tested=f"Each policy with a head minus static pruning: {AT_EQUAL_COMPUTE}.",
        metrics=QUALITY,
        effects=_at_equal_compute("static-pruning"),
    ),
    Claim(
        name="low-threshold-degenerates",
        says="Too low a threshold degenerates into repetition",
        tested="Share of degenerate answers at the lowest threshold that was run, minus the full model's.",
        metrics=("degenerate",),
        effects=_lowest_threshold,
    ),
    Claim(
        name="propagate-cheap-on-transformer",
        says="On the Transformer the recomputation costs little",
        tested=f"{PROPAGATE_COST}: less than {LITTLE:g}.",
        metrics=("saving lost",),
        effects=saving_lost,
        families=("transformer",),
        bound=LITTLE,
        side=-1,
    ),
    Claim(
        name="propagate-dear-on-mamba",
        says="On Mamba the recomputation costs much",
        tested=f"{PROPAGATE_COST}: more than {MUCH:g}.",
        metrics=("saving lost",),
        effects=saving_lost,
        families=("mamba",),
        bound=MUCH,
    ),
    Claim(
        name="saves-a-fifth",
        says="Exits save more than a fifth of the computation at the full model's quality",
        tested=(
            f"Percent of FLOPs saved, heads and state fill counted, by the exit policy that saves most of those whose "
            f"main metric is at most {POINT:g} point below the full model's: more than {FIFTH:g}."
        ),
        metrics=("main",),
        effects=_largest_saving,
        bound=FIFTH,
    ),
)
