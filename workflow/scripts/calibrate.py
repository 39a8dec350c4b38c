"""Rule calibrate: the thresholds that keep each promise, for every policy on one dataset of one backbone."""

from early_exit.base import job, records
from early_exit.evaluation import calibrate, evaluate, risks
from early_exit.experiment.config.policies import parse
from early_exit.experiment.config.run import Promise

with job.logged(snakemake) as log:
    params, files = snakemake.params, snakemake.input
    policies = {name: parse(values) for name, values in params.policies.items()}
    answers = records.read_answers(files.answers)
    rows = evaluate.evaluate(
        answers[answers["policy"].isin(policies)].reset_index(drop=True),
        records.read_table(files.data, records.EXAMPLES),
        policies,
        evaluate.Yardstick(params.kind, params.rules, records.read_json(files.costs), params.exits),
    )
    losses = risks.answer_losses(rows, rows[rows["policy"] == "full"], params.kind)
    chosen, promises = {}, {name: Promise(**terms) for name, terms in params.promises.items()}
    for name, policy in policies.items():
        if not policy.is_calibrated:
            continue
        of_policy = losses[losses["policy"] == name]
        sample = risks.unit_losses(of_policy, policy.safest_first(of_policy["setting"].unique()), params.kind)
        chosen[name] = {promise: calibrate.calibrate(sample, terms) for promise, terms in promises.items()}
        log.info("%s: %s", name, {promise: one["threshold"] for promise, one in chosen[name].items()})
    names = {"backbone": snakemake.wildcards.backbone, "dataset": snakemake.wildcards.dataset}
    thresholds = {**names, "answers": int((rows["policy"] == "full").sum()), "policies": chosen}
    records.write_json(thresholds, snakemake.output.thresholds, schema=files.schema)
    records.write_table(losses, snakemake.output.losses, records.LOSSES)
