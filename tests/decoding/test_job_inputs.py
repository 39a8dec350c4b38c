"""A job's params and files become answers of all its policies, without Snakemake."""

import pandas as pd
import pytest

from early_exit.base import records
from early_exit.base.kept_answers import KeptAnswers
from early_exit.decoding import answer
from early_exit.policies.plan import chosen_on
from pruned_answers import PRUNED, job

SOFTMAX = {"kind": "softmax", "state_fill": "propagate", "adapt": "none", "thresholds": [0.0, 1.0]}
FULL = {"full": {"kind": "full"}, "oracle": {"kind": "oracle"}}
OTHERS = {
    "softmax": SOFTMAX,
    "pruned": PRUNED | {"drop": [2]},
    "drafts": {"kind": "self-speculative", "exit": None, "draft_tokens": [2]},
}
RANDOM = {"random": {"kind": "random", "state_fill": "propagate", "match": "softmax"}}


def answered(this, path):
    """The test answers of a job, and how many of them were computed."""
    keys = this.keys()
    with KeptAnswers(path, keys.values(), this.examples["example_id"], 100) as store:
        kept = answer.Kept(store, keys)
        rows = answer.run(lambda: this.answerer(4000), this.examples, this.columns, kept, this.excluded)
        rows += this.oracle_rows([row for (name, _), row in rows if name == "full"], kept)
        store.finish(1)
    return this.frame(rows, "test"), store.added


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("job")


@pytest.fixture(scope="module")
def full(folder):
    return answered(job(folder, "gold", policies=FULL), folder / "full.jsonl")[0]


@pytest.fixture(scope="module")
def others(folder):
    return answered(job(folder, "gold", policies=OTHERS), folder / "exits.jsonl")[0]


def of(frame, policy):
    return frame[frame["policy"] == policy].reset_index(drop=True)


def test_the_oracle_has_the_full_model_s_answers_and_earlier_exits(full):
    assert list(full.columns) == records.GENERATIONS.names
    assert set(full["setting_kind"]) == {"none"} and full["policy"].tolist() == ["full"] * 12 + ["oracle"] * 12
    one, other = of(full, "full"), of(full, "oracle")
    assert one["token_ids"].tolist() == other["token_ids"].tolist()
    assert {block for blocks in other["exit_blocks"] for block in blocks} == {8, 12, 16}
    assert {block for blocks in one["exit_blocks"] for block in blocks} == {16}


def test_every_policy_answers_at_its_settings_and_says_what_they_are(full, others):
    kinds = others.groupby("policy")["setting_kind"].unique().str[0].to_dict()
    assert kinds == {"softmax": "threshold", "pruned": "blocks dropped", "drafts": "tokens drafted"}
    assert others.groupby("policy").size().to_dict() == {"softmax": 24, "pruned": 12, "drafts": 12}
    assert of(others, "drafts")["token_ids"].tolist() == of(full, "full")["token_ids"].tolist()
    assert set(of(others, "pruned")["exit_blocks"].str[0]) == {14}
    assert (of(others, "softmax").groupby("example_id")["prompt_sha256"].nunique() == 1).all()


def test_random_exits_are_drawn_as_often_as_another_policy_leaves(folder, others):
    records.write_table(others, folder / "test.parquet", records.GENERATIONS)
    this = job(folder, "gold", policies=RANDOM)
    this.files.matched = [folder / "test.parquet"]
    drawn, _ = answered(this, folder / "matched.jsonl")
    same = of(others, "softmax").assign(policy="random")  # all leave at the first exit, or none does
    pd.testing.assert_frame_equal(drawn, same)


def test_what_is_kept_opens_no_model_and_only_what_is_missing_is_computed(folder, full, others, monkeypatch):
    this = job(folder, "gold", policies=OTHERS)
    monkeypatch.setattr(type(this), "answerer", lambda *_: pytest.fail("the model was opened"))
    again, computed = answered(this, folder / "exits.jsonl")
    assert computed == 0
    pd.testing.assert_frame_equal(again, others)
    monkeypatch.undo()
    more = {**OTHERS, "softmax": SOFTMAX | {"thresholds": [0.0, 0.5, 1.0]}, "renamed": PRUNED | {"drop": [2]}}
    del more["drafts"]
    wider, computed = answered(job(folder, "gold", policies=more), folder / "exits.jsonl")
    assert computed == 12 and set(wider["policy"]) == {"softmax", "pruned", "renamed"}
    kept = wider[wider["setting"] != 0.5]
    pd.testing.assert_frame_equal(of(kept, "softmax"), of(others, "softmax"))
    pd.testing.assert_frame_equal(of(kept, "renamed").assign(policy="pruned"), of(others, "pruned"))


def test_calibration_leaves_out_what_a_policy_was_chosen_on(folder):
    vector = {"setting": 0.9, "thresholds": [1, 1]}
    plan = {"adapt": "per-exit", "curve": [], "aims": [], "costs": {}, "settings": [vector]}
    mine = {"kind": "softmax", "state_fill": "propagate", "adapt": "per-exit", "levels": [0.9]}
    policies = {"full": {"kind": "full"}, "mine": mine}
    this = job(folder, "gold", policies=policies)
    this.params.splits = {"full": ["test"], "mine": ["calibration", "test"]}
    records.write_json({"mine": plan}, folder / "plan.json")
    this.files.plan = folder / "plan.json"
    calibration = this.examples[this.examples["split"] == "calibration"]
    left_out = {name: {example for example, (policy, _) in this.excluded if policy == name} for name in policies}
    assert left_out["full"] == set(calibration["example_id"])
    assert left_out["mine"] == set(calibration["example_id"][chosen_on(calibration, 1)]) != set()


def test_a_job_without_questions_has_empty_answers(folder):
    this = job(folder, "gold", place="-19-of-20", policies={"full": {"kind": "full"}})
    assert this.examples.empty
    frame, computed = answered(this, folder / "none.jsonl")
    assert frame.empty and computed == 0
    records.write_table(frame, folder / "none.parquet", records.GENERATIONS)
    assert records.read_answers([folder / "none.parquet"]).empty
