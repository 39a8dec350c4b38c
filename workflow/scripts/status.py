"""Rule status: prints what of a run is done, running or missing."""

from early_exit.base import job
from early_exit.experiment import progress

with job.logged(snakemake):
    table = progress.table(snakemake.params.jobs, ".snakemake")
    table.loc[len(table)] = ["in all", *table[["done", "running", "missing"]].sum()]
    print(table.to_string(index=False))
