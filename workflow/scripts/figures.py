"""Rule figures: every figure of `params.plots`, as SVG and PNG."""

from functools import partial

import pandas as pd

from early_exit import figures, forest, runtime

with runtime.job(snakemake) as log:
    results, exits, training, settle, compared = (
        pd.read_csv(snakemake.input[name]) for name in ("results", "exits", "training", "settle", "equal_compute")
    )
    draw = {
        "quality": partial(figures.quality, results),
        "equal_compute": partial(forest.equal_compute, compared, results),
        "exits": partial(figures.exits, exits),
        "training": partial(figures.training, training),
        "settle": partial(figures.settle, settle, training.groupby("backbone")["exit"].unique().to_dict()),
    }
    for plot in snakemake.params.plots:
        key = [plot["key"]] if plot["key"] else []
        figures.save(draw[plot["kind"]](*key), plot["svg"], plot["png"])
        log.info("%s %s", plot["kind"], plot["key"] or "")
