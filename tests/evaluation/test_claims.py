"""Every claim comes to each of the three verdicts on runs whose effects are known."""

import numpy as np
import pandas as pd
import pytest

from early_exit.costs import passes
from early_exit.evaluation import bootstrap, claims
from early_exit.evaluation.claims import CONTRADICTED, SUPPORTED, UNDECIDED
from made_claims import AGAINST, DEPTH, TRANSFORMER_SETS, compared, curve, judged
from made_runs import make_runs
from priced import generation_flops

NAMES = [claim.name for claim in claims.CLAIMS]


def pooled(found, claim, metric=None):
    rows = found[(found["claim"] == claim) & (found["dataset"] == claims.POOLED)]
    return rows.iloc[0] if metric is None else rows[rows["metric"] == metric].iloc[0]


@pytest.mark.parametrize("claim", AGAINST)
@pytest.mark.parametrize(("effect", "verdict"), [(8.0, SUPPORTED), (-8.0, CONTRADICTED)])
def test_equal_compute_claims_with_a_clear_effect(claim, effect, verdict):
    found = judged(compared(claim, effect))
    for metric in ("main metric", "agreement"):
        row = pooled(found, claim, metric)
        assert row["verdict"] == verdict and row["note"] == ""
        assert row["effect"] == pytest.approx(effect, abs=1.5)  # agreement goes in steps of one example
        assert row["low"] <= row["effect"] <= row["high"]
    cells = found[(found["claim"] == claim) & (found["dataset"] != claims.POOLED)]
    assert cells["metric"].tolist() == ["em", "f1", "bleu_acc"] + ["agreement"] * 3
    assert (cells["verdict"] == verdict).all() and (cells["compared"] == " - ".join(AGAINST[claim])).all()


@pytest.mark.parametrize("claim", AGAINST)
def test_equal_compute_claims_without_an_effect_are_undecided(claim):
    cells = compared(claim, 0.0, noise=20.0, apart=True)
    row = pooled(judged(cells), claim, "main metric")
    assert row["verdict"] == UNDECIDED and row["low"] < 0.0 < row["high"]
    assert row["effect"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("low", "full", "verdict"),
    [(0.5, 0.0, SUPPORTED), (0.0, 0.5, CONTRADICTED), (0.025, 0.0, UNDECIDED), (0, 0, UNDECIDED)],
)
def test_degeneration_at_the_lowest_threshold(low, full, verdict):
    points = {"full": [(1.0, 0.0, 90.0, full)], "calm-copy": [(0.9, 0.0, 90.0, 1.0), (0.5, 0.4, 60.0, low)]}
    row = pooled(judged([make_runs(points)]), "low-threshold-degenerates")
    assert row["verdict"] == verdict
    assert row["effect"] == pytest.approx(100 * (low - full))


@pytest.mark.parametrize(
    ("family", "claim", "fill", "verdict"),
    [
        ("transformer", "propagate-cheap-on-transformer", 5.0, SUPPORTED),
        ("transformer", "propagate-cheap-on-transformer", 20.0, CONTRADICTED),
        ("transformer", "propagate-cheap-on-transformer", 10.0, UNDECIDED),
        ("mamba", "propagate-dear-on-mamba", 40.0, SUPPORTED),
        ("mamba", "propagate-dear-on-mamba", 15.0, CONTRADICTED),
        ("mamba", "propagate-dear-on-mamba", 25.0, UNDECIDED),
    ],
)
def test_what_propagate_costs(family, claim, fill, verdict):
    cell = make_runs({"calm-propagate": curve(70.0)}, family=family, block_noise=30.0)
    row = pooled(judged([cell], fill), claim)
    assert row["effect"] == pytest.approx(fill)  # of blocks that cost 100 on average
    assert row["verdict"] == verdict
    other = {"transformer": "mamba", "mamba": "transformer"}[family]
    assert not judged([cell], fill)["claim"].str.endswith(other).any()


def test_saving_lost_is_what_the_flops_of_real_exits_say():
    """A run with propagate against the same exits with copy, both counted by `costs`."""
    cost = {"linear": 900, "recurrence": 0, "per_context": 2}
    whole = {
        "depth": DEPTH, "family": "transformer", "block": cost, "lm_head": passes.linear(50), "heads": {},
        "state_fill": {"copy": passes.linear(0), "propagate": {"linear": 120, "recurrence": 0, "per_context": 0}},
    }  # fmt: skip
    generator = np.random.default_rng(0)
    exits = [[DEPTH, *generator.choice([8, 12, DEPTH], size=6)] for _ in range(40)]
    run = {"prompt_tokens": [30] * 40, "exit_blocks": exits, "exits": [8, 12]}
    propagate, copy = (generation_flops(whole, **run, state_fill=fill) for fill in ("propagate", "copy"))
    cell = make_runs({"calm-propagate": [(0.5, 0.4, 60.0)]})
    for name in ("passes", "blocks", "flops_blocks", "flops_blocks_full"):
        cell.curves["calm-propagate"].sums[name][:] = propagate[name].sum()
    saved = {name: (flops["flops_full"] - flops["flops"]).sum() for name, flops in (("p", propagate), ("c", copy))}
    lost = claims.saving_lost(cell, {cell.backbone: whole})["calm-propagate"]
    assert lost[0] == pytest.approx(100 * (1 - saved["p"] / saved["c"]))


def test_saving_lost_is_undefined_if_nothing_left_early():
    cell = make_runs({"calm-propagate": curve(70.0)})
    sums = cell.curves["calm-propagate"].sums
    sums["flops_blocks"][:], sums["blocks"][:] = sums["flops_blocks_full"], DEPTH * sums["passes"]
    row = pooled(judged([cell]), "propagate-cheap-on-transformer")
    assert row["verdict"] == UNDECIDED and np.isnan(row["effect"])


