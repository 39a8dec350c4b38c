"""Rule calibrate: the thresholds that keep each promise, for every policy on one dataset of one backbone."""

from pathlib import Path

import pandas as pd

from early_exit.base import job, records
from early_exit.costs import passes
from early_exit.evaluation import calibrate, risks, scoring
from early_exit.experiment.config.policies import parse
from early_exit.experiment.config.run import Promise

with job.logged(snakemake) as log:
    params, files = snakemake.params, snakemake.input
    examples = records.read_table(files.data, records.EXAMPLES)
    runs = {Path(path).parent.name: records.read_table(path, records.GENERATIONS) for path in files.runs}
    scored = {
        policy: scoring.score_run(run, runs["full"], examples, kind=params.kind, rules=params.rules)
        for policy, run in runs.items()
    }
    table, losses = records.read_json(files.costs), {}
    for policy, run in runs.items():
        answers = {name: run[name] for name in ("prompt_tokens", "exit_blocks")}
        work = pd.DataFrame(passes.generation_flops(table, **answers, **params.prices[policy]))
        losses[policy] = risks.answer_losses(scored[policy], scored["full"], params.kind).join(work[list(risks.WORK)])
    chosen, promises = {}, {name: Promise(**terms) for name, terms in params.promises.items()}
    for policy, spec in params.policies.items():
        order = parse(spec).safest_first(losses[policy]["setting"].unique())
        sample = risks.unit_losses(losses[policy], order, params.kind)
        chosen[policy] = {name: calibrate.calibrate(sample, promise) for name, promise in promises.items()}
        log.info("%s: %s", policy, {name: one["threshold"] for name, one in chosen[policy].items()})
    names = {"backbone": snakemake.wildcards.backbone, "dataset": snakemake.wildcards.dataset}
    thresholds = {**names, "answers": len(runs["full"]), "policies": chosen}
    records.write_json(thresholds, snakemake.output.thresholds, schema=files.schema)
    rows = pd.concat([frame.assign(policy=policy) for policy, frame in losses.items()], ignore_index=True)
    records.write_table(rows, snakemake.output.losses, records.LOSSES)
