"""Jobs that run at the same time get a GPU each; the GPUs are names alone here."""

import subprocess
import sys

import pytest

from conftest import ROOT
from early_exit.base import gpus

JOB = """
import os, sys
import early_exit.base.gpus as gpus

gpus.tempfile.gettempdir = lambda: sys.argv[1]
gpus.claim_device()
print(os.environ[gpus.VARIABLE], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    """Start a job that sees these GPUs; it runs until the test ends it."""
    jobs = []

    def call(devices):
        environment = {"PYTHONPATH": str(ROOT / "workflow/scripts"), gpus.VARIABLE: devices}
        job = subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path)], env=environment, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        jobs.append(job)
        return job, job.stdout.readline().strip()

    yield call
    for job in jobs:
        job.kill()
        job.communicate()


@pytest.mark.slow
def test_jobs_at_the_same_time_have_a_gpu_each_and_the_next_takes_a_free_one(start):
    (first, one), (_, other), (_, third) = start("0,1"), start("0,1"), start("0,1")
    assert (one, other) == ("0", "1")
    assert third == "0,1"  # none is free: it shares
    first.kill()
    first.communicate()
    assert start("0,1")[1] == "0"


@pytest.mark.slow
def test_a_job_that_is_shown_one_gpu_keeps_it(start):
    """As Slurm does it, whatever others have."""
    assert [start("3")[1], start("3")[1], start("GPU-1f/2a")[1]] == ["3", "3", "GPU-1f/2a"]


def test_all_gpus_count_where_none_is_named(monkeypatch):
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert gpus.visible() == ["0", "1", "2"]
    monkeypatch.setenv(gpus.VARIABLE, "2, 5")
    assert gpus.visible() == ["2", "5"]
