"""Rules generate_calibration and generate: a policy's answers on one split, over its grid of thresholds."""

from pathlib import Path

from early_exit import ceiling, checkpoints, forced, generation, planning, pruning, records, runtime
from early_exit.journal import Journal

with runtime.job(snakemake):
    params, files = snakemake.params, snakemake.input
    examples = records.read_table(files.data, records.EXAMPLES)
    examples = examples[examples["split"] == params.split]
    if params.get("leaves_out_chosen"):  # what its thresholds were chosen on may not calibrate them
        examples = examples[~planning.chosen_on(examples, params.runtime["seed"])]
    manifest = records.read_json(files.manifest)
    dropped = pruning.read(params.policy, manifest["depth"], files.get("block_scores"))
    options = {"max_new_tokens": params.max_new_tokens, "rules": params.rules, "settings": params.runtime}
    of_this = dict(params.items()) | {"versions": runtime.versions()}
    rows = snakemake.config["generation"]["checkpoint_rows"]
    partial = Path(snakemake.output[0]).with_suffix(".partial")
    journal = Journal(partial, checkpoints.fingerprint(files, of_this), rows)
    if params.policy["kind"] == "oracle":
        full = records.read_table(files.full, records.GENERATIONS)
        answers = ceiling.run(manifest, examples, full, params.exits, **options)
    else:
        options |= {"exits": params.exits, "job_mib": snakemake.resources.mem_mb, "journal": journal}
        options |= {"dropped": dropped}
        options |= {"head_folder": Path(files.heads).parent} if files.get("heads") else {}
        options |= {"plan": records.read_json(files.plan)} if files.get("plan") else {}
        if files.get("matched"):
            matched = records.read_table(files.matched, records.GENERATIONS)
            options["rates"] = forced.exit_rates(matched, params.exits)
        thresholds = params.thresholds or sorted(options["rates"])  # what matches a run has its settings
        answers = generation.run(params.policy, manifest, examples, thresholds, **options)
    records.write_table(answers, snakemake.output[0], records.GENERATIONS, pruning.metadata(dropped))
    journal.remove()
