"""Rule figures: every figure of `params.plots`, as SVG and PNG."""

from functools import partial

from early_exit.base import job, records
from early_exit.report import curves, equal_compute, policies

with job.logged(snakemake) as log:
    results, exits, training, settle, compared = (
        records.read_csv(snakemake.input[name]) for name in ("results", "exits", "training", "settle", "equal_compute")
    )
    standings = records.read_csv(snakemake.input.policies)
    # Curves of the paper's policies; all that there are stand side by side in a figure of their own.
    plain, plain_exits = (frame[frame["policy"].isin(snakemake.params.plain)] for frame in (results, exits))
    draw = {
        "policies": partial(policies.policies, standings),
        "quality": partial(curves.quality, plain),
        "equal_compute": partial(equal_compute.equal_compute, compared, results),
        "exits": partial(curves.exits, plain_exits),
        "training": partial(curves.training, training),
        "settle": partial(curves.settle, settle, training.groupby("backbone")["exit"].unique().to_dict()),
    }
    for plot in snakemake.params.plots:
        key = [plot["key"]] if plot["key"] else []
        curves.save(draw[plot["kind"]](*key), plot["svg"], plot["png"])
        log.info("%s %s", plot["kind"], plot["key"] or "")
