"""Rule pruned_blocks: the scores of all backbones' blocks, and which of them each policy drops."""

import pandas as pd

from early_exit.base import job, records
from early_exit.blocks import pruning

with job.logged(snakemake) as log:
    params, output = snakemake.params, snakemake.output
    scores = pd.concat(map(records.read_csv, snakemake.input.scores))
    blocks = pd.concat(
        pruning.drop_table(params.policies, params.depths[backbone], table).assign(backbone=backbone)
        for backbone, table in scores.groupby("backbone", sort=False)
    )
    records.write_csv(scores, output.scores)
    records.write_csv(blocks[["backbone", *pruning.DROP_COLUMNS]], output.blocks)
    log.info("%d scores, %d sets of blocks", len(scores), len(blocks))
