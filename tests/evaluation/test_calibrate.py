"""Calibration: p-values against the binomial tail, the sequence of tests, and in simulation the guarantee itself."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value, get_r_hat_plus
from scipy.stats import beta, binom

from conftest import ROOT
from early_exit.evaluation import calibrate, risks
from early_exit.experiment.config.policies import parse
from early_exit.experiment.config.run import Promise

LTT = Promise(risk="disagreement", epsilon=0.2, delta=0.1)
CRC = Promise(risk="disagreement", epsilon=0.2, method="conformal-risk-control")
GRID = (0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)  # the safest first
DRAWS = 4000


def make_sample(losses, shares=None, binary=True):
    """`losses` (units, settings), the same for each risk; `shares` of the full model's FLOPs, falling if not given."""
    losses = np.asarray(losses, dtype=float)
    shares = 1.0 - 0.1 * np.arange(1, losses.shape[1] + 1) if shares is None else shares
    groups = np.array([f"u{i:04d}" for i in range(len(losses))])
    work = 50.0 * np.broadcast_to(shares, losses.shape), np.full_like(losses, 50.0)
    every = dict.fromkeys(risks.RISKS, losses), *work, dict.fromkeys(risks.RISKS, binary)
    return risks.UnitLosses(GRID[: losses.shape[1]], groups, *every)


def hoeffding(mean, n, epsilon):
    """exp(-n KL(mean, epsilon)), 1 from epsilon on: the bound of Hoeffding 1963 for means of [0, 1] variables."""
    if mean >= epsilon:
        return 1.0
    left = mean * math.log(mean / epsilon) if mean else 0.0
    return math.exp(-n * (left + (1 - mean) * math.log((1 - mean) / (1 - epsilon))))


@pytest.mark.parametrize("n", [7, 25, 49, 100, 500, 1000])
def test_p_values_of_counts_are_the_binomial_tail_for_every_count(n):
    counts = np.arange(n + 1)
    for epsilon in (0.05, 0.1, 0.2, 1 / 3):
        exact = np.minimum(binom.cdf(counts, n, epsilon), [hoeffding(k / n, n, epsilon) for k in counts])
        np.testing.assert_allclose(calibrate.p_values(counts, n, epsilon, binary=True), exact, rtol=1e-9)


def test_the_library_alone_takes_a_mean_of_7_in_100_for_8():
    """Why `p_values` exists: of 100 losses, 7 are taken for 8."""
    given_mean = compute_hoeffding_bentkus_p_value(np.array([7 / 100]), 100, 0.2, binary=True)[0, 0]
    assert given_mean == pytest.approx(binom.cdf(8, 100, 0.2)) != binom.cdf(7, 100, 0.2)


@pytest.mark.parametrize("n", [25, 100])
def test_p_values_of_graded_losses_are_the_lower_of_both_bounds(n):
    sums = np.arange(0, n, 0.3)
    exact = [min(hoeffding(s / n, n, 0.2), math.e * binom.cdf(math.ceil(round(s, 6)), n, 0.2)) for s in sums]
    np.testing.assert_allclose(calibrate.p_values(sums, n, 0.2, binary=False), exact, rtol=1e-6)


def test_p_values_keep_the_shape_of_what_they_are_of():
    sums = np.array([[0, 3], [7, 0], [2, 2]])
    found = calibrate.p_values(sums, 50, np.array([0.1, 0.2]), binary=True)
    assert found.shape == (3, 2, 2)
    np.testing.assert_array_equal(found[..., 1], calibrate.p_values(sums, 50, 0.2, binary=True))
    assert found[1, 0, 0] > found[2, 0, 0] > found[0, 0, 0] and (found[..., 0] >= found[..., 1]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 20), min_size=5, max_size=5), min_size=1, max_size=8), st.booleans())
def test_a_sequence_ends_at_its_first_failure_whatever_comes_after(counts, binary):
    units = 60
    losses = np.tril(np.ones((units + 1, units + 1)))[1:, :-1]  # unit u has loss 1 at the settings up to u
    for row in counts:
        own = losses[:, [units - 1 - k for k in row]]  # so many units have a loss of 1 there
        found, passed = calibrate.certify(own, np.ones((1, units)), LTT, binary=binary)
        alone = calibrate.p_values(own.sum(axis=0), units, 0.2, binary=binary) <= 0.1
        np.testing.assert_array_equal(passed[0], np.logical_and.accumulate(alone))
        np.testing.assert_array_equal(found[0], calibrate.p_values(own.sum(axis=0), units, 0.2, binary=binary))


