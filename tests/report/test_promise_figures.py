"""Figures of promises show the thresholds that were calibrated and the risks that were observed."""

import pytest

from early_exit.base.errors import InputError
from early_exit.evaluation import calibrate, promise
from early_exit.report import promises
from made_pools import MEAN, PROMISE, make_pool
from made_results import make_results


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
    rows = promises.tested_thresholds(found)
    assert len(rows) == 2 * 2 * 2 * 3
    figure = promises.calibration(rows, make_results(), "tiny-transformer", "one")
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
    other_order = promises.tested_thresholds(found[::-1])
    again = promises.calibration(other_order, make_results(), "tiny-transformer", "one")
    assert [axes.get_title() for axes in again.axes] == [axes.get_title() for axes in figure.axes]
    with pytest.raises(InputError, match="promise two"):
        promises.calibration(rows, make_results(), "tiny-transformer", "two")


def test_the_figure_of_a_promise_shows_the_table(table):
    figure = promises.promise(table, make_results(), "tiny-transformer", "one")
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
    figure = promises.promise(table, make_results(), "tiny-transformer", "mean")
    assert figure.get_suptitle() == "tiny-transformer, mean: expected disagreement of at most 20 %; 50 splits"
    assert {len(line.get_xdata()) for line in figure.axes[1].lines} == {1}  # no line for delta


def test_the_title_names_degenerate_answers(table):
    figure = promises.promise(table.assign(risk="degenerate"), make_results(), "tiny-transformer", "mean")
    assert "expected degenerate answers of at most 20 %" in figure.get_suptitle()


def test_the_figure_of_transfers_shows_the_mean_share_of_every_pair(table):
    figure = promises.transfer(table)
    assert len(figure.axes) == 2
    texts = [text.get_text() for text in figure.axes[0].texts]
    rows = table[table["promise"] == "one"]
    expected = 100 * rows.pivot_table(index="dataset", columns="calibrated_on", values="exceeds", aggfunc="mean")
    order = ["triviaqa", "coqa"]
    assert texts == [f"{value:.0f}" for value in expected.loc[order, order].to_numpy().ravel()]
