"""Answers of a pruned model to a few questions, written as a generating job writes them."""

from early_exit.base.journal import Journal

from conftest import ROOT
from early_exit.base import records
from early_exit.blocks import pruning
from early_exit.data import datasets, shards
from early_exit.decoding import answer, memory, run_parts, stopping
from early_exit.experiment.config.policies import parse
from early_exit.models import loading
from early_exit.sources import manifests

TINY = ROOT / "workflow/resources/tiny"
PRUNED = {"kind": "pruned", "by": "last", "drop": [2, 6], "prompt": "pruned"}


def run(folder, history, every=2, place=None, batch_size=4):
    """Answers of a pruned model, written to a file of `folder` with a journal beside it; the journal's first rows.

    `place` is the shard, if not all questions are asked.
    """
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
    examples = shards.part(datasets.load("coqa", spec, 1).query("split == 'test'"), place)
    journal = Journal(f"{folder}/test.partial", "same", every)
    kept = list(journal.rows)
    runtime = {"seed": 1, "device": "cpu", "dtype": "float32", "threads": 1}
    rules = {"prompt_overflow": "refuse", "repetition_penalty": 1.0, "degeneration": {"ngram": 4, "repeats": 4}}
    dropped = pruning.drops_by_setting(PRUNED, manifest["depth"])
    backbone, tokenizer = loading.open_backbone(manifest, runtime)
    ends = loading.stop_token_ids(backbone, tokenizer)
    stop = stopping.StopRule(tokenizer, ends, examples["stop_strings"].iloc[0], 8)
    parts = run_parts.pruned(parse(PRUNED), backbone, dropped)
    limits = memory.Limits(batch_size, 2**31)
    answerer = answer.Answerer(tokenizer, parts, answer.Rules(stop, **rules), limits, "blocks dropped", 1)
    frame = answer.run(answerer, examples, journal)
    records.write_table(frame, f"{folder}/test.parquet", records.GENERATIONS)
    return kept
