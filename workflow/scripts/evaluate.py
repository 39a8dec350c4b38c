"""Rule evaluate: scores, agreement with the full model, and FLOPs of all answers to a dataset's test questions."""

from early_exit.base import job, records
from early_exit.evaluation import evaluate
from early_exit.evaluation.metrics import VERSION
from early_exit.experiment.config.policies import parse

with job.logged(snakemake) as log:
    params, files = snakemake.params, snakemake.input
    answers = records.read_answers(files.answers)
    rows = evaluate.evaluate(
        answers,
        records.read_table(files.data, records.EXAMPLES),
        {name: parse(values) for name, values in params.policies.items()},
        evaluate.Yardstick(params.kind, params.rules, records.read_json(files.costs), params.exits),
    )
    how = {"rules": params.rules, "score_version": VERSION[params.kind], **records.read_metadata(files.data)}
    records.write_table(rows, snakemake.output[0], records.evaluated_schema(params.kind), how)
    log.info("%d answers scored by the %s rules, version %d", len(rows), params.rules, VERSION[params.kind])
    for (policy, setting), same in rows.groupby(["policy", "setting"]):
        saved = 1 - same["flops"].sum() / max(same["flops_full"].sum(), 1)
        log.info("%s at %g: %d answers, %.1f %% of the decode FLOPs saved", policy, setting, len(same), 100 * saved)
