"""The configs of docs/examples: each is accepted as it is, and all of them together run, made small."""

import subprocess
import sys

import pandas as pd
import pytest
import yaml

import small
from conftest import ROOT

EXAMPLES = ROOT / "docs/examples"
CONFIGS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(EXAMPLES.glob("*.yaml"))}
SMALL = ("thresholds", "distillation", "corpus", "bootstrap", "head_quality", "calibration", "generation")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_accepted_as_it_is(name, tmp_path):
    text = small.run(tmp_path, "--dry-run", "--quiet", "rules", config=CONFIGS[name])
    assert "train_heads" in text


def test_another_workflow_takes_the_rules_as_a_module(tmp_path):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    command = [sys.executable, "-m", "snakemake", "--snakefile", EXAMPLES / "module.smk", "--directory", tmp_path,
               "--cores", "1", "--dry-run", "--quiet", "rules", "--", "all"]  # fmt: skip
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0 and "train_heads" in done.stdout + done.stderr, done.stderr


def test_all_of_them_run_together(tmp_path):
    """On the example's model and questions: its head, and the full model."""
    config = {"preset": "tiny", "name": "examples", **{key: small.CONFIG[key] for key in SMALL}}
    for example in CONFIGS.values():
        for key, value in example.items():
            if isinstance(value, dict):
                config[key] = config.get(key, {}) | value
    ours = {name for example in CONFIGS.values() for name in example.get("policies", {})}
    config["policies"] = dict.fromkeys(set(small.PRESET["policies"]) - {"full"}) | config["policies"]
    config["groups"] = dict.fromkeys(small.PRESET["groups"])
    config["datasets"] = dict.fromkeys(small.PRESET["datasets"]) | config["datasets"]
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    small.run(tmp_path, "results/examples/tables/results.csv", config=config)
    results = pd.read_csv(tmp_path / "results/examples/tables/results.csv")
    assert set(results["policy"]) == {"full"} | ours
    assert set(results["backbone"]) == {"mine"} and set(results["dataset"]) == {"mine"}
