"""Rule estimate: prints what a whole run takes: jobs, hours, disk, and how these were reached."""

from early_exit import runtime

with runtime.job(snakemake):
    print("\n".join(snakemake.params.lines))
