"""The figures show what the tables say: curves, rings, bars, labels, and equal bytes for equal figures."""

from hashlib import sha256
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from conftest import ROOT
from early_exit.base.errors import InputError
from early_exit.base.records import METRICS
from early_exit.experiment import figures as experiment
from early_exit.report import curves, figures, style
from made_results import DEPTH, FILLS, HEADS, SWEEP, make_results

EXITS = (8, 10, 12, 14)


def make_exits():
    """Shares in which a higher threshold sends more passes to the full depth."""
    rows = []
    for backbone, fills in FILLS.items():
        for dataset in METRICS:
            rows.append((backbone, dataset, "full", "", "", 1.0, DEPTH, 1.0))
            for h, head in enumerate(HEADS):
                for fill in fills:
                    for threshold in SWEEP:
                        early = (1.05 - threshold) ** (0.3 + 0.2 * h)
                        for block, part in zip(EXITS, (0.5, 0.25, 0.15, 0.1), strict=True):
                            rows.append(
                                (backbone, dataset, f"{head}-{fill}", head, fill, threshold, block, early * part)
                            )
                        rows.append((backbone, dataset, f"{head}-{fill}", head, fill, threshold, DEPTH, 1 - early))
    columns = ["backbone", "dataset", "policy", "head", "state_fill", "setting", "block", "share"]
    return pd.DataFrame(rows, columns=columns)


def make_training(backbone="tiny-mamba", recipe="paper", steps=200):
    rng = np.random.default_rng(0)
    rows = []
    for step in range(1, steps + 1):
        for h, head in enumerate(HEADS):
            for block in EXITS:
                loss = 0.25 + 0.5 * np.exp(-step / 40 * (1 + h)) - 0.008 * (block - 8) + 0.03 * rng.standard_normal()
                positive = 0.3 + 0.05 * (block - 8) + 0.02 * np.sin(step + block)
                rows.append((backbone, recipe, step, 2048 * step, head, block, loss, positive))
    return pd.DataFrame(rows, columns=["backbone", "recipe", "step", "tokens", "head", "exit", "loss", "positive_rate"])


def make_settle():
    blocks = np.arange(1, DEPTH + 1)
    shares = {name: (blocks / DEPTH) ** power for name, power in (("tiny-transformer", 0.4), ("tiny-mamba", 0.9))}
    frames = [
        pd.DataFrame({"backbone": n, "block": blocks, "share": s, "cosine": s**2, "tokens": 5000})
        for n, s in shares.items()
    ]
    return pd.concat(frames, ignore_index=True)


def labels(axes):
    return [line.get_label() for line in axes.get_lines() if not line.get_label().startswith("_")]


def test_quality_draws_every_policy_once_per_backbone():
    figure = curves.quality(make_results(), "coqa")
    assert [axes.get_title() for axes in figure.axes] == list(FILLS)
    for axes, fills in zip(figure.axes, FILLS.values(), strict=True):
        assert sorted(labels(axes)) == sorted(["full", "pruned", *(f"{h}-{f}" for h in HEADS for f in fills)])
        assert axes.get_xlabel() == "FLOPs saved on decode passes (%)"
    assert figure.axes[0].get_ylabel() == "F1 on coqa (0 to 100)"


def test_quality_points_are_the_settings_and_rings_the_calibrated_ones():
    results = make_results()
    axes = curves.quality(results, "triviaqa").axes[0]
    rows = results[(results["policy"] == "ffn-copy") & (results["dataset"] == "triviaqa")]
    line = next(line for line in axes.get_lines() if line.get_label() == "ffn-copy")
    np.testing.assert_allclose(line.get_xdata(), 100 * rows["flops_saved"])
    np.testing.assert_allclose(line.get_ydata(), rows["em"])
    rings = [
        tuple(line.get_xydata()[0])
        for line in axes.get_lines()
        if line.get_markersize() == 8 and line.get_marker() == "o" and len(line.get_xdata())
    ]
    calibrated = rows[rows["calibrated"]].iloc[0]
    assert len(rings) == 6
    assert (100 * calibrated["flops_saved"], calibrated["em"]) in rings


