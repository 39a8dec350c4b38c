"""Promises held against splits of all questions: what each column counts, and that it can fail."""

from math import comb

import numpy as np
import pandas as pd
import pytest
from test_figures import make_results

from early_exit.base.errors import InputError
from early_exit.evaluation import calibrate, promise, risks
from early_exit.report import promises as promise_figures

PROMISE = {"risk": "disagreement", "method": "learn-then-test", "epsilon": 0.2, "delta": 0.1}
MEAN = PROMISE | {"method": "conformal-risk-control"}
GRID = (0.9, 0.7, 0.5)
LABELS = {"backbone": "b", "family": "mamba", "dataset": "triviaqa", "policy": "p", "head": "", "state_fill": ""}


def make_pool(errors, units=200, full_errors=0, calibration=100, **labels):
    """A pool in which so many units, the last ones, have a loss at each setting; the first are calibrated on."""
    losses = np.array([[float(unit >= units - count) for count in errors] for unit in range(units)])

    def sample(values, settings, blocks):
        work = np.broadcast_to(blocks, values.shape), np.full_like(values, 16.0)
        every = dict.fromkeys(risks.RISKS, values), *work
        groups = np.array([f"u{unit:04d}" for unit in range(units)])
        return risks.UnitLosses(settings, groups, *every, dict.fromkeys(risks.RISKS, True))

    own = sample(losses, GRID[: len(errors)], np.arange(12.0, 12.0 - len(errors), -1))
    full = sample((np.arange(units) < full_errors).astype(float)[:, None], (1.0,), [16.0])
    return promise.PooledUnits(LABELS | labels, own, full, np.arange(units) < calibration)


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
    """40 of 200 units err, a risk of just epsilon: no error over the pool; in the test half whatever passed is one."""
    (row,) = observed(make_pool([0, 40]), splits=2000).to_dict("records")
    assert row["exceeds_pool"] == 0 < row["exceeds"]
    assert row["exceeds"] == pytest.approx(hypergeometric(14, 100, 40, 200), abs=0.02)


def test_the_run_s_split_is_reported_apart_from_the_random_ones():
    """All losses are among the test units: the run's own calibration sees none of them."""
    (row,) = observed(make_pool([0, 100])).to_dict("records")
    assert (row["run_threshold"], row["run_risk"]) == (0.7, 1.0)
    assert row["exceeds"] == 0 and row["risk_high"] == 0


def test_if_nothing_passes_the_full_model_answers_with_its_own_risk():
    (row,) = observed(make_pool([200], full_errors=20, calibration=50)).to_dict("records")
    assert row["none"] == 1 and np.isnan(row["run_threshold"])
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
    return rows.assign(degenerate=degenerate, em=50.0, flops=20.0, flops_full=32.0)


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
    labels = {"backbone": "b", "family": "mamba", "dataset": "d", "kind": "triviaqa", "scores": "s.parquet"}
    settings = [labels | {"policy": policy, "head": None, "state_fill": None} for policy in tested]
    monkeypatch.setattr(promise.resampled, "read_by_dataset", lambda given: [(given, tested)])
    (pool,) = promise.pooled_units(settings, {("b", "d"): calibration}, {"calm": {"kind": "head"}})
    assert pool.sample.settings == (0.9, 0.5)  # those of both splits, the safest first
    assert pool.sample.losses["disagreement"].sum(axis=0).tolist() == [0, 8]
    assert pool.sample.flops.sum(axis=0).tolist() == [4 * 9 + 4 * 20] * 2
    assert pool.sample.flops_full.sum(axis=0).tolist() == [4 * 16 + 4 * 32] * 2
    assert pool.is_calibration.tolist() == [True] * 4 + [False] * 4 and pool.labels["head"] == ""
    tested["full"] = tested["full"].iloc[1:]
    with pytest.raises(InputError):
        list(promise.pooled_units(settings, {("b", "d"): calibration}, {"calm": {"kind": "head"}}))


# Figures


@pytest.fixture(scope="module")
def table():
    policies = [("calm-copy", "calm", "copy"), ("ffn-propagate", "ffn", "propagate")]
    pools = [
        make_pool(errors, dataset=dataset, policy=policy, head=head, state_fill=fill, backbone="tiny-transformer")
        for (policy, head, fill), errors in zip(policies, ([0, 30, 60], [90, 90, 90]), strict=True)
        for dataset in ("triviaqa", "coqa")
    ]
    return promise.observe(pools, {"one": PROMISE, "mean": MEAN}, splits=50, seed=1)


