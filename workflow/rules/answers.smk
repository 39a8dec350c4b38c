"""Answers: a policy on one backbone and one dataset, on both splits. All settings of a run are rows of one job.

With `generation.shards` above 1 a job answers a part of the questions, and `join_shards` puts the parts together.
"""


include: "inputs/answers.smk"


SHARDS = EXPERIMENT.generation.shards
# How many answers are saved at a time, and by how many jobs they are given, are no params: they change no result.
ANSWERING = {
    **EXPERIMENT.generation.model_dump(exclude={"checkpoint_rows", "shards"}),
    "degeneration": EXPERIMENT.degeneration.model_dump(),
}
RUN = "{backbone}/{dataset}/{policy}"
ANSWERS = {split: f"{R}/runs/{RUN}/{split}.parquet" for split in ("calibration", "test")}
PART = RUN if SHARDS == 1 else f"{RUN}/shards/{{shard}}"


rule adapt:
    input:
        data=rules.fetch_dataset.output[0],
        manifest=rules.fetch_backbone.output[0],
        heads=trained("heads"),
        heads_manifest=trained("manifest"),
        full=f"{R}/runs/{{backbone}}/{{dataset}}/full/calibration.parquet",
        costs=rules.layer_costs.output[0],
        head_code=policy_code,
    output:
        f"{R}/adaptive/{RUN}.json",
    log:
        f"{R}/logs/adapt/{RUN}.log",
    benchmark:
        f"{R}/benchmarks/adapt/{RUN}.tsv"
    priority: 50
    conda:
        MODEL_ENV
    threads: EXPERIMENT.threads
    resources:
        **model_job(adapting_work),
    params:
        code=code("adapt"),
        policy=policy,
        exits=exits,
        max_new_tokens=max_new_tokens,
        overflow=EXPERIMENT.generation.prompt_overflow,
        runtime=torch_settings,
    script:
        "../scripts/adapt.py"


rule generate:
    input:
        data=rules.fetch_dataset.output[0],
        manifest=rules.fetch_backbone.output[0],
        heads=trained("heads"),
        heads_manifest=trained("manifest"),
        full=full_run,
        plan=plan,
        matched=matched_run,
        block_scores=block_scores,
        head_code=policy_code,
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
    threads: EXPERIMENT.threads
    resources:
        **model_job(generating_work),
    params:
        code=code("generate"),
        policy=policy,
        settings=settings,
        splits=splits,
        leaves_out_chosen=leaves_out_chosen,
        exits=exits,
        max_new_tokens=max_new_tokens,
        rules=ANSWERING,
        runtime=decode_settings,
    script:
        "../scripts/generate.py"


if SHARDS > 1:

    rule join_shards:
        input:
            calibration=shards("calibration"),
            test=shards("test"),
        output:
            **ANSWERS,
        log:
            f"{R}/logs/join_shards/{RUN}.log",
        benchmark:
            f"{R}/benchmarks/join_shards/{RUN}.tsv"
        conda:
            "../../envs/score.yaml"
        threads: 1
        params:
            code=code("join_shards"),
        script:
            "../scripts/join_shards.py"


# Seconds per token beside FLOPs per token, if `wallclock.examples` is set; timings are not the same twice.
rule measure_wallclock:
    input:
        data=rules.fetch_dataset.output[0],
        manifest=rules.fetch_backbone.output[0],
        heads=trained("heads"),
        heads_manifest=trained("manifest"),
        plan=plan,
        matched=matched_run,
        block_scores=block_scores,
        run=ANSWERS["test"],
        head_code=policy_code,
    output:
        f"{R}/runs/{RUN}/seconds.csv",
    log:
        f"{R}/logs/measure_wallclock/{RUN}.log",
    benchmark:
        f"{R}/benchmarks/measure_wallclock/{RUN}.tsv"
    conda:
        MODEL_ENV
    threads: whole_machine(EXPERIMENT.threads)
    resources:
        **model_job(timing_work),
    params:
        code=code("measure_wallclock"),
        policy=policy,
        settings=settings,
        exits=exits,
        timing=EXPERIMENT.wallclock.model_dump(),
        max_new_tokens=max_new_tokens,
        rules=ANSWERING,
        runtime=decode_settings,
    script:
        "../scripts/measure_wallclock.py"
