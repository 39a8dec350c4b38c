"""Promises on resampled splits of all questions: what each column counts, and that a promise can be broken."""

from math import comb

import numpy as np
import pandas as pd
import pytest

from early_exit.base.errors import InputError
from early_exit.evaluation import promise, risks
from early_exit.experiment.config.policies import parse
from made_pools import MEAN, PROMISE, make_pool

CALM = parse({"kind": "head", "recipe": "r", "head": "calm", "state_fill": "copy"})


def observed(*pools, promises=None, splits=400):
    return promise.observe(pools, promises or {"one": PROMISE}, splits=splits, seed=1)


def hypergeometric(most, drawn, bad, units):
    """Chance that of `drawn` units, from so many of which some are bad, `most` bad ones at most are drawn."""
    return sum(comb(bad, k) * comb(units - bad, drawn - k) for k in range(most + 1)) / comb(units, drawn)


def test_every_split_draws_as_many_units_as_the_run_calibrated_on():
    is_calibration = np.arange(50) % 3 == 0
    drawn = promise.draw_splits(is_calibration, 300, seed=3)
    assert drawn.shape == (301, 50) and (drawn[0] == is_calibration).all()
    assert (drawn.sum(axis=1) == 17).all() and len(np.unique(drawn, axis=0)) == 301
    assert np.abs(drawn[1:].mean(axis=0) - 17 / 50).max() < 0.15
    np.testing.assert_array_equal(drawn, promise.draw_splits(is_calibration, 300, seed=3))


def test_shares_are_those_of_drawing_without_replacement():
    """One bad setting behind a good one: 50 of 200 units err. Drawn 100, it passes with at most 14 of them."""
    (row,) = observed(make_pool([0, 50]), splits=4000).to_dict("records")
    expected = hypergeometric(14, 100, 50, 200)
    assert 0 < expected < 0.01
    (row,) = observed(make_pool([0, 42]), splits=4000).to_dict("records")
    expected = hypergeometric(14, 100, 42, 200)
    assert row["exceeds_pool"] == pytest.approx(expected, abs=4 * (expected / 4000) ** 0.5)
    assert row["exceeds"] == row["exceeds_pool"]  # 14 of 42 in one half leave 28 to the other
    assert row["pool_risk_mean"] == pytest.approx(0.21 * row["exceeds_pool"])
    assert row["none"] == 0 and (row["calibration_units"], row["test_units"], row["splits"]) == (100, 100, 4000)
    assert row["flops_share"] == pytest.approx((12 - row["exceeds_pool"]) / 16)


def test_the_share_over_the_pool_is_what_delta_bounds_and_the_test_half_may_show_more():
    """40 of 200 units err, which is epsilon: no split exceeds it on the pool, all that passed do in the test half."""
    (row,) = observed(make_pool([0, 40]), splits=2000).to_dict("records")
    assert row["exceeds_pool"] == 0 < row["exceeds"]
    assert row["exceeds"] == pytest.approx(hypergeometric(14, 100, 40, 200), abs=0.02)


def test_the_run_s_split_is_reported_apart_from_the_random_ones():
    """All losses are among the test units: the run's own calibration sees none of them."""
    (row,) = observed(make_pool([0, 100])).to_dict("records")
    assert (row["run_setting"], row["run_risk"]) == (0.7, 1.0)
    assert row["exceeds"] == 0 and row["risk_high"] == 0


def test_if_nothing_passes_the_full_model_answers_with_its_own_risk():
    (row,) = observed(make_pool([200], full_errors=20, calibration=50)).to_dict("records")
    assert row["none"] == 1 and np.isnan(row["run_setting"])
    assert row["pool_risk_mean"] == pytest.approx(0.1) and row["risk_mean"] == pytest.approx(0.1, abs=0.01)
    assert row["flops_share"] == 1 and row["exceeds"] == row["exceeds_pool"] == 0
    (row,) = observed(make_pool([200], full_errors=80, calibration=50)).to_dict("records")
    assert row["exceeds_pool"] == 1  # nothing is promised of the full model itself


