"""What Snakemake's jobs request: memory, time, GPUs and threads."""

import re

import test_dag
from test_dag import SMALLEST, WITHOUT_PRECISION, jobs, snakemake

from configs import REVISIONS
from conftest import ROOT

copy = test_dag.copy  # the fixture


def test_a_job_that_fails_asks_for_more_when_it_is_tried_again(copy):
    """Training fails twice here, and notes what it was given."""
    train = copy / "workflow/scripts/train_heads.py"
    train.write_text(train.read_text() + """
asked = Path("asked.txt")
before = asked.read_text() if asked.exists() else ""
asked.write_text(f"{before}{snakemake.resources.mem_mb} {snakemake.resources.runtime}\\n")
assert before.count("\\n") == 2
""")  # fmt: skip
    heads = "results/stub/heads/tiny-transformer/paper/heads.safetensors"
    snakemake("--cores", "1", "--retries", "2", heads, folder=copy, config=SMALLEST, root=copy)
    assert (copy / "asked.txt").read_text() == "4500 30\n9000 60\n13500 90\n"


def test_the_papers_jobs_ask_for_gpus_memory_and_time(tmp_path):
    """A dry run says what each job asks, through Slurm."""
    profile = ROOT / "profiles/slurm"
    text = snakemake(
        "--dry-run", "--profile", profile, folder=tmp_path, config={"preset": "paper", "revisions": REVISIONS}
    )
    assert jobs(text) == WITHOUT_PRECISION
    asked = {}
    for block in re.split(r"\n(?=rule )", text):
        rule, line = re.match(r"rule (\w+):", block), re.search(r"^    resources: (.*)$", block, re.MULTILINE)
        if rule and line:
            asked.setdefault(rule[1], dict(part.split("=") for part in line[1].split(", ")))
    asked = {rule: parts for rule, parts in asked.items() if rule != "all"}
    with_gpu = {rule for rule, parts in asked.items() if parts.get("gpu") == "1"}
    assert (
        with_gpu
        == {rule for rule, parts in asked.items() if "work_s" in parts}
        >= {"answer", "answer_full", "train_heads"}
    )
    assert all(int(parts["mem_mb"]) > 0 and parts["runtime"] for parts in asked.values())
    assert {asked[rule]["mem_mb"] for rule in ("answer", "settle")} == {"26500"}
    assert {rule for rule, parts in asked.items() if parts["slurm_partition"] == "gpu"} == with_gpu
    assert {parts["slurm_partition"] for parts in asked.values()} == {"cpu", "gpu"}
    assert int(asked["fetch_backbone"]["output_mb"]) >= 14_500


def test_the_speed_target_measures_every_backbone_alone_and_draws_once(tmp_path):
    text = snakemake("speed", "--dry-run", "--cores", "2", folder=tmp_path, config={"preset": "tiny"})
    counted = jobs(text)
    assert (counted["measure_speed"], counted["speed"]) == (2, 1)
    assert not {"answer", "report"} & set(counted)
    assert "threads: 2" in text  # nothing beside it
