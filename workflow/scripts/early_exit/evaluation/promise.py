"""Were the promises kept? Calibration and test questions are pooled and split anew, many times, thresholds and all.

Each split draws as many units (`risks`) as the run calibrated on, chooses every policy's threshold on them, and looks
at the risk of that threshold on the others. What this can show, and what not:

- `exceeds`, the share of splits whose test risk is above epsilon, has two sources: a threshold whose risk is too high,
  and a test half that is small. It may lie above delta though the promise holds, as the two halves of a pool are
  opposites: where calibration met few losses, the test meets the more.
- `exceeds_pool`, the share of splits whose threshold has a risk above epsilon over the whole pool, leaves the second
  source out. The pool is what the calibration sets were drawn from, so it is this share that delta bounds.
- `transfer` rows calibrate on one dataset and test on all units of another. Nothing is promised there.

Where no threshold passes the full model answers; its risk is 0, but for `degenerate`, which is its own.
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
from early_exit.evaluation.risks import Sample
from early_exit.experiment import policy_kinds

LABELS = ("backbone", "family", "dataset", "policy", "head", "state_fill")
COLUMNS = (
    *LABELS, "promise", "risk", "method", "epsilon", "delta",
    "calibrated_on", "calibration_units", "test_units", "splits", "none", "risk_mean", "risk_low", "risk_high",
    "exceeds", "exceeds_pool", "pool_risk_mean", "flops_share", "run_threshold", "run_risk",
)  # fmt: skip

Promises = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Pool:
    """The units of one policy on one dataset of one backbone, of calibration and test together.

    `labels` are the backbone's, dataset's and policy's columns. `full` is the full model's sample, with one setting, of
    the same units. `is_calibration` (units,) says which units the run calibrated on.
    """

    labels: Mapping[str, Any]
    sample: Sample
    full: Sample
    is_calibration: np.ndarray

    def results_of(self, risk: str) -> np.ndarray:
        """(units, settings + 1) losses; the last column is the fallback, which the index NONE finds."""
        return np.hstack([self.sample.losses[risk], self.full.losses[risk]])


def pools(
    settings: Sequence[Mapping[str, Any]], losses: Mapping[tuple[str, str], pd.DataFrame],
    policies: Mapping[str, Mapping[str, Any]],
) -> Iterator[Pool]:  # fmt: skip
    """The pool of every calibrated run, at the settings that both of its splits were run at.

    Args:
        settings: entries of `layout.settings`: of calibrated policies, and of `full`, on each backbone and dataset.
        losses: rows of `records.LOSSES` of the calibration split, by (backbone, dataset).
        policies: the calibrated policies' parts of the config, by name.
    """
    for runs, tested in resampled.read_by_dataset(settings):
        kind, calibration = runs[0]["kind"], losses[runs[0]["backbone"], runs[0]["dataset"]]
        full = _joined("full", calibration, tested, kind)
        for run in (run for run in runs if run["policy"] in policies):
            rows = _joined(run["policy"], calibration, tested, kind)
            settings_of = rows.groupby("split")["setting"].unique()
            order = policy_kinds.safest_first(policies[run["policy"]], set(settings_of[0]) & set(settings_of[1]))
            sample = risks.sample(rows, order, kind)
            # A policy may have been calibrated on fewer examples: without those that it was made with.
            reference = full[full["example_id"].isin(rows["example_id"])]
            reference = risks.sample(reference, reference["setting"].unique(), kind)
            if not np.array_equal(sample.groups, reference.groups):
                raise InputError(f"{run['scores']}: not the examples of policy full; delete runs of both and run again")
            is_calibration = np.isin(sample.groups, rows["group_id"][rows["split"] == 0])
            yield Pool({name: run[name] or "" for name in LABELS}, sample, reference, is_calibration)


def _joined(policy: str, calibration: pd.DataFrame, tested: Mapping[str, pd.DataFrame], kind: str) -> pd.DataFrame:
    """A policy's rows of both splits, which column `split` tells apart: 0 is calibration."""
    own, rows = calibration[calibration["policy"] == policy], tested[policy]
    test = risks.losses(rows, tested["full"], kind).join(rows[list(risks.WORK)])
    return pd.concat([own.assign(split=0), test.assign(split=1)], ignore_index=True)


