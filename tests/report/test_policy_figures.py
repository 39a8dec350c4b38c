"""All policies side by side: what is compared with what, how high each stands, and what the figure shows of it."""

from hashlib import sha256

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from early_exit.base.errors import InputError
from early_exit.evaluation import compare, resampled
from early_exit.report import policies, style
from made_runs import BOOTSTRAP, make_rows

SPECS = {  # kind, head, state fill, how it adapts, what it matches
    "full": ("full", "", "", "", ""),
    "oracle": ("oracle", "", "", "", ""),
    "pruned": ("pruned", "", "", "", ""),
    "calm-copy": ("head", "calm", "copy", "", ""),
    "calm-propagate": ("head", "calm", "propagate", "", ""),
    "mamba-propagate": ("head", "mamba", "propagate", "", ""),
    "calm-decay": ("head", "calm", "propagate", "decay", ""),
    "softmax": ("softmax", "", "propagate", "", ""),
    "softmax-budget": ("softmax", "", "propagate", "budget", ""),
    "fixed": ("fixed", "", "propagate", "", ""),
    "random": ("random", "", "propagate", "", "calm-propagate"),
}
POINTS = {
    "full": [(1.0, 0.0, 90.0)],
    "oracle": [(1.0, 0.35, 90.0)],
    "pruned": [(2, 0.15, 70.0), (8, 0.45, 10.0)],
    "fixed": [(8, 0.4, 20.0), (14, 0.05, 60.0)],
    "random": [(0.5, 0.25, 40.0), (0.9, 0.05, 80.0)],
}
CURVE = [(0.5, 0.25, 70.0), (0.9, 0.05, 90.0)]


def make_runs(names=tuple(SPECS), backbone="tiny-transformer", noise=15.0):
    entries, rows = [], {}
    for name in names:
        head, fill, adapt, match = SPECS[name][1:]
        entries.append({"backbone": backbone, "family": "transformer", "dataset": "triviaqa", "kind": "triviaqa",
                     "policy": name, "head": head or None, "state_fill": fill or None, "adapt": adapt or None,
                     "match": match or None, "scores": name})  # fmt: skip
        rows[name] = make_rows(POINTS.get(name, CURVE), noise=noise)
    kinds = {name: SPECS[name][0] for name in names}
    return resampled.resample(entries, rows, kinds, {"calm": "calm", "mamba": "mamba"}, **BOOTSTRAP)


def test_each_question_has_its_pairs_and_adaptive_thresholds_are_not_the_paper_s_heads():
    pairs = compare.compared_pairs(make_runs())
    by_name = {name: [pair[1:] for pair in pairs if pair[0] == name] for name in compare.COMPARISONS}
    assert {policy for policy, _ in by_name["static-pruning"]} == set(SPECS) - {"full", "pruned"}
    assert by_name["stateless-head"] == [("mamba-propagate", "calm-propagate")]
    assert by_name["state-fill"] == [("calm-propagate", "calm-copy")]
    assert by_name["adaptive-threshold"] == [("calm-decay", "calm-propagate"), ("softmax-budget", "softmax")]
    assert by_name["no-training"] == [("calm-propagate", "softmax"), ("mamba-propagate", "softmax")]
    assert by_name["random-exits"] == [("calm-propagate", "random")]


def test_standings_are_heights_minus_the_full_model_within_the_range_of_the_curve():
    table = compare.standings(make_runs(), "tiny")
    assert list(table.columns) == list(compare.STANDING_COLUMNS)
    rows = table[table["metric"] == "em"].set_index(["policy", "at"])
    assert "full" not in rows.index.get_level_values(0)
    calm = rows.loc["calm-propagate"]
    assert calm.loc[0.1, "value"] == pytest.approx(85.0) and calm.loc[0.2, "difference"] == pytest.approx(-15.0)
    assert calm.loc[0.3, ["value", "difference", "difference_low"]].isna().all()
    assert rows.loc[("pruned", 0.1), "difference"] == pytest.approx(-20 * 0.1 / 0.15)
    assert rows.loc["oracle"]["difference"].tolist()[:4] == pytest.approx([0, 0, 0, np.nan], nan_ok=True)
    assert rows.loc[("fixed", 0.3), "kind"] == "fixed" and rows.loc[("calm-decay", 0.1), "adapt"] == "decay"


