"""Rule speed: the timings of all backbones in one table, and measured against implied speed-up in a figure."""

import pandas as pd

from early_exit.base import job, records
from early_exit.experiment.figures import SPEED
from early_exit.report import figures, style

with job.logged(snakemake) as log:
    table = pd.concat(map(records.read_csv, snakemake.input.measured), ignore_index=True)
    records.write_csv(table, snakemake.output.table, "%.6g")
    style.save(figures.draw(SPEED, {SPEED.kind: table}), snakemake.output.svg, snakemake.output.png)
    log.info("%d measurements", len(table))
