"""Rules generate_calibration and generate: a policy's answers on one split, over its grid of thresholds."""

from pathlib import Path

from early_exit import generation, records, runtime

with runtime.job(snakemake):
    params, files = snakemake.params, snakemake.input
    examples = records.read_table(files.data, records.EXAMPLES)
    thresholds = set(params.thresholds)
    if files.get("thresholds"):
        thresholds.add(records.read_json(files.thresholds)["threshold"])
    answers = generation.run(
        params.policy,
        records.read_json(files.manifest),
        examples[examples["split"] == params.split],
        sorted(thresholds),
        max_new_tokens=params.max_new_tokens,
        rules=params.rules,
        settings=params.runtime,
        job_mib=snakemake.resources.mem_mb,
        head_folder=Path(files.heads).parent if files.get("heads") else None,
    )
    records.write_table(answers, snakemake.output[0], records.GENERATIONS)
