"""Rule claims: the paper's claims, each with its effect and verdict, as a table and as a page."""

from pathlib import Path

import pandas as pd

from early_exit.base import files, job, records
from early_exit.evaluation import claims, resampled
from early_exit.report import claims_page

with job.logged(snakemake) as log:
    params = snakemake.params
    resamples = params.bootstrap["resamples"]
    costs = {Path(path).stem: records.read_json(path) for path in snakemake.input.costs}
    cells = [
        resampled.resample(entries, rows, params.policies, params.heads, seed=params.seed, resamples=resamples)
        for entries, rows in resampled.read_by_dataset(params.settings)
    ]
    table = claims.test(cells, costs, experiment=params.name, preset=params.preset)
    # An omitted section leaves no file. The second paper's claims are adjusted for their number apart.
    table = pd.concat([table, *map(records.read_csv, snakemake.input.get("second_paper") or ())], ignore_index=True)
    records.write_csv(table, snakemake.output.table)
    page = claims_page.page(table, experiment=params.name, preset=params.preset, resamples=resamples)
    with files.whole_file(snakemake.output.html) as path:
        path.write_text(page, encoding="utf-8")
    for row in table[table["dataset"] == claims.POOLED].itertuples():
        log.info("%s, %s, %s: %s", row.claim, row.family, row.metric, row.verdict)
