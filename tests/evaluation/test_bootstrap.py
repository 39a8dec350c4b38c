import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from early_exit.evaluation.bootstrap import draws, holm, interval, p_value, paired_difference, ratio_interval, summary

SETTINGS = {"seed": 5, "resamples": 1000}
SIMULATIONS = 1000
# Percentile intervals of 60 groups cover a little less than 95 %; four standard errors of 1,000 simulations are 2.8 %.
COVERAGE = (0.91, 0.98)


def coverage(simulate, truth):
    """Share of simulated data sets whose interval contains `truth`; `simulate(generator)` returns an interval."""
    generator = np.random.default_rng(0)
    found = [simulate(generator) for _ in range(SIMULATIONS)]
    return np.mean([low <= truth <= high for low, high in found])


def clustered(generator, groups=60, rows=8):
    """Rows that share most of their variance with their group: (values, groups), true mean 0."""
    shared = generator.normal(size=(groups, 1))
    values = shared + 0.3 * generator.normal(size=(groups, rows))
    return values.ravel(), np.repeat(np.arange(groups), rows)


def test_interval_of_a_mean_covers_it():
    found = coverage(lambda generator: interval(generator.random(60) < 0.3, np.arange(60), **SETTINGS), 0.3)
    assert COVERAGE[0] <= found <= COVERAGE[1]


def test_clustered_interval_covers_and_the_naive_one_does_not():
    def by_row(generator):
        values, _ = clustered(generator)
        return interval(values, np.arange(len(values)), **(SETTINGS | {"resamples": 200}))

    assert COVERAGE[0] <= coverage(lambda generator: interval(*clustered(generator), **SETTINGS), 0.0) <= COVERAGE[1]
    assert coverage(by_row, 0.0) < 0.7


def test_interval_of_a_ratio_covers_it():
    def simulate(generator):
        full = generator.exponential(size=60)
        spent = full * generator.uniform(0.4, 1.0, size=60)
        return ratio_interval(spent, full, np.arange(60), **SETTINGS)

    assert COVERAGE[0] <= coverage(simulate, 0.7) <= COVERAGE[1]


def test_width_is_the_normal_one_for_many_rows():
    values = np.arange(2000) % 10 < 3
    low, high = interval(values, np.arange(2000), seed=1, resamples=4000)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 2000), rel=0.05)
    assert (low + high) / 2 == pytest.approx(0.3, abs=0.002)


def test_repeating_rows_within_their_group_adds_no_certainty():
    values, groups = clustered(np.random.default_rng(3), groups=20, rows=1)
    once = interval(values, groups, **SETTINGS)
    assert interval(np.repeat(values, 9), np.repeat(groups, 9), **SETTINGS) == pytest.approx(once)
    low, high = interval(np.repeat(values, 9), np.arange(180), **SETTINGS)
    assert high - low == pytest.approx((once[1] - once[0]) / 3, rel=0.3)


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    values, groups = clustered(np.random.default_rng(1))
    assert interval(values, groups, seed=1, resamples=500) == interval(values, groups, seed=1, resamples=500)
    assert interval(values, groups, seed=1, resamples=500) != interval(values, groups, seed=2, resamples=500)


@given(st.permutations(range(24)))
def test_the_order_of_rows_does_not_matter(order):
    values, groups = np.arange(24.0) ** 2, np.array([f"story-{row // 3}" for row in range(24)])
    found = interval(values[order], groups[order], seed=1, resamples=100)
    assert found == pytest.approx(interval(values, groups, seed=1, resamples=100))


def test_draws_depend_on_seed_and_number_of_groups_only():
    drawn = draws(7, 30, 100)
    assert drawn.shape == (100, 30)
    assert (drawn.sum(axis=1) == 30).all()
    draws.cache_clear()
    assert (draws(7, 30, 200)[:100] == drawn).all()
    assert (draws(8, 30, 100) != drawn).any()
    with pytest.raises(ValueError, match="read-only"):
        drawn[0, 0] = 1


def test_a_higher_level_is_wider():
    values, groups = clustered(np.random.default_rng(2))
    low, high = interval(values, groups, level=0.5, **SETTINGS)
    wider = interval(values, groups, level=0.99, **SETTINGS)
    assert wider[0] < low < high < wider[1]


def test_a_mean_is_the_ratio_to_the_number_of_rows():
    values, groups = [3.0, 5.0, 8.0, 1.0], ["a", "a", "b", "c"]
    assert ratio_interval(values, np.ones(4), groups, **SETTINGS) == interval(values, groups, **SETTINGS)
    # The means of every possible resample of the groups lie between those of c alone and of b alone.
    low, high = interval(values, groups, **SETTINGS)
    assert 1.0 <= low < 17 / 4 < high <= 8.0


