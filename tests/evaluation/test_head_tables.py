"""Tables of heads' quality, made from made-up confidences."""

import math

import pytest

from early_exit.base.errors import InputError
from early_exit.evaluation import head_tables
from made_heads import COSTS, DEPTH, EXITS, KINDS, make_confidences, make_tables


@pytest.fixture(scope="module")
def tables():
    return make_tables()


def test_rows_become_seeds_exits_and_tokens():
    rows = make_confidences()
    mamba = head_tables.heads_of_recipe(rows, "b1", "r", KINDS, COSTS, 1)[2]
    assert mamba.confidence.shape == (2, 3, 240) and mamba.tokens.documents == 12 and mamba.check == 0.6
    for seed, k, token in ((0, 0, 0), (1, 2, 239), (0, 1, 33)):
        row = rows[(rows["seed"] == seed + 1) & (rows["exit"] == EXITS[k])].iloc[token]
        assert mamba.confidence[seed, k, token] == row["confidence_mamba"]
        assert mamba.tokens.label[k, token] == row["label"] and mamba.tokens.agreement[k, token] == row["agreement"]
        assert mamba.tokens.document[token] == int(row["document_id"][1:])
    rows.loc[len(rows) - 1, "label"] ^= True
    with pytest.raises(InputError, match="b1, r: not all seeds were measured on the same text"):
        head_tables.heads_of_recipe(rows, "b1", "r", KINDS, COSTS, 1)


def test_heads_has_a_row_per_head_and_exit_beside_two_references(tables):
    table = tables[0]
    assert list(table.columns) == list(head_tables.HEADS_COLUMNS)
    assert len(table) == 2 * (2 + 3) * 4 and list(table["exit"].unique()) == ["2", "4", "5", "any"]
    own = table[table["backbone"] == "b1"].set_index(["head", "exit"])
    assert (own.loc["mamba", "check_percent"] == 60).all() and (own.loc["oracle", "check_percent"] == 0).all()
    assert (own.loc["mamba", "seeds"] == 2).all() and (own["tokens"] == 240).all() and (own["documents"] == 12).all()
    for exit_name in ("2", "4", "5", "any"):
        majority, oracle, mamba = (own.loc[(name, exit_name)] for name in ("majority", "oracle", "mamba"))
        assert oracle["auroc"] == oracle["average_precision"] == oracle["accuracy"] == 1 and oracle["ece"] == 0
        assert (
            majority["ece"] == pytest.approx(0) and mamba["auroc"] > 0.97 > 0.6 > own.loc[("calm", exit_name)]["auroc"]
        )
        for error in ("1", "5"):
            assert oracle[f"leave_at_{error}"] >= mamba[f"leave_at_{error}"] - 0.02
            assert mamba[f"leave_at_{error}"] > own.loc[("calm", exit_name)][f"leave_at_{error}"]
        if exit_name != "any":
            assert majority["auroc"] == 0.5 and majority["average_precision"] == pytest.approx(
                majority["positive_rate"]
            )
    for metric in ("auroc", "leave_at_5", "saved_at_5"):
        assert (table[f"{metric}_low"] <= table[metric] + 1e-9).all()
        assert (table[f"{metric}_high"] >= table[metric] - 1e-9).all()


def test_the_oracle_releases_all_agreeing_tokens_and_others_up_to_the_error():
    rows = make_confidences(count=40, length=50)
    head = head_tables.heads_of_recipe(rows, "b1", "r", {"calm": "calm"}, COSTS, 1)
    table = head_tables.heads(head, [head_tables.statistics(head[0], 1, 5)], 1, 5)
    oracle = table[table["head"] == "oracle"].set_index("exit")
    by_exit = rows[rows["seed"] == 1].groupby("exit")["agreement"].mean()
    for block in EXITS:
        assert oracle.loc[str(block), "leave_at_5"] == pytest.approx(by_exit[block] + 0.05, abs=0.012)
        saved = oracle.loc[str(block), "leave_at_5"] * (DEPTH - block) / DEPTH
        assert oracle.loc[str(block), "saved_at_5"] == pytest.approx(saved)
    some = rows[rows["seed"] == 1].groupby(["document_id", "position"])["agreement"].any().mean()
    assert oracle.loc["any", "leave_at_5"] == pytest.approx(min(1, some + 0.05), abs=0.012)


def test_differences_are_paired_by_kind_within_a_backbone(tables):
    heads_table, table, _ = tables
    assert list(table.columns) == list(head_tables.DIFFERENCES_COLUMNS)
    assert set(zip(table["head"], table["other"], strict=True)) == {("mamba", "ffn"), ("mamba", "calm")}
    own = heads_table[heads_table["backbone"] == "b2"].set_index(["head", "exit"])
    for row in table[table["backbone"] == "b2"].itertuples():
        expected = own.loc[(row.head, row.exit), row.metric] - own.loc[(row.other, row.exit), row.metric]
        assert row.difference == pytest.approx(expected) and row.seeds == 2
        assert row.differs == (row.low > 0 or row.high < 0)
    known = table[(table["other"] == "calm") & (table["metric"] == "auroc")]
    assert (known["difference"] > 0.3).all() and known["differs"].any()


def test_heads_of_one_name_in_two_recipes_are_told_apart():
    rows = make_confidences()
    measured = [
        head for recipe in ("r", "s") for head in head_tables.heads_of_recipe(rows, "b", recipe, KINDS, COSTS, 1)
    ]
    found = [head_tables.statistics(head, 1, 20) for head in measured]
    table = head_tables.differences(measured, found, 1)
    assert {"r/mamba", "s/mamba"} == set(table["head"]) and {"r/ffn", "s/ffn", "r/calm", "s/calm"} == set(
        table["other"]
    )
    same = table[(table["head"] == "r/mamba") & (table["other"] == "r/ffn")]["difference"].to_numpy()
    assert (same == table[(table["head"] == "s/mamba") & (table["other"] == "r/ffn")]["difference"]).all()


def test_nothing_measured_gives_empty_tables():
    assert list(head_tables.heads([], [], 1, 10).columns) == list(head_tables.HEADS_COLUMNS)
    assert list(head_tables.reliability([]).columns) == list(head_tables.RELIABILITY_COLUMNS)
    assert head_tables.differences([], [], 1).empty


def test_reliability_counts_the_tokens_of_all_seeds(tables):
    table = tables[2]
    assert (table["tokens"] > 0).all()
    assert (table.groupby(["backbone", "head", "exit"])["tokens"].sum() == 2 * 240).all()
    assert (table["confidence"] >= table["bin_low"] - 1e-6).all()


def test_metrics_of_a_class_that_never_occurs_are_nan():
    table = make_tables(make_confidences().assign(label=True, agreement=True))[0]
    mamba = table[table["head"] == "mamba"]
    assert mamba["auroc"].isna().all() and mamba["auroc_low"].isna().all() and (mamba["leave_at_1"] == 1).all()
    assert all(map(math.isfinite, mamba["average_precision"]))
