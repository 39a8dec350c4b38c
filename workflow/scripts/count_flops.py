"""Rule count_flops: the FLOPs of every answer of one run, and of the full model on the same tokens."""

import pandas as pd

from early_exit.base import job
from early_exit.base.records import FLOPS, GENERATIONS, read_json, read_table, write_table
from early_exit.costs.passes import generation_flops
from early_exit.costs.speculation import round_flops
from early_exit.experiment.config import policies

with job.logged(snakemake) as log:
    params = snakemake.params
    policy = policies.parse(params.policy)
    table = read_json(snakemake.input.costs)
    run = read_table(snakemake.input.run, GENERATIONS)
    # A pruned run's setting is the number of blocks dropped; whether the prompt's pass had them is in the record.
    decode_blocks = table["depth"] - run["setting"].astype(int) if policy.kind == "pruned" else None
    counted = generation_flops(
        table,
        prompt_tokens=run["prompt_tokens"],
        exit_blocks=run["exit_blocks"],
        prompt_blocks=run["exit_blocks"].str[0],
        decode_blocks=decode_blocks,
        **policy.price(params.exits),
    )
    if policy.kind == "self-speculative":
        counted |= round_flops(table, counted, **run[["prompt_tokens", "drafted", "accepted"]])
    rows = pd.DataFrame({"example_id": run["example_id"], "setting": run["setting"], **counted})
    write_table(rows, snakemake.output[0], FLOPS)
    for setting, same in rows.groupby("setting"):
        saved = 1 - same["flops"].sum() / max(same["flops_full"].sum(), 1)
        log.info("setting %g: %d rows, %.1f %% of the decode FLOPs saved", setting, len(same), 100 * saved)
