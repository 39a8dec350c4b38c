"""The result tables against sums done by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from early_exit.base.errors import InputError
from early_exit.base.records import COMPARISON, METRICS, RESULTS_COLUMNS
from early_exit.evaluation import bootstrap, tables

BOOTSTRAP = {"seed": 1, "resamples": 200}
DEPTH = 16


def make_run(settings=(0.5, 0.9), kind="coqa", **fields):
    """Four answers to two conversations at each setting; the higher setting costs more and agrees more."""
    keys = [(f"e{i}", f"g{i // 2}", setting) for setting in settings for i in range(4)]
    ids, groups, levels = map(list, zip(*keys, strict=True))
    strict = np.array(levels) >= 0.9
    generations = pd.DataFrame({"example_id": ids, "setting": levels})
    generations["exit_blocks"] = [[16, 8, 16], [16, 8], [16], [16, 12, 8, 8]] * len(settings)
    generations["setting_kind"] = "threshold"
    generations["drafted"] = generations["accepted"] = [[]] * len(ids)
    scores = pd.DataFrame({"example_id": ids, "group_id": groups, "setting": levels})
    for metric in METRICS[kind]:
        scores[metric] = [100.0, 50.0, 0.0, 50.0] * len(settings)
    scores["agreement"], scores["token_agreement"] = strict, np.where(strict, 1.0, 0.5)
    scores["rougeL_full"], scores["rules"], scores["score_version"] = np.where(strict, 1.0, 0.75), "official", 1
    scores["degenerate"], scores["tokens"] = ~strict, [3, 2, 1, 4] * len(settings)
    flops = pd.DataFrame({"example_id": ids, "setting": levels, "passes": [2, 1, 0, 3] * len(settings)})
    flops["blocks"] = [24, 8, 0, 28] * len(settings)
    flops["flops_full"] = 200.0 * flops["passes"]
    flops["flops"] = flops["flops_full"] * np.where(strict, 0.9, 0.6)
    flops["flops_blocks"], flops["flops_blocks_full"] = 10.0 * flops["blocks"], 160.0 * flops["passes"]
    flops["prompt_flops"] = flops["prompt_flops_full"] = 1000.0
    run = {"backbone": "tiny-mamba", "family": "mamba", "dataset": kind, "kind": kind, "policy": "calm-skip"}
    run |= {"head": "calm", "state_fill": "skip"}
    evaluated = scores.join(flops.drop(columns=["example_id", "setting"]))
    return tables.ScoredRun(**run | {"generations": generations, "evaluated": evaluated} | fields)


CHOSEN = {("tiny-mamba", "coqa", "calm-skip"): {"same-answer": 0.9}}


def make_results(*runs, chosen=None):
    rows = pd.concat([tables.results(run, preset="tiny", **BOOTSTRAP) for run in runs], ignore_index=True)
    return tables.with_calibration(rows, CHOSEN if chosen is None else chosen)


def make_full():
    run = make_run(settings=(1.0,), policy="full", head="", state_fill="")
    rows = run.evaluated
    rows["flops"], rows["flops_blocks"] = rows["flops_full"], rows["flops_blocks_full"]
    return run


def test_results_have_the_columns_of_the_schema_and_a_row_per_setting():
    results = make_results(make_run())
    assert tuple(results.columns) == RESULTS_COLUMNS
    assert results["setting"].tolist() == [0.5, 0.9]
    assert results["calibrated"].tolist() == [False, True]
    assert (results["examples"] == 4).all() and (results["tokens"] == 10).all()
    assert (
        results[["preset", "family", "head", "state_fill"]].values.tolist() == [["tiny", "mamba", "calm", "skip"]] * 2
    )


def test_results_are_means_over_examples_and_ratios_of_sums():
    loose, strict = make_results(make_run()).to_dict("records")
    assert loose["em"] == loose["f1"] == 50.0
    assert (loose["agreement"], strict["agreement"]) == (0.0, 1.0)
    assert (loose["token_agreement"], loose["degenerate"], loose["mean_tokens"]) == (0.5, 1.0, 2.5)
    assert (loose["rougeL_full"], loose["rules"], loose["score_version"]) == (0.75, "official", 1)
    assert loose["mean_blocks"] == 60 / 6
    assert loose["flops_per_token"] == pytest.approx(120.0)
    assert loose["flops_saved"] == pytest.approx(0.4) and strict["flops_saved"] == pytest.approx(0.1)
    assert loose["flops_saved_blocks"] == pytest.approx(1 - 600 / 960)
    assert loose["flops_saved_with_prompt"] == pytest.approx(1 - (720 + 4000) / (1200 + 4000))


def test_intervals_resample_the_groups_and_hold_the_value():
    run = make_run()
    row = make_results(run).iloc[0]
    rows = run.evaluated[run.evaluated["setting"] == 0.5]
    assert (row["em_low"], row["em_high"]) == bootstrap.interval(rows["em"], rows["group_id"], **BOOTSTRAP)
    assert (row["em_low"], row["em_high"]) == (25.0, 75.0)  # two conversations, with means of 75 and 25
    assert row["flops_saved_low"] <= row["flops_saved"] <= row["flops_saved_high"]
    assert (row["mean_tokens_low"], row["mean_tokens_high"]) == (2.5, 2.5)  # (3 + 2) / 2 and (1 + 4) / 2
    for column in COMPARISON:
        assert row[f"{column}_low"] <= row[column] <= row[f"{column}_high"]


def test_saved_interval_is_one_minus_the_ratio_with_its_ends_swapped():
    run = make_run(settings=(0.5,))
    rows = run.evaluated
    rows["flops"] = [200.0, 20.0, 0.0, 60.0]
    low, high = bootstrap.ratio_interval(rows["flops"], rows["flops_full"], rows["group_id"], **BOOTSTRAP)
    row = make_results(run, chosen={}).iloc[0]
    assert low < high
    assert (row["flops_saved_low"], row["flops_saved_high"]) == (1 - high, 1 - low)


def test_the_full_model_saves_exactly_nothing():
    row = make_results(make_full()).iloc[0]
    assert row[["flops_saved", "flops_saved_low", "flops_saved_high", "flops_saved_with_prompt"]].tolist() == [0] * 4
    assert not row["calibrated"]


def test_metrics_of_other_kinds_and_unmeasured_seconds_are_nan():
    results = make_results(make_run(kind="truthfulqa"))
    assert results[["em", "em_low", "f1_high"]].isna().all(axis=None)
    assert results[[*METRICS["truthfulqa"]]].notna().all(axis=None)
    assert results["seconds_per_token"].isna().all()
    timed = tables.results(replace(make_run(), seconds={0.9: 0.02}), preset="tiny", **BOOTSTRAP)
    assert timed["seconds_per_token"].tolist()[1] == 0.02 and np.isnan(timed["seconds_per_token"][0])


def test_answers_of_one_token_have_no_decode_pass_to_divide_by():
    run = make_run(settings=(0.9,))
    run.evaluated[["passes", "blocks", "flops", "flops_full", "flops_blocks", "flops_blocks_full"]] = 0
    run.generations["exit_blocks"] = [[16]] * 4
    row = make_results(run).iloc[0]
    assert row[["mean_blocks", "flops_per_token", "flops_saved", "flops_saved_low"]].isna().all()
    assert row["flops_saved_with_prompt"] == 0.0
    assert tables.exits(run).empty


def test_order_of_the_rows_does_not_matter():
    run = make_run()
    shuffled = make_run(evaluated=run.evaluated.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(make_results(run), make_results(shuffled))


def test_a_chosen_setting_that_was_not_run_is_refused():
    run = make_run()
    with pytest.raises(InputError, match=r"tiny-mamba/coqa/calm-skip: was not run at 0\.7, which keeps same-answer"):
        make_results(run, chosen={("tiny-mamba", "coqa", "calm-skip"): {"same-answer": 0.7}})


def test_rows_name_their_promises_and_a_fallback_copies_the_full_model():
    promises = {"strict": None, "loose": 0.5, "looser": 0.5, "hopeless": None}
    results = make_results(make_run(), make_full(), chosen={("tiny-mamba", "coqa", "calm-skip"): promises})
    assert results["policy"].tolist() == ["calm-skip"] * 3 + ["full"]
    assert results["promises"].tolist() == ["loose looser", "", "strict hopeless", ""]
    assert results["calibrated"].tolist() == [True, False, True, False]
    assert results["fallback"].tolist() == [False, False, True, False]
    fallback, full = results.iloc[2], results.iloc[3]
    assert np.isnan(fallback["setting"]) and (fallback["head"], fallback["state_fill"]) == ("calm", "skip")
    assert fallback["flops_saved"] == 0 and fallback["flops_per_token"] == full["flops_per_token"]
    measured = list(RESULTS_COLUMNS[RESULTS_COLUMNS.index("examples") :])
    pd.testing.assert_series_equal(fallback[measured], full[measured], check_names=False)
    text = tables.to_latex(results)
    assert r"calm-skip & full depth & strict hopeless & 50.0" in text


def test_exits_leave_out_the_token_of_the_prompt_pass():
    shares = tables.exits(make_run(settings=(0.5,)))
    assert list(shares.columns) == tables.EXITS_COLUMNS
    assert dict(zip(shares["block"], shares["share"], strict=True)) == {8: 4 / 6, 12: 1 / 6, 16: 1 / 6}
    assert set(shares["policy"]) == {"calm-skip"}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from([8, 10, 12, 14, 16]), min_size=2, max_size=6), min_size=4, max_size=4))
def test_exit_shares_sum_to_one_and_have_the_mean_of_the_passes(exit_blocks):
    run = make_run(settings=(0.5,))
    run.generations["exit_blocks"] = exit_blocks
    shares = tables.exits(run)
    assert shares["share"].sum() == pytest.approx(1)
    passes = [block for answer in exit_blocks for block in answer[1:]]
    assert (shares["block"] * shares["share"]).sum() == pytest.approx(np.mean(passes))


def test_training_curves_carry_backbone_and_recipe():
    curve = pd.DataFrame(
        {"step": [1], "tokens": [9], "head": ["calm"], "exit": [8], "loss": [0.7], "positive_rate": [0.4]}
    )
    table = tables.training({("a", "paper"): curve, ("b", "paper"): curve})
    assert list(table.columns) == tables.TRAINING_COLUMNS
    assert table["backbone"].tolist() == ["a", "b"]
    assert list(tables.training({}).columns) == tables.TRAINING_COLUMNS


def test_main_metric_of_named_and_of_own_datasets():
    results = make_results(make_run(kind="truthfulqa", dataset="lies"))
    assert tables.main_metric(results, "coqa") == "f1"
    assert tables.main_metric(results, "lies") == "bleu_acc"
    with pytest.raises(InputError, match="dataset other"):
        tables.main_metric(results, "other")
    assert [tables.metric_name(name) for name in ("em", "bleu_max", "rougeL_acc")] == ["EM", "BLEU max", "ROUGE-L acc"]


def test_latex_has_calibrated_rows_and_all_of_policies_without_calibration():
    bare = {"head": "", "state_fill": ""}
    text = tables.to_latex(
        make_results(
            make_run(settings=(1.0,), policy="full", **bare),
            make_run(settings=(2.0, 4.0), policy="pruned_late", **bare),
            make_run(),
        )
    )
    rows = [line for line in text.splitlines() if line.count("&") == 6][1:]
    assert [row.split(" & ")[1:4] for row in rows] == [
        ["full", "1", ""], ["pruned\\_late", "2", ""], ["pruned\\_late", "4", ""], ["calm-skip", "0.9", "same-answer"],
    ]  # fmt: skip
    assert rows[-1].endswith(r"50.0 [25.0, 75.0] & 100.0 [100.0, 100.0] & 10.0 [10.0, 10.0] \\")
    assert r"\textit{coqa: F1}" in text
    assert text.count(r"\begin{longtable}") == text.count(r"\end{longtable}") == text.count(r"\endhead") == 1
