"""Whether promises were kept: calibration and test questions are pooled and split many times, and thresholds are chosen
on each split.

Each split draws as many units (see `risks`) as the run calibrated on, chooses every policy's threshold on them, and
measures the risk of that threshold on the others. What the columns can show:

- `exceeds`, the share of splits whose test risk is above epsilon, has two causes: a threshold whose risk is too high,
  and a small test half. It may lie above delta although the promise holds, because the two halves of a pool are
  complementary: if calibration saw few losses, the test sees more.
- `exceeds_pool`, the share of splits whose threshold has a risk above epsilon over the whole pool, has only the first
  cause. The calibration sets were drawn from the pool, so this is the share that delta bounds.
- Rows with `calibrated_on` another dataset are tested on all units of `dataset`. Nothing is promised there.

If no threshold passes, the full model answers. Its risk is 0, except for `degenerate`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from early_exit.base.errors import InputError
from early_exit.evaluation import calibrate, resampled, risks
from early_exit.evaluation.calibrate import DIGITS, NONE
from early_exit.evaluation.risks import UnitLosses
from early_exit.experiment.config.policies import Policy
from early_exit.experiment.config.run import Promise

LABELS = ("backbone", "family", "dataset", "policy", "head", "state_fill")
COLUMNS = (
    *LABELS, "promise", "risk", "method", "epsilon", "delta",
    "calibrated_on", "calibration_units", "test_units", "splits", "none", "risk_mean", "risk_low", "risk_high",
    "exceeds", "exceeds_pool", "pool_risk_mean", "flops_share", "run_setting", "run_risk",
)  # fmt: skip


@dataclass(frozen=True)
class PooledUnits:
    """The units of one policy on one dataset of one backbone, of calibration and test together.

    Args:
        labels: the columns LABELS.
        sample: the units at the policy's settings.
        full: the same units at the full model's one setting.
        is_calibration: (units,) whether the run calibrated on a unit.
    """

    labels: Mapping[str, Any]
    sample: UnitLosses
    full: UnitLosses
    is_calibration: np.ndarray

    def losses_with_fallback(self, risk: str) -> np.ndarray:
        """(units, settings + 1) losses; the last column is the fallback's, which index NONE selects."""
        return np.hstack([self.sample.losses[risk], self.full.losses[risk]])


def pooled_units(
    settings: Sequence[Mapping[str, Any]], losses: Mapping[tuple[str, str], pd.DataFrame],
    policies: Mapping[str, Policy],
) -> Iterator[PooledUnits]:  # fmt: skip
    """The pooled units of every calibrated run, at the settings that both of its splits were run at.

    Args:
        settings: entries of `runs.settings`: of calibrated policies, and of `full`, on each backbone and dataset.
        losses: rows of `records.LOSSES` of the calibration split, by (backbone, dataset).
        policies: the calibrated policies' parts of the config, by name.
    """
    for runs, tested in resampled.read_by_dataset(settings):
        kind, calibration = runs[0]["kind"], losses[runs[0]["backbone"], runs[0]["dataset"]]
        full = _losses_of_both_splits("full", calibration, tested, kind)
        for run in (run for run in runs if run["policy"] in policies):
            rows = _losses_of_both_splits(run["policy"], calibration, tested, kind)
            settings_of = rows.groupby("split")["setting"].unique()
            order = policies[run["policy"]].safest_first(set(settings_of[0]) & set(settings_of[1]))
            sample = risks.unit_losses(rows, order, kind)
            # A policy may be calibrated on fewer examples: without those that its plan was made from.
            reference = full[full["example_id"].isin(rows["example_id"])]
            reference = risks.unit_losses(reference, reference["setting"].unique(), kind)
            if not np.array_equal(sample.groups, reference.groups):
                raise InputError(f"{run['evaluated']}: not the examples of policy full; delete it and run again")
            is_calibration = np.isin(sample.groups, rows["group_id"][rows["split"] == 0])
            yield PooledUnits({name: run[name] or "" for name in LABELS}, sample, reference, is_calibration)


def _losses_of_both_splits(
    policy: str, calibration: pd.DataFrame, tested: Mapping[str, pd.DataFrame], kind: str
) -> pd.DataFrame:
    """A policy's rows of `records.LOSSES` on both splits, with column `split`: 0 is calibration, 1 is test."""
    calibrated, rows = calibration[calibration["policy"] == policy], tested[policy]
    test = risks.answer_losses(rows, tested["full"], kind)
    return pd.concat([calibrated.assign(split=0), test.assign(split=1)], ignore_index=True)


