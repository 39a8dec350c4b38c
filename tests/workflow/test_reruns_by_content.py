"""What runs again is told by content: dates and places re-run nothing, an edit with an old date does.

The DAG is whole and finished; its scripts are the stubs of test_dag.
"""

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, ResourceSettings
from test_dag import ROOT, SMALLEST, copy, dry_run, finished, jobs, snakemake  # noqa: F401  # fixtures

LONG_AGO = 946684800
EVERY_RULE = {
    "preset": "tiny",
    "group": "all",
    "backbones": {"tiny-transformer": None},
    "datasets": {"triviaqa": None, "truthfulqa": None},
    "generation": {"shards": 2},
    "wallclock": {"examples": 2},
    "precision": {"datasets": ["coqa"]},
    "policies": {"leave-out": {"kind": "pruned", "by": "one-by-one", "drop": [1]}},
}


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder in which every file is as old as its copying, as of `cp -r`, `rsync` or a fresh clone."""
    return shutil.copytree(folder, to, copy_function=shutil.copyfile)


@pytest.fixture
def elsewhere(finished, tmp_path):  # noqa: F811
    """The finished run, copied to another place."""
    return copied(finished, tmp_path / "elsewhere")


def edit(path: Path, text: str) -> None:
    """Change a file and give it a date before anything was run."""
    path.write_text(text)
    os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.mark.parametrize("order", range(2))
def test_a_copy_elsewhere_whose_files_have_dates_in_any_order_runs_nothing(elsewhere, order):
    files = sorted(path for path in elsewhere.rglob("*") if path.is_file())
    random.Random(order).shuffle(files)
    for second, path in enumerate(files, LONG_AGO):
        os.utime(path, (second, second))
    assert dry_run(elsewhere) == {}


def test_a_touched_file_of_any_size_runs_nothing(elsewhere):
    source = elsewhere / "workflow/resources/tiny/corpus/train.jsonl"
    os.truncate(source, 200_000_000)  # the stub does not read it
    target = "results/stub/data/corpus.parquet"
    snakemake("--cores", "1", target, folder=elsewhere, config=SMALLEST, root=elsewhere)
    source.touch()
    assert jobs(snakemake("--dry-run", target, folder=elsewhere, config=SMALLEST, root=elsewhere)) == {}


@pytest.mark.parametrize(
    ("script", "follow"),
    [
        ("report", set()),
        ("claims", set()),
        ("check_disjoint", {"tables", "head_tables", "figures", "provenance"}),
    ],
)
def test_an_edited_script_with_an_old_date_runs_its_rule_and_what_follows(elsewhere, script, follow):
    path = elsewhere / f"workflow/scripts/{script}.py"
    edit(path, path.read_text() + "\n# edited\n")
    assert dry_run(elsewhere).keys() == {script, *follow, "report", "all"}


def test_no_param_names_the_place_of_the_pipeline_or_of_its_results(tmp_path, monkeypatch):
    """Of any job of a dry run: a param with an absolute path would run its job again in each new place."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "user.yaml"
    config.write_text(yaml.safe_dump(EVERY_RULE))
    with SnakemakeApi() as api:
        run = api.workflow(
            snakefile=ROOT / "Snakefile",
            workdir=tmp_path,
            resource_settings=ResourceSettings(cores=2),
            config_settings=ConfigSettings(configfiles=[config], replace_workflow_config=True),
        )
        targets = {"all", "speed", "estimate", "pretrain_tiny"}
        run.dag(DAGSettings(targets=targets, forceall=True)).execute_workflow(executor="dryrun")
        planned = list(run._workflow.dag.jobs)
    assert {job.rule.name for job in planned} == {rule.name for rule in run._workflow.rules} - {
        "fetch",
        "answers",
        "clean_answers",
    }
    params = {(job, name): repr(value) for job in planned for name, value in job.params.items()}
    places = (str(ROOT), str(tmp_path), sys.prefix)
    named = {(job.rule.name, name) for (job, name), value in params.items() if any(place in value for place in places)}
    assert params and not named
