"""An answering job that is killed goes on after its kept answers and ends with the same bytes."""

import logging
import subprocess
import sys

import pytest

from conftest import ROOT
from pruned_answers import run

KILLED = """
import sys
from pathlib import Path

sys.path[:0] = {paths!r}
from early_exit.base.kept_answers import KeptAnswers
from pruned_answers import run

keep, count = KeptAnswers.add, 0


def stop(self, key, row):
    global count
    keep(self, key, row)
    count += 1
    if count == {stop}:
        print("in the middle", flush=True)
        sys.stdin.read()


KeptAnswers.add = stop
run(Path({folder!r}), {history!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize("history", ["gold", "own"])
def test_a_killed_generation_resumes_and_ends_with_the_same_bytes(history, tmp_path, caplog):
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir()
    again.mkdir()
    assert run(whole, history) == (24, 24)
    paths = [str(ROOT / folder) for folder in ("workflow/scripts", "tests")]
    code = KILLED.format(paths=paths, folder=str(again), history=history, stop=11)
    killed = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "in the middle\n"
    killed.kill()
    killed.communicate()
    assert not (again / "test.parquet").exists()
    with (again / "kept.jsonl").open("ab") as file:
        file.write(b'0123abcd {"key": "half a li')
    with caplog.at_level(logging.INFO, logger="early_exit"):
        assert run(again, history) == (24 - 10, 24)  # of eleven, as two are written at a time
    assert any("answers: 24/24" in message for message in caplog.messages)
    assert any("line 11 is broken" in message for message in caplog.messages)
    assert (again / "test.parquet").read_bytes() == (whole / "test.parquet").read_bytes()