def draw_splits(is_calibration: np.ndarray, splits: int, seed: int) -> np.ndarray:
    """(1 + splits, units) whether a unit is calibrated on: in the run's own split first, then in random ones."""
    random = np.random.default_rng(seed).random((splits, len(is_calibration)))
    places = random.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return np.vstack([is_calibration, places < is_calibration.sum()])


def observe(pools: Sequence[PooledUnits], promises: Mapping[str, Promise], *, splits: int, seed: int) -> pd.DataFrame:
    """promise.csv: a row with COLUMNS for each policy, promise and pair of datasets calibrated and tested on.

    Policies that were run on the same examples of a dataset see the same splits. `risk_mean` and the range `risk_low`..
    `risk_high` of 95 % of the splits are of the test risk, `none` is the share of splits in which no threshold passed;
    `run_setting` and `run_risk` are of the run's own split. No threshold (NaN) means the full model.
    """
    rows = []
    for source in pools:
        dataset = source.labels["dataset"]
        drawn = draw_splits(source.is_calibration, splits, crc32(f"{seed}:{dataset}".encode()))
        targets = [other for other in pools if _same_policy(source, other)]
        for (name, promise), target in product(promises.items(), targets):
            rows.append({"promise": name, **_observed_row(source, target, drawn, promise)})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _same_policy(one: PooledUnits, other: PooledUnits) -> bool:
    return all(one.labels[name] == other.labels[name] for name in ("backbone", "policy"))


def _observed_row(source: PooledUnits, target: PooledUnits, drawn: np.ndarray, promise: Promise) -> dict[str, Any]:
    """The risk on `target` of thresholds chosen on `source`: on the units that were not drawn, or on all of another."""
    risk, sample = promise.risk, source.sample
    _, passed = calibrate.certify(sample.losses[risk], drawn, promise, binary=sample.binary[risk])
    chosen = calibrate.choose(passed, calibrate.flops_share(sample, drawn), risk)
    places = _places_in_target(chosen, sample, target.sample)
    losses = target.losses_with_fallback(risk)
    everything = np.ones((1, len(losses)))
    tested = 1.0 - drawn if source is target else np.broadcast_to(everything, (len(drawn), len(losses)))
    observed = ((tested @ losses) / tested.sum(axis=1, keepdims=True))[np.arange(len(places)), places]
    in_pool = losses.mean(axis=0)[places]
    run_risk, risks_of_splits = observed[0], observed[1:]
    low, high = np.quantile(risks_of_splits, [0.025, 0.975])
    bound = promise.epsilon + 10.0**-DIGITS
    return {
        **target.labels,
        **promise.model_dump(),
        "delta": promise.delta if promise.method == "learn-then-test" else float("nan"),
        "calibrated_on": source.labels["dataset"],
        "calibration_units": int(drawn[0].sum()),
        "test_units": int(tested[0].sum()),
        "splits": len(risks_of_splits),
        "none": (chosen[1:] == NONE).mean(),
        "risk_mean": risks_of_splits.mean(),
        "risk_low": low,
        "risk_high": high,
        "exceeds": (risks_of_splits > bound).mean(),
        "exceeds_pool": (in_pool[1:] > bound).mean(),
        "pool_risk_mean": in_pool[1:].mean(),
        "flops_share": _shares(target)[places][1:].mean(),
        "run_setting": float("nan") if chosen[0] == NONE else sample.settings[chosen[0]],
        "run_risk": run_risk,
    }


def _places_in_target(chosen: np.ndarray, source: UnitLosses, target: UnitLosses) -> np.ndarray:
    """The target's indices of the settings with these indices in the source; NONE stays."""
    place_of = {setting: place for place, setting in enumerate(target.settings)}
    missing = [setting for setting in source.settings if setting not in place_of]
    if missing:
        raise InputError(f"a policy was run at {missing[0]} on one dataset and not on another; delete both runs")
    return np.append([place_of[setting] for setting in source.settings], NONE)[chosen]


def _shares(target: PooledUnits) -> np.ndarray:
    """(settings + 1,) shares of the full model's FLOPs over all units; the last is its own, 1."""
    parts = (target.sample, target.full)
    return np.concatenate([calibrate.flops_share(part, np.ones((1, len(part.groups))))[0] for part in parts])
