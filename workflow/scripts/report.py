"""Rule report: the results with their captions in one page, drawn by Snakemake.

Snakemake can draw its report only when all jobs are done, so this job calls it a second time. That call must not lock
the folder, which is locked by the first, and gets the same config in a file. (--report-after-run would draw it as well,
but leaves `rule all` without its one output, and a run on a cluster without a report.)
"""

import subprocess
import sys
from pathlib import Path

from early_exit.base import files, job

with job.logged(snakemake) as log:
    params, output = snakemake.params, snakemake.output
    Path(output.config).write_text(params.config, encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--snakefile", files.ROOT / "Snakefile", "--profile", "none",
               "--workflow-profile", "none", "--nolock", "--replace-workflow-config", "--configfile", output.config,
               "--report", output.html, "--", *params.targets]  # fmt: skip
    drawn = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    log.info("%s", drawn.stdout)
    drawn.check_returncode()
