"""Another workflow imports ours with `module`, renames its rules and has a config of its own."""

import subprocess
import sys

import yaml
from test_dag import SMALLEST, jobs, snakemake

from conftest import ROOT

IMPORTER = f"""
configfile: "mine.yaml"

module early_exit:
    snakefile: "{ROOT}/workflow/Snakefile"
    config: config["benchmark"]

use rule * from early_exit as early_exit_*

rule mine:
    default_target: True
    input: rules.early_exit_all.input
"""


def test_a_workflow_that_imports_ours_plans_the_same_jobs(tmp_path):
    alone = jobs(snakemake("--dry-run", folder=tmp_path, config=SMALLEST))
    (tmp_path / "Snakefile").write_text(IMPORTER)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"benchmark": SMALLEST, "threshold_of_mine": 3}))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--dry-run"], cwd=tmp_path, text=True, capture_output=True, check=True
    )
    text = done.stdout + done.stderr
    imported = {f"early_exit_{rule}": count for rule, count in alone.items() if rule != "all"}
    assert jobs(text) == imported | {"mine": 1}
    assert "results/stub/report.html" in text and "localrules" not in text
