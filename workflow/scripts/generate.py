"""Rule generate: a policy's answers to the questions of its splits, over its grid of settings."""

from early_exit.base import job, records, resume
from early_exit.base.files import partial
from early_exit.base.journal import Journal
from early_exit.blocks import pruning
from early_exit.decoding import answer, job_inputs
from early_exit.experiment.config.policies import parse

with job.logged(snakemake) as log:
    params, files, output = snakemake.params, snakemake.input, snakemake.output
    examples = job_inputs.questions(params, files, snakemake.wildcards.get("shard"))
    of_this = {"device": job.device_name(params.runtime["device"]), "versions": job.versions()}
    fingerprint = resume.fingerprint(files, dict(params.items()) | of_this)
    rows = snakemake.config["generation"]["checkpoint_rows"]
    journals = {split: Journal(partial(path), fingerprint, rows) for split, path in output.items()}
    is_oracle, answerer, answers = parse(params.policy).kind == "oracle", None, {}
    for split in journals:
        these = examples[examples["split"] == split]
        if these.empty:
            answers[split] = answer.empty_answers()
        elif is_oracle:
            answers[split] = job_inputs.oracle_run(params, files, these)
        else:
            answerer = answerer or job_inputs.answerer(params, files, snakemake.resources.mem_mb)
            answers[split] = answer.run(answerer, these, journals[split])
        log.info("%s: %d answers", split, len(answers[split]))
    dropped = pruning.metadata(job_inputs.dropped(params, files))
    for split, path in output.items():  # all at the end: a second Snakemake in the folder may take earlier ones away
        records.write_table(answers[split], path, records.GENERATIONS, dropped)
