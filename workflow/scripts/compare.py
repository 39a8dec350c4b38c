"""Rule compare: every policy at equal compute, and every setting against the full model, from the runs' files."""

import pandas as pd

from early_exit.base import job, records
from early_exit.evaluation import compare, resampled

with job.logged(snakemake) as log:
    params = snakemake.params
    bootstrap = {"seed": params.seed, "resamples": params.bootstrap["resamples"]}
    equal, against_full, standings = [], [], []
    for runs, rows in resampled.read(params.settings):
        cell = resampled.cell(runs, rows, params.policies, params.heads, **bootstrap)
        equal.append(compare.equal_compute(cell, params.preset))
        standings.append(compare.standings(cell, params.preset))
        against_full += [
            compare.differences(run, rows[run["policy"]], rows["full"], preset=params.preset, **bootstrap)
            for run in runs
        ]
        log.info("%s, %s: %d runs, %d groups", cell.backbone, cell.dataset, len(runs), cell.groups)
    for name, frames in {"equal_compute": equal, "differences": against_full, "policies": standings}.items():
        records.write_csv(pd.concat(frames), snakemake.output[name])