def test_a_ratio_weighs_rows_by_their_denominator():
    # Long generations save half, short ones nothing: the ratio of sums is near 1/2, the mean of ratios would be 3/4.
    full = np.array([1000.0] * 30 + [1.0] * 30)
    spent = np.where(full > 1, full / 2, full)
    low, high = ratio_interval(spent, full, np.arange(60), **SETTINGS)
    assert 0.5 < low < high < 0.51


def test_equal_values_or_a_single_group_have_an_interval_of_no_width():
    assert interval([2.0, 4.0], ["a", "a"], **SETTINGS) == (3.0, 3.0)
    assert interval([0.1] * 7, np.arange(7) // 2, **SETTINGS) == pytest.approx((0.1, 0.1))
    assert interval([True] * 3, ["a", "b", "c"], **SETTINGS) == (1.0, 1.0)


def test_undefined_ratios_and_missing_values():
    # Generations of one token have no decode pass: 0 of 0 FLOPs.
    assert np.isnan(ratio_interval([0.0, 0.0], [0.0, 0.0], ["a", "b"], **SETTINGS)).all()
    assert ratio_interval([0.0, 3.0], [0.0, 4.0], ["a", "b"], **SETTINGS) == (0.75, 0.75)
    assert np.isnan(interval([1.0, np.nan], ["a", "b"], **SETTINGS)).all()


def test_paired_difference_is_narrow_for_settings_that_err_alike():
    generator = np.random.default_rng(4)
    full = generator.normal(size=200)
    early = full - 0.1 + 0.05 * generator.normal(size=200)
    groups = np.arange(200)
    low, high = paired_difference(early, full, groups, **SETTINGS)
    assert low < -0.1 < high < 0.0
    lone = interval(full, groups, **SETTINGS)
    assert high - low < (lone[1] - lone[0]) / 5
    assert paired_difference(full, full, groups, **SETTINGS) == (0.0, 0.0)


def resampled_mean(values, resamples=1000):
    """The mean of the sample and of each resample of it."""
    values = np.asarray(values, dtype=float)
    return np.append(values.mean(), draws(5, len(values), resamples) @ values / len(values))


def test_summary_of_resamples_is_the_interval_of_the_statistic():
    values = np.random.default_rng(6).normal(size=50)
    assert summary(resampled_mean(values)) == pytest.approx(
        (values.mean(), *interval(values, np.arange(50), **SETTINGS))
    )


def test_summary_without_enough_resamples_has_no_interval():
    values = resampled_mean(np.arange(30.0))
    few, many = values.copy(), values.copy()
    few[1:26], many[1:27] = np.nan, np.nan  # of 1,000, one tail of a 95 % interval is 25
    assert summary(few)[0] == 14.5 and np.isfinite(summary(few)).all()
    assert summary(many)[0] == 14.5 and np.isnan(summary(many)[1:]).all()
    assert np.isnan(summary(np.append(np.nan, values[1:]))).all()


def test_p_value_by_hand():
    assert p_value(np.array([1.0, 2.0, 3.0, -1.0]), 0.0) == 2 * (1 + 1) / 5
    assert p_value(np.ones(99), 0.0) == 0.02  # as small as 99 resamples allow
    assert p_value(np.zeros(99), 0.0) == 1.0
    assert p_value(np.append(np.ones(98), np.nan), 0.0) == 0.04  # what is not known may lie on either side


def test_p_values_without_an_effect_are_uniform_and_agree_with_the_interval():
    generator, found, outside = np.random.default_rng(0), [], []
    for _ in range(SIMULATIONS):
        values = resampled_mean(generator.normal(size=60), 400)
        _, low, high = summary(values)
        found.append(p_value(values[1:], 0.0))
        outside.append(not low <= 0.0 <= high)
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.09
    assert np.mean((np.array(found) <= 0.05) != np.array(outside)) < 0.01
    assert np.mean(np.array(found) <= 0.5) == pytest.approx(0.5, abs=0.06)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0] and holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_the_p_values_and_bonferronis_and_keeps_their_order(p_values):
    adjusted, p_values = holm(p_values), np.array(p_values)
    assert (adjusted >= p_values).all() and (adjusted <= np.minimum(1.0, p_values * len(p_values))).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()
    assert adjusted.min() == pytest.approx(min(1.0, p_values.min() * len(p_values)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval([], [], **SETTINGS), "not empty"),
        (lambda: interval([1.0, 2.0], ["a"], **SETTINGS), "equally long"),
        (lambda: interval([1.0], ["a"], seed=1, resamples=0), "resamples 0"),
        (lambda: interval([1.0], ["a"], level=95, **SETTINGS), "level 95"),
        (lambda: ratio_interval([1.0], [-1.0], ["a"], **SETTINGS), "negative"),
        (lambda: paired_difference([1.0], [1.0, 2.0], ["a"], **SETTINGS), "shapes"),
    ],
)
def test_invalid_arguments_raise_value_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
