"""Rule compare: every policy at equal compute, and every setting against the full model, from the runs' files."""

import pandas as pd

from early_exit.base import job, records
from early_exit.evaluation import compare, resampled

with job.logged(snakemake) as log:
    params = snakemake.params
    bootstrap = {"seed": params.seed, "resamples": params.bootstrap["resamples"]}
    equal, against_full, standings = [], [], []
    for entries, rows in resampled.read_by_dataset(params.settings):
        runs = resampled.resample(entries, rows, params.policies, params.heads, **bootstrap)
        equal.append(compare.equal_compute(runs, params.preset))
        standings.append(compare.standings(runs, params.preset))
        against_full += [
            compare.differences_from_full(entry, rows[entry["policy"]], rows["full"], preset=params.preset, **bootstrap)
            for entry in entries
        ]
        log.info("%s, %s: %d runs, %d groups", runs.backbone, runs.dataset, len(entries), runs.groups)
    for name, frames in {"equal_compute": equal, "differences": against_full, "policies": standings}.items():
        records.write_csv(pd.concat(frames), snakemake.output[name])
