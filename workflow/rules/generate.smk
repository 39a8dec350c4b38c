"""Answers: a policy on one backbone and one dataset, on both splits. All settings of a run are rows of one job.

With `generation.shards` above 1 a job answers a part of the questions, and `join_shards` puts the parts together.
"""

# How many answers are kept at a time, and by how many jobs they are given, are no params: they change no result.
DECODING = {
    **{key: value for key, value in config["generation"].items() if key not in ("checkpoint_rows", "shards")},
    "degeneration": config["degeneration"],
}
RUN = "{backbone}/{dataset}/{policy}"
PART = RUN if SHARDS == 1 else f"{RUN}/shards/{{shard}}"


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
        head_code=head_code,
    output:
        calibration=f"{R}/runs/{PART}/calibration.parquet",
        test=f"{R}/runs/{PART}/test.parquet",
    log:
        f"{R}/logs/generate/{PART}.log",
    benchmark:
        f"{R}/benchmarks/generate/{PART}.tsv"
    priority: 50  # before short jobs, which else leave the last of these alone on the machine
    conda:
        MODEL_ENV
    threads: config["threads"]
    resources:
        gpu=GPUS,
        mem_mb=memory_of("generate"),
        runtime=time_of("generate"),
    params:
        code=code("generate"),
        policy=policy,
        grid=grid,
        splits=splits,
        leaves_out_chosen=leaves_out_chosen,
        exits=of("backbone", "exits"),
        max_new_tokens=of("dataset", "max_new_tokens"),
        rules=DECODING,
        runtime=decode_settings,
    script:
        "../scripts/generate.py"


if SHARDS > 1:

    rule join_shards:
        input:
            calibration=shards("calibration"),
            test=shards("test"),
        output:
            calibration=f"{R}/runs/{RUN}/calibration.parquet",
            test=f"{R}/runs/{RUN}/test.parquet",
        log:
            f"{R}/logs/join_shards/{RUN}.log",
        benchmark:
            f"{R}/benchmarks/join_shards/{RUN}.tsv"
        conda:
            "../../envs/score.yaml"
        threads: 1
        resources:
            mem_mb=each_try(4000),
            runtime=each_try(30),
        params:
            code=code("join_shards"),
        script:
            "../scripts/join_shards.py"
