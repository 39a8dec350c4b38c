"""Figures of heads' quality show what the tables say."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from early_exit.base.errors import InputError
from early_exit.report import heads, style
from made_heads import make_confidences, make_tables


@pytest.fixture(scope="module")
def tables():
    return make_tables()


DRAWN = {
    "ranking": lambda t: heads.head_ranking(t[0]),
    "savings": lambda t: heads.head_savings(t[0]),
    "cost": lambda t: heads.head_cost(t[0]),
    "differences": lambda t: heads.head_differences(t[1], "b1"),
    "reliability": lambda t: heads.reliability(t[2], "b2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAWN)
def test_figures_are_the_same_bytes_twice_also_after_csv(kind, tables, tmp_path):
    again = []
    for k, table in enumerate(tables):
        table.to_csv(tmp_path / f"{k}.csv", index=False)
        again.append(pd.read_csv(tmp_path / f"{k}.csv"))
    for name, frames in (("first", tables), ("second", again)):
        figure = DRAWN[kind](frames)
        style.save(figure, tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
    for ending in ("svg", "png"):
        assert (tmp_path / f"first.{ending}").read_bytes() == (tmp_path / f"second.{ending}").read_bytes()
    assert figure.get_figwidth() <= style.WIDTH
    assert min(text.get_fontsize() for text in figure.findobj(mpl.text.Text) if text.get_text()) >= 7
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert not any(legend.get_window_extent().overlaps(box) for legend in figure.legends for box in boxes)


def test_points_stand_where_the_table_says_and_differ_by_marker(tables):
    table = tables[0]
    axes = heads.head_savings(table).axes[0]
    drawn = {
        line.get_marker(): line for line in axes.get_lines() if line.get_marker() not in ("None", "none", None, "")
    }
    assert len(drawn) == 3
    for head, (_, marker) in zip(("calm", "ffn", "mamba"), style.LOOKS, strict=False):
        own = table[(table["head"] == head) & (table["backbone"] == "b1")]
        assert np.allclose(drawn[marker].get_ydata(), 100 * own["leave_at_1"])
        assert np.allclose(np.round(drawn[marker].get_xdata()), range(4))


def test_a_difference_whose_interval_contains_zero_has_a_hollow_marker(tables):
    own = tables[1][tables[1]["backbone"] == "b1"]
    figure = heads.head_differences(own.assign(differs=own["exit"] == "2"), "b1")
    marks = [line for line in figure.axes[0].get_lines() if line.get_marker() in ("o", "D")]
    assert len(marks) == 8 and sum(line.get_markerfacecolor() == "white" for line in marks) == 6


@pytest.mark.parametrize(
    "draw",
    [
        lambda t: heads.head_ranking(t[0].iloc[:0]),
        lambda t: heads.head_cost(t[0].iloc[:0]),
        lambda t: heads.head_differences(t[1], "no"),
        lambda t: heads.reliability(t[2], "no"),
    ],
)
def test_nothing_to_draw_is_an_error_of_one_line(draw, tables):
    with pytest.raises(InputError, match=r"\.csv") as caught:
        draw(tables)
    assert "\n" not in str(caught.value)


def test_metrics_that_are_nan_can_be_drawn():
    heads.head_ranking(make_tables(make_confidences().assign(label=True, agreement=True))[0])
