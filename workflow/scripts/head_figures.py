"""Rule head_figures: every figure of `params.plots`, as SVG and PNG."""

from functools import partial

from early_exit.base import job, records
from early_exit.report import curves
from early_exit.report import heads as head_figures

with job.logged(snakemake) as log:
    heads, differences, reliability = (
        records.read_csv(snakemake.input[name]) for name in ("heads", "differences", "reliability")
    )
    draw = {
        "reliability": partial(head_figures.reliability, reliability),
        "head_ranking": partial(head_figures.ranking, heads),
        "head_savings": partial(head_figures.savings, heads),
        "head_cost": partial(head_figures.cost, heads),
        "head_differences": partial(head_figures.differences, differences),
    }
    for plot in snakemake.params.plots:
        key = [plot["key"]] if plot["key"] else []
        curves.save(draw[plot["kind"]](*key), plot["svg"], plot["png"])
        log.info("%s %s", plot["kind"], plot["key"] or "")
