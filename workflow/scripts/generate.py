"""Rules generate_calibration and generate: a policy's answers on one split, over its grid of thresholds."""

from pathlib import Path

from early_exit import ceiling, checkpoints, generation, pruning, records, runtime
from early_exit.journal import Journal

with runtime.job(snakemake):
    params, files = snakemake.params, snakemake.input
    examples = records.read_table(files.data, records.EXAMPLES)
    examples = examples[examples["split"] == params.split]
    manifest = records.read_json(files.manifest)
    dropped = pruning.read(params.policy, manifest["depth"], files.get("block_scores"))
    options = {"max_new_tokens": params.max_new_tokens, "rules": params.rules, "settings": params.runtime}
    of_this = dict(params.items()) | {"versions": runtime.versions()}
    journal = Journal(
        Path(snakemake.output[0]).with_suffix(".partial"),
        checkpoints.fingerprint(files, of_this),
        snakemake.config["generation"]["checkpoint_rows"],
    )
    if params.policy["kind"] == "oracle":
        full = records.read_table(files.full, records.GENERATIONS)
        answers = ceiling.run(manifest, examples, full, params.exits, **options)
    else:
        answers = generation.run(
            params.policy,
            manifest,
            examples,
            params.thresholds,
            job_mib=snakemake.resources.mem_mb,
            head_folder=Path(files.heads).parent if files.get("heads") else None,
            exits=params.exits,
            dropped=dropped,
            journal=journal,
            **options,
        )
    records.write_table(answers, snakemake.output[0], records.GENERATIONS, pruning.metadata(dropped))
    journal.remove()
