"""Rule speed: the timings of all backbones in one table, and measured against implied speed-up in a figure."""

import pandas as pd

from early_exit import figures, records, runtime, speed_figures

with runtime.job(snakemake) as log:
    table = pd.concat(map(pd.read_csv, snakemake.input.measured), ignore_index=True)
    with records.whole_file(snakemake.output.table) as path:
        table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
    figures.save(speed_figures.speed(table), snakemake.output.svg, snakemake.output.png)
    log.info("%d measurements", len(table))
