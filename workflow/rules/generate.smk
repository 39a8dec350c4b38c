"""Answers: a policy on one backbone and one dataset. All thresholds of a run are rows of one job."""

# How many answers are kept at a time is no param: it changes no result.
GENERATION = {key: value for key, value in config["generation"].items() if key != "checkpoint_rows"}
DECODING = {**GENERATION, "degeneration": config["degeneration"]}


rule generate_calibration:
    input:
        data=f"{R}/data/{{dataset}}.parquet",
        manifest=f"{R}/backbones/{{backbone}}.json",
        heads=trained("heads.safetensors"),
        heads_manifest=trained("manifest.json"),
        plan=plan,
        code=code("generate"),
        head_code=head_code,
    output:
        f"{R}/runs/{{backbone}}/{{dataset}}/{{policy}}/calibration.parquet",
    log:
        f"{R}/logs/generate_calibration/{{backbone}}/{{dataset}}/{{policy}}.log",
    benchmark:
        f"{R}/benchmarks/generate_calibration/{{backbone}}/{{dataset}}/{{policy}}.tsv"
    conda:
        MODEL_ENV
    threads: config["threads"]
    resources:
        gpu=GPUS,
        mem_mb=memory_of("generate_calibration"),
        runtime=time_of("generate_calibration"),
    params:
        policy=policy,
        thresholds=grid,
        split="calibration",
        exits=of("backbone", "exits"),
        leaves_out_chosen=leaves_out_chosen,
        max_new_tokens=of("dataset", "max_new_tokens"),
        rules=DECODING,
        runtime=decode_settings,
    script:
        "../scripts/generate.py"


rule generate:
    input:
        data=f"{R}/data/{{dataset}}.parquet",
        manifest=f"{R}/backbones/{{backbone}}.json",
        heads=trained("heads.safetensors"),
        heads_manifest=trained("manifest.json"),
        full=full_run,
        plan=plan,
        matched=matched_run,
        block_scores=block_scores,
        code=code("generate"),
        head_code=head_code,
    output:
        f"{R}/runs/{{backbone}}/{{dataset}}/{{policy}}/test.parquet",
    log:
        f"{R}/logs/generate/{{backbone}}/{{dataset}}/{{policy}}.log",
    benchmark:
        f"{R}/benchmarks/generate/{{backbone}}/{{dataset}}/{{policy}}.tsv"
    conda:
        MODEL_ENV
    threads: config["threads"]
    resources:
        gpu=GPUS,
        mem_mb=memory_of("generate"),
        runtime=time_of("generate"),
    params:
        policy=policy,
        thresholds=grid,
        split="test",
        exits=of("backbone", "exits"),
        max_new_tokens=of("dataset", "max_new_tokens"),
        rules=DECODING,
        runtime=decode_settings,
    script:
        "../scripts/generate.py"
