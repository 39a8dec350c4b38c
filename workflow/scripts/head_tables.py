"""Rule head_tables: how good every head is at every exit, heads against each other, and their reliability."""

from pathlib import Path

from early_exit.base import job, records
from early_exit.evaluation import head_tables

with job.logged(snakemake) as log:
    params = snakemake.params
    sampling = {"seed": params.seed, "resamples": params.bootstrap["resamples"]}
    costs = {Path(path).stem: records.read_json(path) for path in snakemake.input.costs}
    measured = []
    for path, (backbone, recipe) in zip(snakemake.input.confidences, params.measured, strict=True):
        kinds = params.recipes[recipe]
        rows = records.read_table(path, records.confidences_schema(kinds))
        measured += head_tables.heads_of_recipe(rows, backbone, recipe, kinds, costs[backbone], params.seed)
    progress = job.progress(measured, len(measured), "heads")
    by_head = [head_tables.statistics(head, **sampling) for head in progress]
    tables = {
        "heads": head_tables.heads(measured, by_head, **sampling),
        "differences": head_tables.differences(measured, by_head, params.seed),
        "reliability": head_tables.reliability(measured),
    }
    for name, table in tables.items():
        records.write_csv(table, snakemake.output[name])
    log.info("%d heads, %d rows", len(measured), len(tables["heads"]))
