"""Rule measure_wallclock: seconds per generated token of one run's settings, on the first test examples."""

from pathlib import Path

from early_exit import forced, generation, pruning, records, runtime, speed, wallclock

with runtime.job(snakemake) as log:
    params, files = snakemake.params, snakemake.input
    examples = (
        records.read_table(files.data, records.EXAMPLES).query("split == 'test'").head(params.settings["examples"])
    )
    run = records.read_table(files.run, records.GENERATIONS)
    thresholds = sorted(set(run["threshold"]))
    manifest = records.read_json(files.manifest)
    answerer = generation.Answerer(
        params.policy,
        manifest,
        thresholds,
        stop_strings=examples["stop_strings"].iloc[0],
        max_new_tokens=params.max_new_tokens,
        rules=params.rules,
        settings=params.runtime,
        job_mib=snakemake.resources.mem_mb,
        exits=params.exits,
        dropped=pruning.read(params.policy, manifest["depth"], files.get("block_scores")),
        head_folder=Path(files.heads).parent if files.get("heads") else None,
        plan=records.read_json(files.plan) if files.get("plan") else None,
        rates=forced.exit_rates(run, params.exits) if params.policy["kind"] == "random" else None,
    )
    probe = speed.Probe(answerer.backbone.device)
    measured = wallclock.measure(answerer, examples, thresholds, repeats=params.settings["repeats"], probe=probe)
    records.write_csv(measured, snakemake.output[0], "%.6g")
    for row in measured.to_dict("records"):
        log.info("threshold %(threshold)g: %(seconds_per_token).5f s a token", row)
