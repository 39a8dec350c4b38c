"""Rule figures: every figure of `params.figures`, as SVG and PNG."""

from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from early_exit.base import job, records
from early_exit.experiment.figures import Figure
from early_exit.report import figures, promises

with job.logged(snakemake) as log:
    files, params = snakemake.input, snakemake.params
    tables = {Path(path).stem: records.read_csv(path) for path in files.tables}
    tables["thresholds"] = promises.tested_thresholds(map(records.read_json, files.thresholds))
    with ProcessPoolExecutor(snakemake.threads) as pool:
        drawn = [
            pool.submit(figures.draw_files, Figure(**spec), tables, params.paper_policies, svg, png)
            for spec, svg, png in zip(params.figures, snakemake.output.svg, snakemake.output.png, strict=True)
        ]
        for one in job.progress(as_completed(drawn), len(drawn), "figures"):
            one.result()