def test_another_dataset_is_tested_on_whole_and_by_the_same_policy_alone():
    easy, hard = make_pool([0, 0]), make_pool([10, 60], units=80, calibration=40, dataset="coqa")
    other = make_pool([0, 0], policy="q")
    table = observed(easy, hard, other).set_index(["policy", "calibrated_on", "dataset"])
    pairs = [("p", one, two) for one in ("triviaqa", "coqa") for two in ("triviaqa", "coqa")]
    assert set(table.index) == {*pairs, ("q", "triviaqa", "triviaqa")}
    moved = table.loc["p", "triviaqa", "coqa"]
    assert (moved["calibration_units"], moved["test_units"]) == (100, 80)
    assert moved["exceeds"] == moved["exceeds_pool"] == 1 and moved["risk_mean"] == moved["risk_low"] == 0.75
    back = table.loc["p", "coqa", "triviaqa"]
    assert back["exceeds"] == 0 and (back["calibration_units"], back["test_units"]) == (40, 200)
    with pytest.raises(InputError, match=r"run at 0\.7 on one dataset and not on another"):
        observed(easy, make_pool([0], dataset="coqa"))


def test_conformal_risk_control_keeps_the_mean_risk_below_epsilon():
    pool = make_pool([0, 30, 60])
    (row,) = observed(pool, promises={"mean": MEAN}, splits=2000).to_dict("records")
    assert np.isnan(row["delta"]) and row["pool_risk_mean"] <= 0.2
    assert row["none"] == 0


def rows_of(setting, prefix, agreement, degenerate=False):
    names = [f"{prefix}{i}" for i in range(4)]
    rows = pd.DataFrame({"example_id": names, "group_id": names, "setting": setting, "agreement": agreement})
    return rows.assign(policy="", degenerate=degenerate, em=50.0, flops=20.0, flops_full=32.0)


def test_pooled_units_are_of_both_splits_for_policy_and_full_model(monkeypatch):
    tested = {
        "full": rows_of(1.0, "t", True),
        "calm": pd.concat([rows_of(level, "t", level == 0.9) for level in (0.5, 0.9, 0.99)]).reset_index(drop=True),
    }
    calibration = pd.concat(
        [
            risks.answer_losses(rows, rows_of(1.0, "c", True), "triviaqa").assign(
                policy=policy, flops=9.0, flops_full=16.0
            )
            for policy, rows in (
                ("full", rows_of(1.0, "c", True)),
                ("calm", pd.concat([rows_of(0.9, "c", True), rows_of(0.5, "c", False)])),
            )
        ]
    )
    labels = {"backbone": "b", "family": "mamba", "dataset": "d", "kind": "triviaqa", "evaluated": "e.parquet"}
    settings = [labels | {"policy": policy, "head": None, "state_fill": None} for policy in tested]
    monkeypatch.setattr(promise.resampled, "read_by_dataset", lambda given: [(given, tested)])
    (pool,) = promise.pooled_units(settings, {("b", "d"): calibration}, {"calm": CALM})
    assert pool.sample.settings == (0.9, 0.5)  # those of both splits, the safest first
    assert pool.sample.losses["disagreement"].sum(axis=0).tolist() == [0, 8]
    assert pool.sample.flops.sum(axis=0).tolist() == [4 * 9 + 4 * 20] * 2
    assert pool.sample.flops_full.sum(axis=0).tolist() == [4 * 16 + 4 * 32] * 2
    assert pool.is_calibration.tolist() == [True] * 4 + [False] * 4 and pool.labels["head"] == ""
    tested["full"] = tested["full"].iloc[1:]
    with pytest.raises(InputError):
        list(promise.pooled_units(settings, {("b", "d"): calibration}, {"calm": CALM}))