def test_each_draw_is_certified_independently():
    rng = np.random.default_rng(0)
    losses = (rng.random((80, 1)) < np.linspace(0.02, 0.5, 7)).astype(float)
    drawn = np.array([rng.permutation(80) < 40 for _ in range(200)])
    for promise in (LTT, CRC):
        together = calibrate.certify(losses, drawn, promise, binary=True)
        for i in (0, 7, 199):
            alone = calibrate.certify(losses, drawn[i : i + 1], promise, binary=True)
            for whole, one in zip(together, alone, strict=True):
                np.testing.assert_allclose(whole[i], one[0])


def test_the_cheapest_that_passed_is_chosen_and_at_equal_cost_the_safer():
    passed = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=bool)
    cost = np.array([[0.9, 0.8, 0.8, 0.1], [0.9, 0.95, 0.1, 0.1], [0.3, 0.2, 0.1, 0], [np.nan] * 4])
    assert calibrate.choose(passed, cost, "disagreement").tolist() == [1, 0, calibrate.NONE, 0]


def test_what_costs_as_much_as_the_full_model_is_taken_only_for_a_risk_that_the_full_model_has():
    passed, cost = np.ones((3, 2), dtype=bool), np.array([[1.2, 1.0], [1.1, 0.9], [1.3, 1.2]])
    for risk in risks.NOT_OF_FULL:
        assert calibrate.choose(passed, cost, risk).tolist() == [calibrate.NONE, 1, calibrate.NONE]
    assert calibrate.choose(passed, cost, "degenerate").tolist() == [1, 1, 1]


def test_a_threshold_that_passes_and_saves_nothing_is_not_chosen():
    """Fewer blocks may cost more: heads and state fills are counted."""
    dear = make_sample(np.zeros((100, 3)), shares=[1.1, 1.05, 1.02])
    found = calibrate.calibrate(dear, LTT)
    assert found["threshold"] is None and all(point["passed"] for point in found["curve"])
    assert [point["flops_share"] for point in found["curve"]] == pytest.approx([1.1, 1.05, 1.02])
    last_is_dearer = make_sample(np.zeros((100, 3)), shares=[0.9, 0.7, 0.8])
    assert calibrate.calibrate(last_is_dearer, LTT)["threshold"] == GRID[1]


def test_conformal_risk_control_is_the_library_s_bound_on_losses_that_never_fall():
    rng = np.random.default_rng(1)
    losses = rng.random((40, 7)) * np.linspace(0, 0.6, 7)
    bound, passed = calibrate.certify(losses, np.ones((1, 40)), CRC, binary=False)
    _, expected = get_r_hat_plus(np.maximum.accumulate(losses, axis=1), np.array(GRID), "crc", None, None, None)
    np.testing.assert_allclose(bound[0], expected)
    np.testing.assert_array_equal(passed[0], expected <= 0.2)
    assert passed.any() and not passed.all()


def test_a_result_has_every_p_value_and_keeps_to_its_schema():
    rules = yaml.safe_load((ROOT / "workflow/schemas/thresholds.schema.yaml").read_text())
    counts = [0, 2, 3, 19, 4, 60, 100]  # the fifth would pass, but comes after a failure
    losses = np.array([[float(unit < count) for count in counts] for unit in range(100)])
    found = calibrate.calibrate(make_sample(losses), LTT)
    assert (found["threshold"], found["n"], found["delta"]) == (0.9, 100, 0.1)
    assert [point["passed"] for point in found["curve"]] == [True] * 3 + [False] * 4
    assert [point["risk"] for point in found["curve"]] == pytest.approx([k / 100 for k in counts])
    expected = np.minimum(binom.cdf(counts, 100, 0.2), [hoeffding(k / 100, 100, 0.2) for k in counts])
    assert [point["p_value"] for point in found["curve"]] == pytest.approx(list(expected))
    document = {"backbone": "b", "dataset": "d", "answers": 100, "policies": {"p": {"one": found}}}
    document["policies"]["p"]["two"] = calibrate.calibrate(make_sample(losses), CRC)
    Draft202012Validator(rules).validate(json.loads(json.dumps(document)))


