"""Rule promise_figures: every figure of `params.plots`, as SVG and PNG."""

from functools import partial

from early_exit.base import job, records
from early_exit.report import curves as figures
from early_exit.report import promises

with job.logged(snakemake) as log:
    files = snakemake.input
    if snakemake.params.plots:
        table, results = records.read_csv(files.promise[0]), records.read_csv(files.results)
        curves = promises.curves(map(records.read_json, files.thresholds))
    for plot in snakemake.params.plots:
        draw = {
            "calibration": partial(promises.calibration, curves, results, plot["key"], plot["promise"]),
            "promise": partial(promises.promise, table, results, plot["key"], plot["promise"]),
            "transfer": partial(promises.transfer, table),
        }
        figures.save(draw[plot["kind"]](), plot["svg"], plot["png"])
        log.info("%s %s %s", plot["kind"], plot["key"], plot["promise"])
