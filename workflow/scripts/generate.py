"""Rule generate: a policy's answers to the questions of its splits, over its grid of thresholds."""

from early_exit import ceiling, checkpoints, generation, job_inputs, pruning, records, runtime
from early_exit.files import kept
from early_exit.journal import Journal

with runtime.job(snakemake) as log:
    params, files, output = snakemake.params, snakemake.input, snakemake.output
    examples = job_inputs.questions(params, files, snakemake.wildcards.get("shard"))
    fingerprint = checkpoints.fingerprint(files, dict(params.items()) | {"versions": runtime.versions()})
    rows = snakemake.config["generation"]["checkpoint_rows"]
    journals = {split: Journal(kept(path), fingerprint, rows) for split, path in output.items()}
    is_oracle, answerer = params.policy["kind"] == "oracle", None
    for split, path in output.items():
        asked = examples[examples["split"] == split]
        if asked.empty:
            answers = generation.none()
        elif is_oracle:
            full = records.read_table(files.full, records.GENERATIONS)
            options = {"max_new_tokens": params.max_new_tokens, "rules": params.rules, "settings": params.runtime}
            answers = ceiling.run(records.read_json(files.manifest), asked, full, params.exits, **options)
        else:
            answerer = answerer or job_inputs.answerer(params, files, snakemake.resources.mem_mb)
            answers = generation.run(answerer, asked, journals[split])
        records.write_table(answers, path, records.GENERATIONS, pruning.metadata(job_inputs.dropped(params, files)))
        log.info("%s: %d answers", split, len(answers))
