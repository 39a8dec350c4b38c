"""Policies at equal compute, against interpolation and resampling done by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from early_exit.base import records
from early_exit.base.errors import InputError
from early_exit.evaluation import bootstrap, compare, resampled
from made_runs import BOOTSTRAP, FLAT, HEADS, POLICIES, make_rows, make_run, make_runs

SIMULATIONS, TRUTH_SIZE = 200, 60


def test_curves_run_through_the_settings_and_pruning_starts_with_the_full_model():
    runs = make_runs(FLAT)
    x, y = compare.curve_points(runs, "pruned", "em")
    assert x.shape == y.shape == (401, 3)
    np.testing.assert_allclose(x[0], [0.0, 0.1, 0.5])
    np.testing.assert_allclose(y[0], [90.0, 80.0, 0.0])
    np.testing.assert_allclose(compare.curve_points(runs, "calm-copy", "em")[0][0], [-0.1, 0.4])  # from left to right


def test_heights_by_hand_within_the_common_range_only():
    table = compare.equal_compute(make_runs(FLAT), "tiny")
    assert list(table.columns) == list(compare.EQUAL_COLUMNS)
    rows = table[(table["metric"] == "em")].set_index("at")
    assert rows.index.tolist()[1:] == [0.0, 0.1, 0.2, 0.3, 0.4]  # from 0, where pruning starts, to 0.4, calm's last
    np.testing.assert_allclose(rows["value"].tolist()[1:], [84.0, 78.0, 72.0, 66.0, 60.0])
    np.testing.assert_allclose(rows["reference_value"].tolist()[1:], [90.0, 80.0, 60.0, 40.0, 20.0])
    mean = rows.iloc[0]
    assert (mean["saved_from"], mean["saved_to"]) == (0.0, 0.4)
    assert (mean["points"], mean["reference_points"]) == (1, 2)
    assert mean["value"] == pytest.approx(72.0)
    assert mean["reference_value"] == pytest.approx((0.1 * 85 + 0.3 * 50) / 0.4)
    assert mean["difference"] == pytest.approx(72.0 - (0.1 * 85 + 0.3 * 50) / 0.4)


def test_levels_are_those_within_the_common_range():
    points = {"calm-copy": [(0.5, 0.37, 60.0), (0.9, 0.15, 90.0)], "mamba-copy": [(0.5, 0.45, 60.0), (0.9, 0.05, 90.0)]}
    table = compare.equal_compute(make_runs(points), "tiny")
    assert table.loc[table["metric"] == "em", "at"].tolist()[1:] == [0.2, 0.3]


def test_curves_that_do_not_overlap_have_no_difference():
    runs = make_runs({"pruned": [(2, 0.1, 80.0)], "calm-copy": [(0.5, 0.4, 60.0), (0.9, 0.2, 70.0)]})
    table = compare.equal_compute(runs, "tiny")
    assert table["at"].isna().all() and len(table) == 2  # no level either
    assert table[["saved_from", "value", "difference", "difference_low"]].isna().all(axis=None)
    assert (table["points"] == 0).all()


def test_a_policy_of_one_setting_has_no_curve():
    table = compare.equal_compute(make_runs({"pruned": [(2, 0.3, 80.0)], "calm-copy": [(0.5, 0.2, 60.0)]}), "tiny")
    assert table["difference"].isna().all()


def test_settings_that_save_the_same_count_as_their_mean():
    points = {"pruned": FLAT["pruned"], "calm-copy": [(0.5, 0.2, 50.0), (0.6, 0.2, 70.0), (0.9, 0.0, 90.0)]}
    runs = make_runs(points)
    x, y = compare.curve_points(runs, "calm-copy", "em")
    np.testing.assert_allclose(x[0], [0.0, 0.2, 0.2])
    np.testing.assert_allclose(y[0], [90.0, 60.0, 60.0])
    assert compare.height_at(x, y, 0.2)[0] == pytest.approx(60.0)
    assert compare.height_at(x, y, 0.1)[0] == pytest.approx(75.0)
    assert np.isnan(compare.height_at(x, y, 0.3)[0])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-20, 60), st.floats(0, 100)), min_size=2, max_size=8, unique_by=lambda p: p[0]),
    st.floats(0.0, 0.45), st.floats(0.55, 1.0),
)  # fmt: skip
def test_mean_height_is_the_integral_of_linear_interpolation(points, start, end):
    x, y = (np.array(values, dtype=float)[None] for values in zip(*sorted(points), strict=True))
    x = x / 100
    low, high = x[:, 0] + start * np.ptp(x), x[:, 0] + end * np.ptp(x)
    grid = np.linspace(low[0], high[0], 20001)
    expected = np.trapezoid(np.interp(grid, x[0], y[0]), grid) / (high - low)[0]
    assert compare.mean_height(x, y, low, high)[0] == pytest.approx(expected, abs=0.05)
    assert compare.height_at(x, y, grid[777])[0] == pytest.approx(np.interp(grid[777], x[0], y[0]), abs=1e-6)


def test_resamples_are_those_of_rows_drawn_and_added_up():
    """The sums of each resample against a frame in which every group stands as often as it was drawn."""
    rows = make_rows([(0.5, 0.3, 60.0), (0.9, 0.1, 80.0)], examples=12, per_group=3, noise=9.0)
    runs = resampled.resample(
        [make_run("full"), make_run("calm-copy")], {"full": rows.query("setting == 0.9"), "calm-copy": rows},
        POLICIES, HEADS, seed=3, resamples=20,
    )  # fmt: skip
    curve = runs.curves["calm-copy"]
    assert (runs.examples, runs.groups, curve.settings) == (12, 4, (0.5, 0.9))
    drawn = bootstrap.draws(resampled.crc32(b"3:triviaqa"), 4, 20)
    for resample, counts in enumerate([np.ones(4), *drawn]):
        frame = pd.concat([rows[rows["group_id"] == f"g{g:03}"] for g in range(4) for _ in range(int(counts[g]))])
        for k, (_, same) in enumerate(frame.groupby("setting")):
            assert curve.mean("em")[resample, k] == pytest.approx(same["em"].mean())
            saved = 1 - same["flops"].sum() / same["flops_full"].sum()
            assert curve.saved()[resample, k] == pytest.approx(saved)
            assert curve.mean("agreement")[resample, k] == pytest.approx(100 * same["agreement"].mean())


def test_draws_are_shared_by_backbones_and_not_by_datasets():
    def means(backbone, dataset):
        runs = make_runs(FLAT, noise=5.0, backbone=backbone, dataset=dataset)
        return runs.curves["calm-copy"].mean("agreement")

    assert np.array_equal(means("a", "triviaqa"), means("b", "triviaqa"))
    assert not np.array_equal(means("a", "triviaqa"), means("a", "coqa"))


def test_conversations_are_resampled_as_wholes():
    """Four turns that always agree are worth one: the interval is that of the groups, twice as wide."""

    def width(per_group):
        rows = make_rows([(0.5, 0.2, 60.0), (0.9, 0.0, 90.0)], examples=80)
        rows["em"] = np.where(np.arange(len(rows)) // 4 % 2, 100.0, 0.0) * (rows["setting"] < 0.9)
        rows["group_id"] = [f"g{int(name[1:]) // per_group:03}" for name in rows["example_id"]]
        full = rows.query("setting == 0.9")
        entries = [make_run("full"), make_run("calm-copy")]
        runs = resampled.resample(entries, {"full": full, "calm-copy": rows}, POLICIES, HEADS, **BOOTSTRAP)
        return np.subtract(*bootstrap.summary(runs.curves["calm-copy"].mean("em")[:, 0])[:0:-1])

    assert width(4) == pytest.approx(2 * width(1), rel=0.25)


def test_pairs_are_policies_with_pruning_mamba_heads_with_stateless_ones_and_fills():
    names = ("pruned", "calm-copy", "mamba-copy", "calm-propagate", "mamba-propagate")
    runs = make_runs(dict.fromkeys(names, FLAT["calm-copy"]))
    assert compare.compared_pairs(runs) == [
        *(("static-pruning", name, "pruned") for name in names[1:]),
        ("stateless-head", "mamba-copy", "calm-copy"),
        ("stateless-head", "mamba-propagate", "calm-propagate"),
        ("state-fill", "calm-propagate", "calm-copy"),
        ("state-fill", "mamba-propagate", "mamba-copy"),
    ]


def test_other_prunings_are_compared_with_the_first_and_policies_with_each():
    runs = make_runs(dict.fromkeys(("pruned", "pruned-influence", "calm-copy"), FLAT["calm-copy"]))
    assert compare.compared_pairs(runs) == [
        ("static-pruning", "calm-copy", "pruned"), ("static-pruning", "calm-copy", "pruned-influence"),
        ("static-pruning", "pruned-influence", "pruned"),
    ]  # fmt: skip


def test_a_policy_does_not_differ_from_itself_and_shared_noise_cancels():
    points = [(0.5, 0.4, 60.0), (0.7, 0.2, 80.0), (0.9, 0.0, 90.0)]
    runs = make_runs({"calm-copy": points, "mamba-copy": [(t, s, y - 5) for t, s, y in points]}, noise=20.0)
    assert bootstrap.summary(compare.area_difference(runs, "calm-copy", "calm-copy", "em")) == (0.0, 0.0, 0.0)
    value, low, high = bootstrap.summary(compare.area_difference(runs, "mamba-copy", "calm-copy", "em"))
    assert (value, low, high) == pytest.approx((-5.0, -5.0, -5.0))
    lone = bootstrap.summary(runs.curves["calm-copy"].mean("em")[:, 1])
    assert lone[2] - lone[1] > 5.0


def test_interval_of_the_area_difference_covers_the_truth():
    """200 draws of a population with known curves: examples share difficulty, savings are as noisy as scores."""
    generator = np.random.default_rng(7)
    truth = {"a": [(0.05, 85.0), (0.2, 75.0), (0.4, 50.0)], "b": [(0.0, 80.0), (0.3, 70.0), (0.5, 40.0)]}
    shared = np.linspace(0.05, 0.4, 100001)
    true = np.subtract(*(np.interp(shared, *zip(*truth[name], strict=True)).mean() for name in ("a", "b")))
    drawn, found = bootstrap.draws(11, TRUTH_SIZE, 400), []
    for _ in range(SIMULATIONS):
        hard = generator.normal(size=TRUTH_SIZE) * 15
        curves = {}
        for name, points in truth.items():
            saved, score = np.array(points).T
            flops = 1 - saved + 0.1 * generator.normal(size=(TRUTH_SIZE, 3))
            scores = score + hard[:, None] + 15 * generator.normal(size=(TRUTH_SIZE, 3))
            ones = np.ones((TRUTH_SIZE, 3))
            columns = {"flops": flops, "flops_full": ones, "em": scores, "examples": ones}
            sums = {key: np.vstack([table.sum(axis=0), drawn @ table]) for key, table in columns.items()}
            curves[name] = resampled.Curve(name, "head", "h", "calm", "copy", (0.5, 0.7, 0.9), sums)
        runs = resampled.ResampledRuns(
            "x", "transformer", "d", "triviaqa", TRUTH_SIZE, TRUTH_SIZE, curves | {"full": None}
        )
        _, low, high = bootstrap.summary(compare.area_difference(runs, "a", "b", "em"))
        found.append(low <= true <= high)
    # Three standard errors of 200 draws at 95 % are 4.6 %; percentile intervals of 60 cover about a percent less.
    assert 0.89 <= np.mean(found) <= 0.99


def test_differences_from_the_full_model_are_paired():
    rows = {"full": make_rows([(1.0, 0.0, 90.0, 0.1)], noise=9.0), "calm-copy": make_rows(
        [(0.5, 0.4, 60.0, 0.5), (0.9, 0.1, 90.0, 0.1)], noise=9.0)}  # fmt: skip
    shuffled = rows["calm-copy"].sample(frac=1, random_state=1)
    found = compare.differences_from_full(make_run("calm-copy"), shuffled, rows["full"], preset="tiny", **BOOTSTRAP)
    assert found["setting"].tolist() == [0.5, 0.9]
    loose = found.iloc[0]
    own, full = rows["calm-copy"].query("setting == 0.5"), rows["full"]
    assert loose["em_difference"] == pytest.approx(-30.0)
    assert (loose["em_difference_low"], loose["em_difference_high"]) == pytest.approx(
        bootstrap.paired_difference(own["em"], full["em"], full["group_id"], **BOOTSTRAP)
    )
    assert loose["degenerate_difference"] == pytest.approx(0.4) and loose["degenerate_difference_low"] > 0.2
    assert loose["mean_tokens_difference"] == 0.0
    assert np.isnan(loose["bleu_max_difference"])
    same = compare.differences_from_full(make_run("full"), rows["full"], rows["full"], preset="tiny", **BOOTSTRAP).iloc[
        0
    ]
    assert (same["em_difference"], same["em_difference_low"], same["em_difference_high"]) == (0.0, 0.0, 0.0)
    assert (same["head"], same["policy"]) == ("", "full")


def write(folder, rows):
    """Writes evaluated answers, other columns of the schema filled up, and returns an entry for each policy."""
    schema, path = records.evaluated_schema("triviaqa"), str(folder / "evaluated.parquet")
    table = pd.concat(one.assign(policy=policy) for policy, one in rows.items())
    others = {field.name: "" if field.type == "string" else 0 for field in schema if field.name not in table}
    records.write_table(table.assign(**others)[schema.names], path, schema)
    return [make_run(policy) | {"evaluated": path} for policy in rows]


def test_runs_are_read_by_backbone_and_dataset(tmp_path):
    entries = write(tmp_path, {"pruned": make_rows([(2, 0.1, 80)]), "full": make_rows([(1.0, 0.0, 90.0)])})
    ((found, rows),) = resampled.read_by_dataset(entries)
    assert found == entries and set(rows) == {"full", "pruned"}
    runs = resampled.resample(found, rows, POLICIES, HEADS, **BOOTSTRAP)
    assert runs.curves["pruned"].mean("em")[0].tolist() == [80.0]


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    counts = {"full": 4, "pruned": 5}
    entries = write(tmp_path, {name: make_rows([(1.0, 0.0, 90.0)], examples=n) for name, n in counts.items()})
    ((_, rows),) = resampled.read_by_dataset(entries)
    with pytest.raises(InputError, match=r"evaluated\.parquet: policy pruned has not the examples of policy full"):
        resampled.resample(entries, rows, POLICIES, HEADS, **BOOTSTRAP)
    with pytest.raises(InputError, match=r"evaluated\.parquet: has no answer of policy fixed"):
        list(resampled.read_by_dataset([*entries, entries[0] | {"policy": "fixed"}]))