def test_bounds_are_the_clopper_pearson_limits_rounded_up():
    """Where the binomial tail is the smaller of the two, which it is for all but the fewest counts."""
    counts = np.array([0, 1, 5, 19, 60])
    exact = beta.ppf(0.9, counts + 1, 100 - counts)
    found = calibrate.upper_bounds(counts, 100, 0.1, binary=True)
    assert ((found >= exact - 1e-12) & (found < exact + 0.001 + 1e-12)).all()
    assert calibrate.upper_bounds(np.array([100]), 100, 0.1, binary=True) == 1.0


def test_none_passes_where_even_the_safest_is_risky_or_the_units_are_too_few():
    risky = np.zeros((100, 3))
    risky[:40, 0] = 1.0
    assert calibrate.calibrate(make_sample(risky), LTT)["threshold"] is None
    assert calibrate.calibrate(make_sample(np.zeros((10, 3))), LTT)["threshold"] is None  # 0.8 ** 10 is 0.107
    assert calibrate.calibrate(make_sample(np.zeros((11, 3))), LTT)["threshold"] == GRID[2]
    assert calibrate.calibrate(make_sample(np.zeros((3, 3))), CRC)["threshold"] is None


# The guarantee in simulation: the true risks are known, calibration sets are drawn, and thresholds chosen on each.

EPSILON, DELTA = LTT.epsilon, LTT.delta
EDGE = EPSILON + 1e-9  # as close to the bound as a broken promise can be: errors are as likely as they get
CURVES = {
    "rising": [0.02, 0.1, EDGE, 0.3, 0.5],
    "dipping": [0.05, EDGE, 0.01, EDGE, 0.0],  # good thresholds behind a bad one
    "bad": [EDGE] * 5,
}


def simulate(curve, promise, units=100, answers=1, passes=calibrate.learn_then_test):
    """(index chosen in each of DRAWS calibrations, its true risk); 0 where none was chosen.

    A unit's loss is the mean of its answers'. Luck is shared along the thresholds: the same units err at all.
    """
    rng, curve = np.random.default_rng(len(curve) + units), np.asarray(curve)
    sums = np.zeros((DRAWS, len(curve)))
    for _ in range(answers):
        sums += np.array([(rng.random((units, 1)) < curve).sum(axis=0) for _ in range(DRAWS)]) / answers
    passed = passes(sums, units, promise, **({"binary": answers == 1} if passes is calibrate.learn_then_test else {}))[
        1
    ]
    chosen = calibrate.choose(passed, np.broadcast_to(-np.arange(len(curve)), passed.shape), promise.risk)
    return chosen, np.where(chosen == calibrate.NONE, 0.0, curve[chosen])


def naive(sums, units, promise):
    """What a promise is worth without a test: the mean of the calibration set at most epsilon."""
    return sums / units, np.logical_and.accumulate(sums / units <= promise.epsilon, axis=1)


def most_likely(share):
    """What the share of errors among DRAWS does not exceed, but once in 10,000 times, if their chance is `share`."""
    return binom.ppf(1 - 1e-4, DRAWS, share) / DRAWS


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize(("units", "answers"), [(100, 1), (25, 1), (25, 4)])
def test_the_promise_is_broken_in_at_most_delta_of_the_draws(curve, units, answers):
    _, risk = simulate(CURVES[curve], LTT, units, answers)
    assert (risk > EPSILON).mean() <= most_likely(DELTA)


def test_the_simulation_would_notice_a_broken_promise_and_errors_come_close_to_delta():
    _, risk = simulate(CURVES["rising"], LTT, passes=naive)
    assert (risk > EPSILON).mean() > 3 * DELTA
    _, risk = simulate(CURVES["rising"], LTT)
    expected = binom.cdf(14, 100, EDGE)  # 14 of 100 are the most losses that pass
    assert expected > 0.8 * DELTA
    assert (risk > EPSILON).mean() == pytest.approx(expected, abs=5 * (expected / DRAWS) ** 0.5)


def test_thresholds_well_within_the_bound_are_found():
    chosen, risk = simulate([0.0, 0.01, 0.05, 0.08, 0.3], LTT)
    assert (chosen == 3).mean() > 0.95 and (risk > EPSILON).mean() < 0.01
    chosen, _ = simulate([0.0, 0.02, 0.4], LTT, units=25, answers=4)
    assert (chosen == 1).mean() > 0.8


