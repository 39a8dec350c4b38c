"""Rule pruned_blocks: the scores of all backbones' blocks, and which of them each policy leaves out."""

import pandas as pd

from early_exit.base import job, records
from early_exit.blocks import pruning
from early_exit.report import curves
from early_exit.report import pruning as pruning_figures

with job.logged(snakemake) as log:
    params, output = snakemake.params, snakemake.output
    scores = pd.concat(map(records.read_csv, snakemake.input.scores))
    blocks = [
        pruning.sets(params.policies, params.depths[backbone], table).assign(backbone=backbone)
        for backbone, table in scores.groupby("backbone", sort=False)
    ]
    tables = {"scores": scores, "blocks": pd.concat(blocks)[["backbone", *pruning.SETS]]}
    for name, table in tables.items():
        records.write_csv(table, output[name])
    curves.save(pruning_figures.blocks(tables["scores"], tables["blocks"]), output.svg, output.png)
    log.info("%d scores, %d sets of blocks", *map(len, tables.values()))
