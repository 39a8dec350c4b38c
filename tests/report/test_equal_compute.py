"""The forest plot of policies against static pruning."""

from hashlib import sha256

import numpy as np
import pandas as pd
import pytest

from early_exit.base.errors import InputError
from early_exit.evaluation import compare
from early_exit.report import equal_compute, style
from made_runs import FLAT, make_runs


def make_tables(**options):
    points = {
        "pruned": FLAT["pruned"],
        "calm-copy": FLAT["calm-copy"],
        "mamba-copy": [(0.5, 0.45, 70.0), (0.9, 0.1, 90.0)],
    }
    named = [make_runs(points, backbone=name, noise=20.0, **options) for name in ("one", "two")]
    compared = pd.concat([compare.equal_compute(runs, "tiny") for runs in named])
    results = pd.DataFrame({"policy": ["full", "pruned", "calm-copy", "mamba-copy"], "head": ["", "", "calm", "mamba"]})
    return compared, results.assign(state_fill="")


def test_the_forest_plot_has_a_row_per_policy_and_its_interval():
    compared, results = make_tables()
    figure = equal_compute.equal_compute(compared, results, "triviaqa")
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == [
        "one", "calm-copy (0 to 40 %)", "mamba-copy (10 to 45 %)",
        "two", "calm-copy (0 to 40 %)", "mamba-copy (10 to 45 %)",
    ]  # fmt: skip
    assert "EM" in left.get_title() and "agreement" in right.get_title()
    row = compared[compared["at"].isna() & (compared["policy"] == "mamba-copy")].iloc[0]
    drawn = [line for line in left.get_lines() if list(line.get_ydata()) in ([2, 2], [2])]
    np.testing.assert_allclose(drawn[0].get_xdata(), [row["difference_low"], row["difference_high"]])
    np.testing.assert_allclose(drawn[1].get_xdata(), [row["difference"]])
    assert "40 examples" in figure.get_suptitle()


def test_the_forest_plot_marks_policies_without_a_common_range_and_counts_conversations(tmp_path):
    compared, results = make_tables(per_group=4)
    bare = compared.assign(**dict.fromkeys(["saved_from", "saved_to", "difference", "difference_low"], np.nan))
    figure = equal_compute.equal_compute(bare, results, "triviaqa")
    assert figure.axes[0].get_yticklabels()[1].get_text() == "calm-copy (no common range)"
    assert "10 conversations" in figure.get_suptitle()
    with pytest.raises(InputError, match=r"equal_compute\.csv, static pruning on dataset coqa"):
        equal_compute.equal_compute(compared, results, "coqa")


def test_equal_forest_plots_are_equal_bytes(tmp_path):
    found = []
    for name in ("first", "second"):
        style.save(
            equal_compute.equal_compute(*make_tables(), "triviaqa"), tmp_path / f"{name}.svg", tmp_path / f"{name}.png"
        )
        found.append([sha256((tmp_path / f"{name}.{end}").read_bytes()).digest() for end in ("svg", "png")])
    assert found[0] == found[1]