def test_heads_and_fills_are_told_apart_without_colour():
    axes = curves.quality(make_results(), "coqa").axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    policies = [f"{head}-{fill}" for head in HEADS for fill in ("copy", "propagate")] + ["pruned"]
    assert len({(lines[p].get_marker(), lines[p].get_linestyle()) for p in policies}) == len(policies)
    assert lines["calm-copy"].get_color() == lines["calm-propagate"].get_color() != lines["ffn-copy"].get_color()


def test_legend_names_heads_fills_and_references_and_stays_off_the_panels(tmp_path):
    figure = curves.quality(make_results(), "coqa")
    style.save(figure, tmp_path / "a.svg", tmp_path / "a.png")
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [
        "full model, 95 % band", "static pruning", "calibrated threshold",
        "head calm", "head ffn", "head mamba", "state fill propagate", "state fill copy", "state fill skip",
    ]  # fmt: skip
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)


def test_quality_of_one_backbone_without_heads_or_full_model():
    results = make_results(backbones=["tiny-mamba"], datasets=["coqa"])
    figure = curves.quality(results[results["policy"] == "pruned"], "coqa")
    assert labels(figure.axes[0]) == ["pruned"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["static pruning"]


def test_empty_names_that_csv_turns_into_nan_are_drawn_alike(tmp_path):
    make_results().to_csv(tmp_path / "results.csv", index=False)
    read = pd.read_csv(tmp_path / "results.csv")
    assert read["head"].isna().any()
    assert labels(curves.quality(read, "coqa").axes[0]) == labels(curves.quality(make_results(), "coqa").axes[0])
    read["head"] = np.nan  # a column of nothing else is read as floats
    curves.quality(read[read["policy"].isin(["full", "pruned"])], "coqa")


def test_exits_stack_to_100_percent_from_the_earliest_exit_up():
    figure = curves.exits(make_exits(), "tiny-mamba")
    assert len(figure.axes) == 9
    assert figure.get_suptitle() == "tiny-mamba, state fill propagate"
    assert [axes.get_title() for axes in figure.axes[:3]] == ["head calm", "head ffn", "head mamba"]
    for axes in figure.axes:
        assert len(axes.patches) == len(SWEEP) * (len(EXITS) + 1)
        tops = [bar.get_y() + bar.get_height() for bar in axes.patches[-len(SWEEP) :]]
        np.testing.assert_allclose(tops, 100)
        assert [tick.get_text() for tick in axes.get_xticklabels()] == [f"{threshold:g}" for threshold in SWEEP]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [
        "exit after block 8",
        "exit after block 10",
        "exit after block 12",
        "exit after block 14",
        "all 16 blocks",
    ]


def test_exit_colours_get_lighter_with_depth():
    patches = curves.exits(make_exits(), "tiny-mamba").legends[0].get_patches()
    lightness = [np.dot(patch.get_facecolor()[:3], (0.2126, 0.7152, 0.0722)) for patch in patches]
    assert all(darker + 0.1 < lighter for darker, lighter in pairwise(lightness))


def test_exits_show_another_fill_where_propagate_was_not_run():
    shares = make_exits()
    figure = curves.exits(shares[shares["state_fill"] != "propagate"], "tiny-transformer")
    assert figure.get_suptitle() == "tiny-transformer, state fill copy"


def test_training_has_a_line_per_exit_and_the_rate_of_the_label():
    figure = curves.training(make_training(), "tiny-mamba")
    assert [axes.get_title() for axes in figure.axes] == ["head calm", "head ffn", "head mamba", 'labelled "exit"']
    for axes in figure.axes:
        assert labels(axes) == [f"exit after block {block}" for block in EXITS]
    rates = [np.mean(line.get_ydata()) for line in figure.axes[-1].get_lines() if line.get_label()[0] != "_"]
    np.testing.assert_allclose(rates, [30, 40, 50, 60], atol=1)


def test_training_of_two_recipes_names_them():
    trained = pd.concat([make_training(), make_training(recipe="more")])
    assert [axes.get_title() for axes in curves.training(trained, "tiny-mamba").axes[2:4]] == [
        "head mamba (paper)", "head calm (more)",
    ]  # fmt: skip


def test_settle_runs_over_relative_depth_and_marks_the_exits():
    axes, cosines = curves.settle(make_settle(), make_training()).axes
    assert labels(axes) == labels(cosines) == list(FILLS)
    np.testing.assert_allclose(cosines.get_lines()[1].get_ydata(), (np.arange(1, DEPTH + 1) / DEPTH) ** 1.8)
    transformer, mamba = (line for line in axes.get_lines() if line.get_label() in FILLS)
    assert mamba.get_xdata()[-1] == 1 and mamba.get_ydata()[-1] == 100
    np.testing.assert_allclose(mamba.get_xdata()[mamba.get_markevery()], np.array(EXITS) / DEPTH)
    assert not transformer.get_markevery().any()


@pytest.mark.parametrize(
    ("draw", "frame", "key"),
    [
        (curves.quality, make_results(), "nosuch"),
        (curves.quality, make_results().iloc[:0], "coqa"),
        (curves.quality, make_results().assign(f1=np.nan), "coqa"),
        (curves.exits, make_exits(), "nosuch"),
        (curves.exits, make_exits().query("head == ''"), "tiny-mamba"),
        (curves.training, make_training(), "tiny-transformer"),
        (curves.settle, make_settle().iloc[:0], make_training()),
    ],
)
def test_nothing_to_draw_is_an_error_of_one_line(draw, frame, key):
    with pytest.raises(InputError, match=r"\.csv") as error:
        draw(frame, key)
    assert "\n" not in str(error.value)


DRAWN = {
    "quality": lambda: curves.quality(make_results(), "truthfulqa"),
    "exits": lambda: curves.exits(make_exits().query("dataset == 'coqa'"), "tiny-transformer"),
    "training": lambda: curves.training(make_training(), "tiny-mamba"),
    "settle": lambda: curves.settle(make_settle(), make_training()),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAWN)
def test_equal_figures_are_equal_bytes_with_text_that_can_be_read(kind, tmp_path):
    figure, again = DRAWN[kind](), DRAWN[kind]()
    for name, drawn in (("first", figure), ("second", again)):
        style.save(drawn, tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
    for ending in ("svg", "png"):
        first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("first", "second"))
        assert sha256(first).digest() == sha256(second).digest()
    assert (tmp_path / "first.png").read_bytes()[:4] == b"\x89PNG"
    assert figure.get_figwidth() <= style.WIDTH
    assert min(text.get_fontsize() for text in figure.findobj(mpl.text.Text) if text.get_text()) >= 7


def test_only_the_paper_s_policies_are_drawn_where_an_entry_says_so():
    (entry,) = [kind for kind in experiment.KINDS if kind.name == "quality"]
    figure = experiment.Figure(entry.name, entry.category, entry.tables, "coqa", paper_only=entry.paper_only)
    drawn = figures.draw(figure, {"results": make_results()}, paper_policies=["full", "calm-copy"])
    assert labels(drawn.axes[0]) == ["full", "calm-copy"]


def test_every_entry_has_a_function_that_draws_it_and_a_caption():
    entries = {kind.name for kind in experiment.KINDS} | {experiment.SPEED.kind}
    assert entries == style.DRAWING.keys()
    assert all((ROOT / f"report/{name}.rst").is_file() for name in entries)


def test_drawing_does_not_change_the_global_style():
    before = dict(mpl.rcParams)
    curves.quality(make_results(), "coqa")
    assert dict(mpl.rcParams) == before
