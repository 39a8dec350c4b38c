"""A generating job that is killed resumes after its saved answers and ends with the same bytes."""

import logging
import subprocess
import sys

import pytest

from conftest import ROOT
from early_exit.base import records
from early_exit.base.journal import Journal
from early_exit.blocks import pruning
from early_exit.data import datasets, shards
from early_exit.decoding import answer, memory, run_parts, stopping
from early_exit.experiment.config.policies import parse
from early_exit.models import loading
from early_exit.sources import manifests

TINY = ROOT / "workflow/resources/tiny"
PRUNED = {"kind": "pruned", "by": "last", "drop": [2, 6], "prompt": "pruned"}

KILLED = """
import sys

sys.path[:0] = {paths!r}
from test_faults import *

keep, count = Journal.add, 0


def stop(self, row):
    global count
    keep(self, row)
    count += 1
    if count == {stop}:
        print("in the middle", flush=True)
        sys.stdin.read()


Journal.add = stop
run({folder!r}, {history!r})
"""


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


@pytest.mark.parametrize("history", ["gold", "own"])
def test_a_killed_generation_resumes_and_ends_with_the_same_bytes(history, tmp_path, caplog):
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir()
    again.mkdir()
    assert run(whole, history) == []
    paths = [str(ROOT / "workflow/scripts"), str(ROOT / "tests"), str(ROOT / "tests/workflow")]
    code = KILLED.format(paths=paths, folder=str(again), history=history, stop=11)
    killed = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "in the middle\n"
    killed.kill()
    killed.communicate()
    assert not (again / "test.parquet").exists()
    with (again / "test.partial").open("ab") as file:
        file.write(b'{"example_id": "half a li')
    with caplog.at_level(logging.INFO, logger="early_exit"):
        kept = run(again, history)
    assert len(kept) == 10  # of eleven, as two are written at a time
    assert any(f"answers: {24 - 10}/{24 - 10}" in message for message in caplog.messages)
    assert (again / "test.parquet").read_bytes() == (whole / "test.parquet").read_bytes()
