"""Rule estimate: prints what a whole run takes (jobs, hours, disk), summed over the jobs that Snakemake plans.

A dry run of everything is made in this process; what it says of each job are records of Python's `logging`.
"""

import json
import logging
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from snakemake import cli
from snakemake.logging import logger

from early_exit.base import files, job
from early_exit.base.errors import InputError
from early_exit.experiment import estimate
from early_exit.experiment.config.load import load


class Jobs(logging.Filter):
    """Collects the jobs of a dry run. (Snakemake removes handlers that others gave its logger, but no filters.)"""

    def __init__(self):
        super().__init__()
        self.planned: list[estimate.PlannedJob] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if hasattr(record, "rule_name"):
            resources = dict(record.resources.items())
            amounts = (resources.get("work_s", 0), resources.get("output_mb", 0))
            self.planned.append(estimate.PlannedJob(record.rule_name, *amounts))
        return True


def planned(config: str) -> list[estimate.PlannedJob]:
    """The jobs of a run from nothing to the report."""
    jobs = Jobs()
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        path = Path(folder, "config.json")
        path.write_text(config, encoding="utf-8")
        logger.addFilter(jobs)
        options = [
            "--dry-run",
            "--forceall",
            "--nolock",
            "--profile",
            "none",
            "--workflow-profile",
            "none",
            "--replace-workflow-config",
        ]
        try:
            cli.main(["--snakefile", str(files.ROOT / "Snakefile"), *options, "--configfile", str(path), "--", "all"])
        except SystemExit as end:
            if end.code:
                raise InputError(f"the dry run failed: {said.getvalue().strip()}") from end
    return jobs.planned


with job.logged(snakemake):
    config = snakemake.params.config
    print("\n".join(estimate.lines(load(json.loads(config), files.ROOT), planned(config))))
