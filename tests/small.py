"""The smallest experiment that still trains, generates and scores, run by the real Snakemake; where its files lie."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT

PRESET = yaml.safe_load((ROOT / "workflow/presets/tiny.yaml").read_text())
KEPT = ("full", "calm-propagate")
CONFIG: dict[str, Any] = {
    "preset": "tiny",
    "name": "small",
    "backbones": {"tiny-mamba": None},
    "datasets": {"coqa": None, "truthfulqa": None, "triviaqa": {"examples": {"calibration": 4, "test": 4}}},
    "corpus": {"documents": 12, "held_out": 2},
    "recipes": {"paper": ["calm"]},
    "distillation": {"epochs": 1, "batch_tokens": 256, "checkpoint_seconds": 0},
    "head_quality": {"recipes": []},
    "generation": {"checkpoint_rows": 2},
    "calibration": {"promises": dict.fromkeys(PRESET["calibration"]["promises"])},
    "precision": {"datasets": []},
    "bootstrap": {"resamples": 10},
    "thresholds": [0.8],
    "policies": dict.fromkeys(set(PRESET["policies"]) - set(KEPT)),
    "groups": dict.fromkeys(PRESET["groups"]),
}
RESULTS = "results/small"
ANSWERS = f"{RESULTS}/answers/tiny-transformer/triviaqa"
HEADS = f"{RESULTS}/heads/tiny-transformer/paper"


def command(folder: Path, *options: str, config: Mapping[str, Any] = CONFIG, file: str = "user.yaml") -> list[str]:
    """The call of Snakemake in a folder, with this config alone."""
    (folder / file).write_text(yaml.safe_dump(dict(config)))
    return [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
            "--cores", "1", "--replace-workflow-config", *options, "--configfile", str(folder / file)]  # fmt: skip


def run(
    folder: Path, *options: str, fails: bool = False, before: Sequence[str] = (), env: Mapping[str, str] = os.environ,
    **others: Any,
) -> str:  # fmt: skip
    """What Snakemake says on the terminal; it has to fail, or else to succeed."""
    done = subprocess.run(
        [*before, *command(folder, *options, **others)], text=True, capture_output=True, check=False, env=dict(env)
    )
    text = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, text[-6000:]
    return text


def unshared(kind: str) -> list[str]:
    """The command that runs another in a namespace of its own, `--net` or `--mount`; skips where none is granted."""
    said = "there is no unshare"
    for words in (["unshare", kind], ["unshare", "--map-root-user", kind]):
        if shutil.which("unshare"):
            tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
            if tried.returncode == 0:
                return words
            said = tried.stderr.strip()
    return pytest.skip(f"no namespace can be made here: {said}")
