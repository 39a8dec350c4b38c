"""Rule promise: how often calibrated thresholds keep what is promised of them, over splits of all questions."""

from early_exit.base import job, records
from early_exit.evaluation import promise
from early_exit.experiment.config.policies import parse
from early_exit.experiment.config.run import Promise

with job.logged(snakemake) as log:
    params = snakemake.params
    pairs = dict.fromkeys((run["backbone"], run["dataset"]) for run in params.settings)
    losses = {
        pair: records.read_table(path, records.LOSSES) for pair, path in zip(pairs, snakemake.input.losses, strict=True)
    }
    pools = list(
        promise.pooled_units(params.settings, losses, {name: parse(spec) for name, spec in params.policies.items()})
    )
    table = promise.observe(
        pools,
        {name: Promise(**terms) for name, terms in params.promises.items()},
        splits=params.splits,
        seed=params.seed,
    )
    records.write_csv(table, snakemake.output[0])
    log.info("%d policies, %d rows", len(pools), len(table))