def test_differences_from_the_full_model_are_paired():
    """What answers as the full model does differs from it in no resample, however noisy scores are."""
    table = compare.standings(make_runs(["full", "oracle"], noise=25.0), "tiny").query("metric == 'em'")
    ends = ["difference", "difference_low", "difference_high"]
    assert (table.query("policy == 'oracle' and at < 0.3")[ends] == 0).all(axis=None)


def standings(**options):
    return pd.concat([compare.standings(make_runs(backbone=name, **options), "tiny") for name in ("one", "two")])


def test_every_policy_has_a_named_line_under_its_sort_and_its_interval():
    table = standings()
    figure = policies.policies(table, "triviaqa")
    assert len(figure.axes) == 2 * len(policies.LEVELS)
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == [
        "exit heads", "calm-copy", "calm-propagate", "mamba-propagate", "thresholds that adapt", "calm-decay",
        "softmax-budget", "without training", "softmax", "no decision", "fixed", "random", "blocks left out", "pruned",
        "the most there is", "oracle",
    ]  # fmt: skip
    bold = [tick.get_text() for tick in figure.axes[0].get_yticklabels() if tick.get_fontweight() == "bold"]
    assert bold == [heading for heading, *_ in policies.SORTS.values()]
    axes = figure.axes[1]
    assert axes.get_title() == "20 % of FLOPs saved"
    rows = table[(table["metric"] == "em") & (table["at"] == 0.2) & (table["backbone"] == "one")].set_index("policy")
    (mark,) = [line for line in axes.get_lines() if line.get_label() == "softmax"]
    assert mark.get_xdata()[0] == rows.loc["softmax", "difference"] and mark.get_ydata()[0] == names.index("softmax")
    arms = next(line for line in axes.get_lines() if list(line.get_ydata()) == [names.index("softmax")] * 2)
    np.testing.assert_allclose(arms.get_xdata(), rows.loc["softmax", ["difference_low", "difference_high"]])


def test_a_dash_stands_where_a_policy_does_not_save_that_much():
    axes = policies.policies(standings(), "triviaqa").axes[2]
    dashes = [text.get_position()[1] for text in axes.texts if text.get_text() == "–"]
    drawn = {line.get_label() for line in axes.get_lines() if not line.get_label().startswith("_")}
    assert drawn == {"pruned", "fixed", "oracle"} and len(dashes) == 7


@pytest.mark.slow
def test_sorts_are_told_apart_without_colour_and_all_text_can_be_read(tmp_path):
    read = policies.SORTS.values()
    assert len({marker for *_, marker in read}) == len({colour for _, colour, _ in read}) == len(policies.SORTS)
    figure = policies.policies(standings(), "triviaqa")
    style.save(figure, tmp_path / "a.svg", tmp_path / "a.png")
    style.save(policies.policies(standings(), "triviaqa"), tmp_path / "b.svg", tmp_path / "b.png")
    for end in ("svg", "png"):
        first, second = ((tmp_path / f"{name}.{end}").read_bytes() for name in "ab")
        assert sha256(first).digest() == sha256(second).digest()
    assert figure.get_figwidth() <= style.WIDTH
    assert min(text.get_fontsize() for text in figure.findobj(mpl.text.Text) if text.get_text()) >= 7


def test_tables_read_from_csv_are_drawn_alike_and_empty_ones_are_an_error(tmp_path):
    standings(noise=0.0).to_csv(tmp_path / "policies.csv", index=False)
    read = pd.read_csv(tmp_path / "policies.csv")
    assert read["adapt"].isna().any()
    names = [tick.get_text() for tick in policies.policies(read, "triviaqa").axes[0].get_yticklabels()]
    assert names[:2] == ["exit heads", "calm-copy"]
    with pytest.raises(InputError, match=r"policies\.csv, dataset coqa"):
        policies.policies(read, "coqa")