@pytest.mark.parametrize(
    ("saved", "score", "verdict", "chosen"),
    [
        (0.4, 89.5, SUPPORTED, "calm-copy at 0.5 (agreement 90.0)"),
        (0.4, 88.5, CONTRADICTED, "calm-copy at 0.9 (agreement 90.0)"),
        (0.2, 90.0, UNDECIDED, "calm-copy at 0.5 (agreement 90.0)"),
    ],
)
def test_a_fifth_is_saved_by_the_best_setting_within_a_point_of_the_full_model(saved, score, verdict, chosen):
    """Static pruning, which saves more here, is no exit; nor are settings that lose more than a point."""
    points = {"calm-copy": [(0.5, saved, score), (0.9, 0.1, 90.0)], "mamba-copy": [(0.5, 0.6, 70.0)]}
    found = judged([make_runs(points | {"pruned": [(4, 0.7, 90.0)]}, noise=2.0)])
    row = found.query("claim == 'saves-a-fifth'").iloc[1]
    assert (row["verdict"], row["compared"]) == (verdict, chosen)
    assert row["effect"] == pytest.approx(100 * (saved if score > 89.0 else 0.1), abs=1e-6)
    assert row["low"] <= row["effect"] <= row["high"]


def test_a_fifth_is_not_saved_where_every_exit_costs_quality():
    row = judged([make_runs({"calm-copy": [(0.5, 0.4, 60.0)]})]).query("claim == 'saves-a-fifth'").iloc[1]
    assert (row["effect"], row["verdict"], row["compared"]) == (0.0, CONTRADICTED, "full")


def test_verdicts_need_the_whole_interval_on_one_side():
    assert claims.judge(0.1, 2.0) == SUPPORTED and claims.judge(-2.0, -0.1) == CONTRADICTED
    assert claims.judge(0.0, 2.0) == claims.judge(-1.0, 0.0) == claims.judge(0.0, 0.0) == UNDECIDED
    assert claims.judge(1.0, 9.0, 10.0, -1) == SUPPORTED and claims.judge(11.0, 12.0, 10.0, -1) == CONTRADICTED
    assert claims.judge(float("nan"), float("nan")) == UNDECIDED


def test_pooled_effects_are_means_over_the_datasets():
    cells = [make_runs({"calm-copy": curve(70.0), "mamba-copy": curve(70.0 + effect)}, dataset=dataset)
             for effect, dataset in zip((3.0, 6.0, 9.0), TRANSFORMER_SETS, strict=True)]  # fmt: skip
    found = judged(cells)
    row = pooled(found, "mamba-heads-over-linear", "main metric")
    assert row["effect"] == pytest.approx(6.0)
    assert (row["examples"], row["groups"]) == (120, 120)
    assert row["compared"] == "; ".join(f"tiny-transformer/{dataset}" for dataset in TRANSFORMER_SETS)
    assert (found[["experiment", "preset"]] == ["mine", "tiny"]).all(axis=None)
    assert list(found.columns) == list(claims.COLUMNS)


def test_cells_of_few_groups_are_undecided_and_not_pooled():
    points = {"calm-copy": curve(70.0), "mamba-copy": curve(80.0)}
    cells = [make_runs(points, dataset="triviaqa"), make_runs(points, dataset="coqa", per_group=10)]
    found = judged(cells).query("claim == 'mamba-heads-over-linear' and metric in ['main metric', 'f1']")
    mean, few = found.to_dict("records")
    assert few["verdict"] == UNDECIDED and few["note"] == "fewer than 20 groups to resample" and few["low"] > 0
    assert mean["verdict"] == SUPPORTED and mean["note"] == "1 of 2 cells"
    assert mean["compared"] == "tiny-transformer/triviaqa"


def test_claims_without_runs_are_undecided_with_a_note():
    found = judged([make_runs({"calm-copy": curve(70.0)})])
    for claim in ("mamba-heads-over-ffn", "exits-over-pruning", "propagate-cheap-on-transformer"):
        rows = found[found["claim"] == claim]
        assert (rows["verdict"] == UNDECIDED).all() and rows["effect"].isna().all()
        assert rows["note"].tolist()[:2] == ["0 of 1 cells", "no such runs"]
    apart = judged([make_runs({"calm-copy": [(0.5, 0.4, 60.0), (0.9, 0.3, 60.0)],
                               "mamba-copy": [(0.5, 0.2, 60.0), (0.9, 0.1, 60.0)]})])  # fmt: skip
    assert apart.query("claim == 'mamba-heads-over-linear'")["note"].tolist()[1] == "no range of compute in common"


def test_holm_s_adjustment_can_make_a_verdict_undecided(monkeypatch):
    cells = compared("mamba-heads-over-linear", 8.0)
    monkeypatch.setattr(bootstrap, "p_value", lambda values, null: 0.03)
    row = pooled(judged(cells), "mamba-heads-over-linear", "main metric")
    assert row["verdict"] == UNDECIDED and row["note"] == "supported but for Holm's adjustment"
    assert row["p_holm"] == pytest.approx(0.03 * 4)  # two metrics of this claim, degeneration, and a fifth saved


def test_the_table_survives_csv_with_its_verdicts(tmp_path):
    found = judged(compared("exits-over-pruning", 8.0))
    found.to_csv(tmp_path / "claims.csv", index=False)
    assert pd.read_csv(tmp_path / "claims.csv")["verdict"].tolist() == found["verdict"].tolist()


def test_small_cells_alone_are_not_tested():
    found = judged([make_runs({"calm-copy": curve(70.0)}, per_group=10)])
    assert (found["verdict"] == UNDECIDED).all() and found["p_holm"].isna().all()