@pytest.mark.parametrize("units", [25, 100])
def test_conformal_risk_control_keeps_the_expected_risk_and_not_much_below(units):
    curve = np.linspace(0.0, 0.6, 61)  # a fine grid: with few thresholds there is nothing to be tight about
    _, risk = simulate(curve, CRC, units, passes=calibrate.conformal_risk_control)
    assert EPSILON - 2 / (units + 1) - 0.02 < risk.mean() <= EPSILON + 4 * risk.std() / DRAWS**0.5
    assert (risk > EPSILON).mean() > 2 * DELTA  # it promises no more than the mean


# Losses


def make_scores(texts_agree, metric, degenerate=False, kind="coqa", setting=0.5):
    rows = pd.DataFrame({"example_id": [f"c{i // 2}:{i % 2}" for i in range(len(metric))], "setting": setting})
    name = {"coqa": "f1", "triviaqa": "em", "truthfulqa": "bleu_acc"}[kind]
    rows["group_id"] = rows["example_id"].str[:2]
    costs = {"flops": 1.0, "flops_full": 2.0}
    return rows.assign(policy="calm", agreement=texts_agree, degenerate=degenerate, **{name: metric}, **costs)


def test_losses_by_hand():
    full = make_scores(True, [100.0, 60.0, 0.0, 50.0], setting=1.0)
    early = make_scores([True, False, False, False], [100.0, 20.0, 40.0, 50.0], [False, False, True, False])
    found = risks.answer_losses(early, full.iloc[::-1], "coqa")
    assert found["disagreement"].tolist() == [0, 1, 1, 1]
    assert found["metric-drop"].tolist() == pytest.approx([0, 0.4, 0, 0])  # better than the full model is no loss
    assert found["degenerate"].tolist() == [0, 0, 1, 0]
    with pytest.raises(risks.InputError, match="c0:0 is not in the full model's run"):
        risks.answer_losses(early, full.iloc[1:], "coqa")


def losses_frame(kind="coqa"):
    """Two conversations of two turns at two settings."""
    early = pd.concat(
        [make_scores([True, False, True, True], [0.0] * 4, setting=0.5), make_scores(True, [0.0] * 4, setting=0.9)]
    )
    rows = risks.answer_losses(early, make_scores(True, [50.0, 0.0, 100.0, 100.0]), "coqa")
    return rows.assign(flops=[8.0, 20, 24, 0, 10, 20, 30, 0], flops_full=[10.0, 20, 30, 0] * 2)


def test_units_are_conversations_and_their_losses_means():
    rows = losses_frame().sample(frac=1, random_state=0)
    found = risks.unit_losses(rows, [0.9, 0.5], "coqa")
    assert found.groups.tolist() == ["c0", "c1"] and found.settings == (0.9, 0.5)
    assert found.losses["disagreement"].tolist() == [[0.0, 0.5], [0.0, 0.0]]
    assert found.losses["metric-drop"].tolist() == [[0.25, 0.25], [1.0, 1.0]]
    assert found.flops.tolist() == [[30, 28], [30, 24]] and found.flops_full.tolist() == [[30, 30], [30, 30]]
    assert not any(found.binary.values())
    with pytest.raises(risks.InputError, match="different questions at different settings"):
        risks.unit_losses(losses_frame().iloc[1:], [0.9, 0.5], "coqa")
    with pytest.raises(risks.InputError, match="different questions at different settings"):
        risks.unit_losses(losses_frame(), [0.9, 0.7], "coqa")


def test_losses_of_single_answers_are_binary_except_for_graded_metrics():
    single = losses_frame().assign(group_id=lambda rows: rows["example_id"])
    assert risks.unit_losses(single, [0.5], "coqa").binary == {
        "disagreement": True, "metric-drop": False, "degenerate": True,
    }  # fmt: skip
    assert all(risks.unit_losses(single, [0.5], "triviaqa").binary.values())


def test_the_order_of_testing_is_the_policy_s():
    head = parse({"kind": "head", "recipe": "r", "head": "h", "state_fill": "copy"})
    assert head.safest_first([0.5, 0.9, 0.7]) == [0.9, 0.7, 0.5]
    assert parse({"kind": "pruned", "drop": [1]}).safest_first([4, 1, 2]) == [1, 2, 4]
    assert head.is_calibrated and not parse({"kind": "full"}).is_calibrated