def draws(is_calibration: np.ndarray, splits: int, seed: int) -> np.ndarray:
    """(1 + splits, units) which units are calibrated on: first those of the run, then as many at random."""
    random = np.random.default_rng(seed).random((splits, len(is_calibration)))
    places = random.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return np.vstack([is_calibration, places < is_calibration.sum()])


def observe(pools: Sequence[Pool], promises: Promises, *, splits: int, seed: int) -> pd.DataFrame:
    """A row, with the columns COLUMNS, for each policy, promise and pair of datasets calibrated and tested on.

    Policies that were run on the same examples of a dataset see the same splits. `risk_mean` and the range `risk_low`..
    `risk_high` of 95 % of the splits are of the test risk, `none` is the share of splits in which no threshold passed;
    `run_threshold` and `run_risk` are the run's own split. No threshold (NaN) is the full model.
    """
    rows = []
    for source in pools:
        dataset = source.labels["dataset"]
        drawn = draws(source.is_calibration, splits, crc32(f"{seed}:{dataset}".encode()))
        targets = [other for other in pools if _same_policy(source, other)]
        for (name, promise), target in product(promises.items(), targets):
            rows.append(_row(source, target, drawn, {"promise": name, **promise}))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _same_policy(one: Pool, other: Pool) -> bool:
    return all(one.labels[name] == other.labels[name] for name in ("backbone", "policy"))


def _row(source: Pool, target: Pool, drawn: np.ndarray, promise: Mapping[str, Any]) -> dict[str, Any]:
    """What thresholds chosen on `source` do on `target`: on its units that were not drawn, or on all of another."""
    risk, sample = promise["risk"], source.sample
    _, passed = calibrate.certify(sample.losses[risk], drawn, promise, binary=sample.binary[risk])
    chosen = calibrate.choose(passed, calibrate.flops_share(sample, drawn), risk)
    places = _places(chosen, sample, target.sample)
    values = target.results_of(risk)
    everything = np.ones((1, len(values)))
    tested = 1.0 - drawn if source is target else np.broadcast_to(everything, (len(drawn), len(values)))
    every = np.arange(len(places))
    observed = ((tested @ values) / tested.sum(axis=1, keepdims=True))[every, places]
    in_pool = values.mean(axis=0)[places]
    run, split = observed[0], observed[1:]
    low, high = np.quantile(split, [0.025, 0.975])
    most = promise["epsilon"] + 10.0**-DIGITS
    return {
        **target.labels, **promise,
        "delta": promise["delta"] if promise["method"] == "learn-then-test" else float("nan"),
        "calibrated_on": source.labels["dataset"], "calibration_units": int(drawn[0].sum()),
        "test_units": int(tested[0].sum()), "splits": len(split), "none": (chosen[1:] == NONE).mean(),
        "risk_mean": split.mean(), "risk_low": low, "risk_high": high, "exceeds": (split > most).mean(),
        "exceeds_pool": (in_pool[1:] > most).mean(), "pool_risk_mean": in_pool[1:].mean(),
        "flops_share": _shares(target)[places][1:].mean(),
        "run_threshold": float("nan") if chosen[0] == NONE else sample.settings[chosen[0]], "run_risk": run,
    }  # fmt: skip


def _places(chosen: np.ndarray, source: Sample, target: Sample) -> np.ndarray:
    """Indices of the source's settings as the target's; NONE stays."""
    where = {setting: place for place, setting in enumerate(target.settings)}
    missing = [setting for setting in source.settings if setting not in where]
    if missing:
        raise InputError(f"a policy was run at {missing[0]} on one dataset and not on another; delete both runs")
    return np.append([where[setting] for setting in source.settings], NONE)[chosen]


def _shares(target: Pool) -> np.ndarray:
    """(settings + 1,) shares of the full model's FLOPs over all units, last its own, 1."""
    parts = (target.sample, target.full)
    return np.concatenate([calibrate.flops_share(part, np.ones((1, len(part.groups))))[0] for part in parts])
