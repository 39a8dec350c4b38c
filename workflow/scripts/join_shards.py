"""Rule join_shards: the answers of several jobs in one file, equal to the file that a single job would have written."""

from early_exit.base import job, records
from early_exit.data import shards

with job.logged(snakemake) as log:
    for split, path in snakemake.output.items():
        parts = [records.read_table(part, records.GENERATIONS) for part in snakemake.input[split]]
        joined = shards.join(parts)
        (metadata,) = {tuple(sorted(records.read_metadata(part).items())) for part in snakemake.input[split]}
        records.write_table(joined, path, records.GENERATIONS, dict(metadata))
        log.info("%s: %d answers of %d jobs", split, len(joined), len(parts))
