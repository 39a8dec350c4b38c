"""Rules generate_calibration and generate: a policy's answers on one split, over its grid of thresholds."""

from pathlib import Path

from early_exit import ceiling, forced, generation, planning, records, runtime

with runtime.job(snakemake):
    params, files = snakemake.params, snakemake.input
    examples = records.read_table(files.data, records.EXAMPLES)
    thresholds = set(params.thresholds)
    if files.get("thresholds"):
        thresholds.add(records.read_json(files.thresholds)["threshold"])
    examples = examples[examples["split"] == params.split]
    if params.get("leaves_out_chosen"):  # what its thresholds were chosen on may not calibrate them
        examples = examples[~planning.chosen_on(examples, params.runtime["seed"])]
    manifest = records.read_json(files.manifest)
    options = {"max_new_tokens": params.max_new_tokens, "rules": params.rules, "settings": params.runtime}
    matched = records.read_table(files.matched, records.GENERATIONS) if files.get("matched") else None
    rates = None if matched is None else forced.exit_rates(matched, params.exits)
    if params.policy["kind"] == "oracle":
        full = records.read_table(files.full, records.GENERATIONS)
        answers = ceiling.run(manifest, examples, full, params.exits, **options)
    else:
        answers = generation.run(
            params.policy,
            manifest,
            examples,
            sorted(thresholds | set(rates or [])),
            job_mib=snakemake.resources.mem_mb,
            exits=params.exits,
            head_folder=Path(files.heads).parent if files.get("heads") else None,
            plan=records.read_json(files.plan) if files.get("plan") else None,
            rates=rates,
            **options,
        )
    records.write_table(answers, snakemake.output[0], records.GENERATIONS)
