"""Rule pretrain_tiny: the data and both language models of the tiny preset, from seeds."""

from pathlib import Path

import torch

from early_exit.base import job
from tiny import files, pretrain, world

with job.logged(snakemake) as log:
    params, folder = snakemake.params, Path(snakemake.output[0])
    torch.set_num_threads(1)  # another order of summation would give other weights
    everything = world.World(params.world_seed)
    files.write(everything, folder)
    tokenizer = pretrain.train_tokenizer(everything)
    for family, schedule in pretrain.SCHEDULES.items():
        log.info("%s: %s", family, schedule)
        pretrain.pretrain(family, everything, tokenizer, folder / family, schedule, params.seed)
