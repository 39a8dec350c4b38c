"""Rule pretrain_tiny: the embedded default from its seed, data, tokenizer and both language models."""

from pathlib import Path

import torch

from early_exit.base import job
from tiny import files, pretrain, world

with job.logged(snakemake) as log:
    params = snakemake.params
    torch.set_num_threads(1)  # sums of another order would give other weights
    everything = world.World(params.world_seed)
    files.write(everything, Path(params.folder))
    tokenizer = pretrain.train_tokenizer(everything)
    for family, schedule in pretrain.SCHEDULES.items():
        log.info("%s: %s", family, schedule)
        pretrain.pretrain(family, everything, tokenizer, Path(params.folder, family), seed=params.seed, **schedule)
