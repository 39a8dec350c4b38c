"""Rule speed: the timings of all backbones in one table, and measured against implied speed-up in a figure."""

import pandas as pd

from early_exit.base import job, records
from early_exit.report import curves, speed

with job.logged(snakemake) as log:
    table = pd.concat(map(records.read_csv, snakemake.input.measured), ignore_index=True)
    records.write_csv(table, snakemake.output.table, "%.6g")
    curves.save(speed.speed(table), snakemake.output.svg, snakemake.output.png)
    log.info("%d measurements", len(table))
