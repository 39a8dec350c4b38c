"""Evaluated answers of all policies in one frame: as each policy alone, scored and counted by hand."""

import logging
import runpy
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from early_exit.base import records
from early_exit.base.errors import InputError
from early_exit.costs.passes import cost_table
from early_exit.evaluation import evaluate, metrics
from early_exit.experiment.config.policies import parse
from scored_answers import answer, examples
from shapes import MISTRAL_7B

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/evaluate.py"
DEPTH = 4
COSTS = cost_table(MISTRAL_7B | {"num_hidden_layers": DEPTH}, {})
POLICIES = {
    "full": {"kind": "full"},
    "early": {"kind": "fixed", "state_fill": "copy"},
    "pruned": {"kind": "pruned", "drop": [1, 2]},
    "drafted": {"kind": "self-speculative", "draft_tokens": [2]},
}
YARDSTICK = evaluate.Yardstick("triviaqa", "official", COSTS, [2, 3])


def answers():
    """Two answers a policy, the policies' rows in turn."""
    rows = [
        answer("x", "blue river", [5, 6, 7], policy="full") | {"exit_blocks": [4, 4, 4]},
        answer("x", "blue", [5, 6, 7], setting=2.0, policy="early") | {"exit_blocks": [4, 2, 2]},
        answer("x", "river", [5, 6, 7], setting=1.0, policy="pruned") | {"exit_blocks": [3, 3, 3]},
        answer("y", "sea", [8, 7], policy="full") | {"exit_blocks": [4, 4]},
        answer("y", "sea", [8, 7], setting=2.0, policy="early") | {"exit_blocks": [4, 4]},
        answer("y", "sea", [8, 7], setting=2.0, policy="pruned") | {"exit_blocks": [2, 2]},
        answer("x", "blue river", [5, 6, 7], setting=2.0, policy="drafted")
        | {"exit_blocks": [4, 4, 4], "drafted": [1], "accepted": [1]},
    ]
    return pd.DataFrame(rows, index=[6, 5, 4, 3, 2, 1, 0])


def policies(*names):
    return {name: parse(POLICIES[name]) for name in names or POLICIES}


def test_rows_are_those_of_each_policy_alone():
    together = evaluate.evaluate(answers(), examples("x", "y"), policies(), YARDSTICK)
    assert list(together.columns) == records.evaluated_schema("triviaqa").names
    assert together.index.tolist() == answers().index.tolist()
    assert together["policy"].tolist() == answers()["policy"].tolist()
    for name in POLICIES:
        rows = answers()[answers()["policy"].isin(["full", name])]
        alone = evaluate.evaluate(rows, examples("x", "y"), policies("full", name), YARDSTICK)
        pd.testing.assert_frame_equal(alone, together.loc[alone.index])


def test_costs_follow_from_the_blocks_that_ran():
    rows = evaluate.evaluate(answers(), examples("x", "y"), policies(), YARDSTICK).set_index(["policy", "example_id"])
    full, early, pruned, drafted = (rows.loc[name, "x"] for name in POLICIES)
    assert full["flops"] == full["flops_full"] == early["flops_full"] == pruned["flops_full"]
    assert (full["blocks"], early["blocks"], pruned["blocks"]) == (8, 4, 6)
    assert early["flops_blocks"] / early["flops_blocks_full"] == pytest.approx(4 / 8)
    assert pruned["prompt_flops"] < pruned["prompt_flops_full"] == early["prompt_flops"]  # its prompt is pruned, too
    half = rows.loc["pruned", "y"]
    assert half["flops_blocks"] / half["flops_blocks_full"] == pytest.approx(1 / 2)
    assert drafted["passes"] == 2 and drafted["flops"] > drafted["flops_full"]  # drafts run their first blocks twice


def run_script(folder):
    job = SimpleNamespace(
        rule="evaluate",
        input=SimpleNamespace(
            answers=[str(folder / "one.parquet"), str(folder / "other.parquet")],
            data=str(folder / "data.parquet"),
            costs=str(folder / "costs.json"),
        ),
        output=[str(folder / "evaluated.parquet")],
        params=SimpleNamespace(kind="triviaqa", rules="official", policies=POLICIES, exits=[2, 3]),
        log=[str(folder / "evaluate.log")],
    )
    runpy.run_path(str(SCRIPT), init_globals={"snakemake": job})


@pytest.fixture
def folder(tmp_path):
    """A folder with the rule's inputs; afterwards the root logger, which a job replaces, is restored."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    rows = answers().assign(
        setting_kind="threshold", prompt_sha256="0", prompt_cut=0, repetition_penalty=1.0, degenerate=False
    )
    is_one = rows["policy"].isin(["full", "early"])
    records.write_table(rows[is_one], tmp_path / "one.parquet", records.GENERATIONS)
    records.write_table(rows[~is_one], tmp_path / "other.parquet", records.GENERATIONS)
    records.write_table(examples("x", "y"), tmp_path / "data.parquet", records.EXAMPLES, {"prompt": "lm-eval"})
    records.write_json(COSTS, tmp_path / "costs.json")
    yield tmp_path
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_the_script_joins_jobs_and_says_how_it_scored(folder):
    run_script(folder)
    rows = records.read_table(folder / "evaluated.parquet", records.evaluated_schema("triviaqa"))
    names = ["drafted", "early", "early", "full", "full", "pruned", "pruned"]
    assert rows["policy"].tolist() == names and rows["em"].tolist() == [100, 0, 0, 100, 0, 0, 0]
    assert records.read_metadata(folder / "evaluated.parquet") == {
        "prompt": "lm-eval",
        "rules": "official",
        "score_version": str(metrics.VERSION["triviaqa"]),
    }
    assert "7 answers scored" in (folder / "evaluate.log").read_text()


def test_the_script_ends_on_one_line_about_a_stray_example(folder):
    records.write_table(examples("x"), folder / "data.parquet", records.EXAMPLES)
    with pytest.raises(SystemExit, match="Error in evaluate: example y of this run is not in the dataset"):
        run_script(folder)
    assert not (folder / "evaluated.parquet").exists()


def test_an_answer_of_two_jobs_is_refused(folder):
    (folder / "other.parquet").write_bytes((folder / "one.parquet").read_bytes())
    (folder / ".other.parquet.sha256").unlink()
    with pytest.raises(InputError, match="example x was answered twice with policy early"):
        records.read_answers([folder / "one.parquet", folder / "other.parquet"])
