"""Rule promise_figures: every figure of `params.plots`, as SVG and PNG."""

from functools import partial

from early_exit import figures, promise_figures
from early_exit.base import job, records

with job.logged(snakemake) as log:
    files = snakemake.input
    if snakemake.params.plots:
        table, results = records.read_csv(files.promise[0]), records.read_csv(files.results)
        curves = promise_figures.curves(map(records.read_json, files.thresholds))
    for plot in snakemake.params.plots:
        draw = {
            "calibration": partial(promise_figures.calibration, curves, results, plot["key"], plot["promise"]),
            "promise": partial(promise_figures.promise, table, results, plot["key"], plot["promise"]),
            "transfer": partial(promise_figures.transfer, table),
        }
        figures.save(draw[plot["kind"]](), plot["svg"], plot["png"])
        log.info("%s %s %s", plot["kind"], plot["key"], plot["promise"])
