"""Another workflow imports ours with `module`, renames its rules and has a config of its own."""

import subprocess
import sys

import yaml
from test_dag import SMALLEST, jobs

from conftest import ROOT

IMPORTER = f"""
configfile: "mine.yaml"

module early_exit:
    snakefile: "{ROOT}/workflow/Snakefile"
    config: config["benchmark"]

use rule * from early_exit as early_exit_*

assert "thresholds" not in config["benchmark"]  # it is not filled in here

rule mine:
    default_target: True
    input: rules.early_exit_all.input
"""


def test_a_workflow_that_imports_ours_under_other_names_plans_the_jobs_of_its_config(tmp_path):
    (tmp_path / "Snakefile").write_text(IMPORTER)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"benchmark": SMALLEST, "threshold_of_mine": 3}))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--dry-run"], cwd=tmp_path, text=True, capture_output=True, check=True
    )
    counts = jobs(done.stdout + done.stderr)
    assert counts.pop("mine") == 1 and all(rule.startswith("early_exit_") for rule in counts)
    assert counts["early_exit_answer"] == 1 and counts["early_exit_report"] == 1
    assert "results/stub/report.html" in done.stdout and "localrules" not in done.stderr
