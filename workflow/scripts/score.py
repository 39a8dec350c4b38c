"""Rule score: one run's answers compared with the references and with the full model's answers."""

from early_exit.base import job, records
from early_exit.evaluation.metrics import VERSION
from early_exit.evaluation.scoring import score_run

with job.logged(snakemake) as log:
    kind, rules = snakemake.params.kind, snakemake.params.rules
    scores = score_run(
        records.read_table(snakemake.input.run, records.GENERATIONS),
        records.read_table(snakemake.input.full, records.GENERATIONS),
        records.read_table(snakemake.input.data, records.EXAMPLES),
        kind=kind,
        rules=rules,
    )
    how = {"rules": rules, "score_version": VERSION[kind], **records.read_metadata(snakemake.input.data)}
    records.write_table(scores, snakemake.output[0], records.scores_schema(kind), how)
    log.info("%d answers scored by the %s rules, version %d", len(scores), rules, VERSION[kind])
