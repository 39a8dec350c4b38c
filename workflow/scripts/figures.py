"""Rule figures: every figure of `params.figures`, as SVG and PNG."""

from pathlib import Path

from early_exit.base import job, records
from early_exit.experiment.figures import Figure
from early_exit.report import figures, promises, style

with job.logged(snakemake) as log:
    files, params = snakemake.input, snakemake.params
    tables = {Path(path).stem: records.read_csv(path) for path in files.tables}
    tables["thresholds"] = promises.tested_thresholds(map(records.read_json, files.thresholds))
    for spec, svg, png in zip(params.figures, snakemake.output.svg, snakemake.output.png, strict=True):
        figure = Figure(**spec)
        style.save(figures.draw(figure, tables, params.paper_policies), svg, png)
        log.info("%s", figure.name)
