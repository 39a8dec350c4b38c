"""Answers of a pruned model to a few questions, kept and written as an answering job does."""

from types import SimpleNamespace

from conftest import ROOT
from early_exit.base import records
from early_exit.base.kept_answers import KeptAnswers
from early_exit.data import datasets
from early_exit.decoding import answer
from early_exit.decoding.job_inputs import AnsweringJob
from early_exit.sources import manifests

TINY = ROOT / "workflow/resources/tiny"
PRUNED = {"kind": "pruned", "by": "last", "drop": [2, 6], "prompt": "pruned"}


class Files(SimpleNamespace):
    """A job's input files, as Snakemake gives them."""

    def get(self, name):
        return getattr(self, name, None)


def job(folder, history, place="", batch_size=4, policies=None):
    """An answering job on its input files, which are written to `folder`; `place` is its shard."""
    manifest = manifests.describe("tiny", {"source": "tiny"}, TINY / "transformer", str(TINY / "transformer"))
    spec = {
        "kind": "coqa",
        "source": str(TINY / "coqa"),
        "name": None,
        "revision": None,
        "shots": 0,
        "splits": {"shots": "train", "calibration": "validation", "test": "test"},
        "history": history,
        "examples": {"calibration": 1, "test": 12},
    }
    records.write_json(manifest, folder / "tiny.json")
    records.write_table(datasets.load("coqa", spec, 1), folder / "data.parquet", records.EXAMPLES)
    policies = policies or {"pruned": PRUNED}
    params = SimpleNamespace(
        policies=policies,
        splits={name: ["test"] for name in policies},
        exits=[8, 12],
        max_new_tokens=8,
        rules={"prompt_overflow": "refuse", "repetition_penalty": 1.0, "degeneration": {"ngram": 4, "repeats": 4}},
        runtime={
            "seed": 1,
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            "batch_size": batch_size,
            "memory": 2048,
        },
    )
    return AnsweringJob(params, Files(manifest=folder / "tiny.json", data=folder / "data.parquet"), place)


def run(folder, history, every=2, place="", batch_size=4):
    """Answer the test questions into `folder`; returns how many answers were computed, of how many."""
    this = job(folder, history, place, batch_size)
    keys = this.keys()
    with KeptAnswers(f"{folder}/kept.jsonl", keys.values(), this.examples["example_id"], every) as store:
        found = answer.run(lambda: this.answerer(4000), this.examples, this.columns, answer.Kept(store, keys))
        store.finish(1)
    records.write_table(this.frame(found, "test"), f"{folder}/test.parquet", records.GENERATIONS)
    return store.added, len(found)
