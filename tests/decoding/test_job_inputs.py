"""A job's params and files become a backbone with its policy, without Snakemake."""

from types import SimpleNamespace

import pandas as pd
import pytest

from conftest import ROOT
from early_exit.base import records
from early_exit.data import datasets
from early_exit.decoding import answer, job_inputs
from early_exit.sources import manifests

TINY = ROOT / "workflow/resources/tiny"
SPEC = {"kind": "coqa", "source": str(TINY / "coqa"), "name": None, "revision": None, "shots": 0,
        "splits": {"shots": "train", "calibration": "validation", "test": "test"}, "history": "gold",
        "examples": {"calibration": 1, "test": 2}}  # fmt: skip
RUNTIME = {"seed": 1, "device": "cpu", "dtype": "float32", "threads": 1, "batch_size": 4, "memory": "auto"}
RULES = {"prompt_overflow": "refuse", "repetition_penalty": 1.0, "degeneration": {"ngram": 4, "repeats": 4}}
EXITS = [8, 12]


class Files(SimpleNamespace):
    """A job's input files, as Snakemake gives them."""

    def get(self, name):
        return getattr(self, name, None)


class Journal:
    """Keeps nothing: each run starts anew."""

    rows = ()

    def add(self, row):
        pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    manifest = manifests.describe("tiny", {"source": "tiny"}, TINY / "transformer", str(TINY / "transformer"))
    records.write_json(manifest, folder / "tiny.json")
    examples = datasets.load("coqa", SPEC, 1).query("split == 'test'")
    records.write_table(examples, folder / "data.parquet", records.EXAMPLES)
    return Files(manifest=folder / "tiny.json", data=folder / "data.parquet"), examples, folder


def run(files, examples, policy, settings):
    named = {"policy": policy, "settings": settings, "exits": EXITS, "max_new_tokens": 4}
    params = SimpleNamespace(**named, rules=RULES, runtime=RUNTIME)
    return params, answer.run(job_inputs.answerer(params, files, 4000), examples, Journal())


def test_every_policy_answers_at_its_settings_and_says_what_they_are(files):
    paths, examples, folder = files
    params, full = run(paths, examples, {"kind": "full"}, [1.0])
    assert set(full["setting_kind"]) == {"none"} and set(full["prompt_sha256"]) == set(examples["prompt_sha256"])
    records.write_table(full, folder / "full.parquet", records.GENERATIONS)
    oracle = job_inputs.oracle_run(params, Files(**vars(paths), full=folder / "full.parquet"), examples)
    assert oracle["token_ids"].tolist() == full["token_ids"].tolist()
    assert {block for blocks in oracle["exit_blocks"] for block in blocks} <= {*EXITS, 16}

    softmax = {"kind": "softmax", "state_fill": "propagate", "adapt": "none"}
    _, matched = run(paths, examples, softmax, [0.0, 1.0])
    assert set(matched["setting_kind"]) == {"threshold"} and sorted(set(matched["setting"])) == [0.0, 1.0]
    records.write_table(matched, folder / "softmax.parquet", records.GENERATIONS)
    drawn = Files(**vars(paths), matched=folder / "softmax.parquet")
    _, random = run(drawn, examples, {"kind": "random", "state_fill": "propagate", "match": "softmax"}, [])
    pd.testing.assert_frame_equal(random, matched)  # all leave at the first exit, or none does

    _, pruned = run(paths, examples, {"kind": "pruned", "by": "last", "drop": [2], "prompt": "pruned"}, [2.0])
    assert set(pruned["setting_kind"]) == {"blocks dropped"} and set(pruned["exit_blocks"].str[0]) == {14}
    _, speculative = run(paths, examples, {"kind": "self-speculative", "exit": None, "draft_tokens": [2]}, [2])
    assert set(speculative["setting_kind"]) == {"tokens drafted"}
    assert speculative["token_ids"].tolist() == full["token_ids"].tolist()