@pytest.fixture(scope="module")
def found():
    """thresholds.json of two datasets; the second policy's risk is too high everywhere."""
    policies = {}
    for policy, errors in (("calm-copy", [0, 3, 60]), ("ffn-propagate", [90, 90, 90])):
        sample = make_pool(errors, units=100).sample
        terms = {"one": PROMISE, "mean": MEAN}
        policies[policy] = {name: calibrate.calibrate(sample, kept) for name, kept in terms.items()}
    return [{"backbone": "tiny-transformer", "dataset": name, "policies": policies} for name in ("triviaqa", "coqa")]


def rings(axes):
    hollow = [line for line in axes.lines if line.get_fillstyle() == "none"]
    return [tuple(place) for line in hollow for place in line.get_xydata()]


def test_the_figure_of_a_calibration_shows_risks_bounds_and_what_was_chosen(found):
    rows = promise_figures.tested_thresholds(found)
    assert len(rows) == 2 * 2 * 2 * 3
    figure = promise_figures.calibration(rows, make_results(), "tiny-transformer", "one")
    assert [axes.get_title() for axes in figure.axes] == ["triviaqa, n = 100", "coqa, n = 100", "", ""]
    calm = figure.axes[0]
    assert rings(calm) == [(1, 3.0)]  # the second threshold tested
    (line,) = [line for line in calm.lines if len(line.get_xdata()) == 3 and line.get_marker() != "_"]
    assert line.get_ydata().tolist() == [0.0, 3.0, 60.0]
    tops = [path.vertices[:, 1].max() for path in calm.collections[0].get_paths()]
    bounds = [point["bound"] for point in found[0]["policies"]["calm-copy"]["one"]["curve"]]
    assert tops == pytest.approx([100 * bound for bound in bounds])
    assert rings(figure.axes[2]) == []
    assert figure.get_suptitle() == "tiny-transformer, one: disagreement of at most 20 %, with 90 % probability"
    with pytest.raises(InputError, match="promise two"):
        promise_figures.calibration(rows, make_results(), "tiny-transformer", "two")


def test_the_figure_of_a_promise_shows_the_table(table):
    figure = promise_figures.promise(table, make_results(), "tiny-transformer", "one")
    risk, above, none = figure.axes
    labels = [tick.get_text() for tick in risk.get_yticklabels()]
    policies = ["calm-copy", "ffn-propagate"]
    assert labels == ["triviaqa (n = 100)", *policies, "coqa (n = 100)", *policies]
    rows = table[(table["promise"] == "one") & (table["calibrated_on"] == table["dataset"])]
    rows = rows.sort_values("dataset", ascending=False, kind="stable")  # triviaqa first, as in the table
    drawn = [line.get_xdata()[0] for line in risk.lines if len(line.get_xdata()) == 1 and line.get_marker() != "x"]
    assert drawn == pytest.approx(list(100 * rows["risk_mean"]))
    filled = [
        line.get_xdata()[0] for line in above.lines if line.get_fillstyle() == "full" and len(line.get_xdata()) == 1
    ]
    assert filled == pytest.approx(list(100 * rows["exceeds"]))
    assert [bar.get_width() for bar in none.patches] == pytest.approx(list(100 * rows["none"])) and rows["none"].any()
    dashed = [axes.lines[-1].get_xdata()[0] for axes in (risk, above)]
    assert dashed == pytest.approx([20.0, 10.0])


def test_the_figure_of_conformal_risk_control_has_no_line_for_delta(table):
    figure = promise_figures.promise(table, make_results(), "tiny-transformer", "mean")
    assert figure.get_suptitle() == "tiny-transformer, mean: expected disagreement of at most 20 %; 50 splits"
    assert {len(line.get_xdata()) for line in figure.axes[1].lines} == {1}  # no line for delta


def test_the_figure_of_transfers_shows_the_mean_share_of_every_pair(table):
    figure = promise_figures.transfer(table)
    assert len(figure.axes) == 2
    texts = [text.get_text() for text in figure.axes[0].texts]
    rows = table[table["promise"] == "one"]
    expected = 100 * rows.pivot_table(index="dataset", columns="calibrated_on", values="exceeds", aggfunc="mean")
    order = ["triviaqa", "coqa"]
    assert texts == [f"{value:.0f}" for value in expected.loc[order, order].to_numpy().ravel()]
