"""Answers: a backbone answers all questions of a dataset, first the full model, then all other policies in one job.

A job divides into shards by `generation.shards`: `{shard}` is `-k-of-n` then, else empty. What has been answered once
is kept in `kept/` and not computed again (see `base.kept_answers`), whatever re-runs a job.
"""


include: "inputs/answers.smk"


# How many answers are saved at a time, and by how many jobs they are given, are no params: they change no result.
ANSWERING = {
    **EXPERIMENT.generation.model_dump(include={"prompt_overflow", "repetition_penalty"}),
    "degeneration": EXPERIMENT.degeneration.model_dump(),
}
PAIR = "{backbone}/{dataset}"
ANSWERS = f"{R}/answers/{PAIR}"


rule answer_full:
    input:
        data=rules.fetch_dataset.output[0],
        manifest=rules.fetch_backbone.output[0],
    output:
        calibration=f"{ANSWERS}/full{{shard}}/calibration.parquet",
        test=f"{ANSWERS}/full{{shard}}/test.parquet",
    log:
        f"{R}/logs/answer_full/{PAIR}{{shard}}.log",
    benchmark:
        f"{R}/benchmarks/answer_full/{PAIR}{{shard}}.tsv"
    priority: 70  # the other policies' plans wait for it
    conda:
        MODEL_ENV
    threads: EXPERIMENT.threads
    resources:
        **model_job(answering_work("full")),
    params:
        code=code("answer"),
        kept=kept("full"),
        policies=policies("full"),
        splits=splits("full"),
        exits=exits,
        max_new_tokens=max_new_tokens,
        rules=ANSWERING,
        runtime=decode_settings,
    script:
        "../scripts/answer.py"


rule adapt:
    input:
        data=rules.fetch_dataset.output[0],
        manifest=rules.fetch_backbone.output[0],
        heads=trained("heads", "planned"),
        heads_manifest=trained("manifest", "planned"),
        full=answers("full", "calibration"),
        costs=rules.layer_costs.output[0],
        head_code=policy_code("planned"),
    output:
        f"{R}/adaptive/{PAIR}.json",
    log:
        f"{R}/logs/adapt/{PAIR}.log",
    benchmark:
        f"{R}/benchmarks/adapt/{PAIR}.tsv"
    priority: 60  # the other policies wait for it
    conda:
        MODEL_ENV
    threads: EXPERIMENT.threads
    resources:
        **model_job(adapting_work),
    params:
        code=code("adapt"),
        policies=policies("planned"),
        exits=exits,
        max_new_tokens=max_new_tokens,
        overflow=EXPERIMENT.generation.prompt_overflow,
        runtime=torch_settings,
    script:
        "../scripts/adapt.py"


use rule answer_full as answer with:
    input:
        data=rules.fetch_dataset.output[0],
        manifest=rules.fetch_backbone.output[0],
        heads=trained("heads", "exits"),
        heads_manifest=trained("manifest", "exits"),
        plan=plan,
        block_scores=block_scores,
        head_code=policy_code("exits"),
    output:
        calibration=f"{ANSWERS}/exits{{shard}}/calibration.parquet",
        test=f"{ANSWERS}/exits{{shard}}/test.parquet",
    log:
        f"{R}/logs/answer/{PAIR}{{shard}}.log",
    benchmark:
        f"{R}/benchmarks/answer/{PAIR}{{shard}}.tsv"
    priority: 50  # before short jobs, which else leave the last of these alone on the machine
    resources:
        **model_job(answering_work("exits")),
    params:
        kept=kept("exits"),
        policies=policies("exits"),
        splits=splits("exits"),


# Policies that leave as often as others do, which they must know from all of the others' answers.
use rule answer as answer_matched with:
    input:
        data=rules.fetch_dataset.output[0],
        manifest=rules.fetch_backbone.output[0],
        matched=answers("exits", "test"),
    output:
        calibration=f"{ANSWERS}/matched{{shard}}/calibration.parquet",
        test=f"{ANSWERS}/matched{{shard}}/test.parquet",
    log:
        f"{R}/logs/answer_matched/{PAIR}{{shard}}.log",
    benchmark:
        f"{R}/benchmarks/answer_matched/{PAIR}{{shard}}.tsv"
    resources:
        **model_job(answering_work("matched")),
    params:
        kept=kept("matched"),
        policies=policies("matched"),
        splits=splits("matched"),


# Seconds per token beside FLOPs per token, if `wallclock.examples` is set; timings are not the same twice.
rule measure_wallclock:
    input:
        data=rules.fetch_dataset.output[0],
        manifest=rules.fetch_backbone.output[0],
        heads=trained("heads", "timed"),
        heads_manifest=trained("manifest", "timed"),
        plan=plan,
        matched=answers("exits", "test"),
        block_scores=block_scores,
        head_code=policy_code("timed"),
    output:
        f"{R}/seconds/{PAIR}.csv",
    log:
        f"{R}/logs/measure_wallclock/{PAIR}.log",
    benchmark:
        f"{R}/benchmarks/measure_wallclock/{PAIR}.tsv"
    conda:
        MODEL_ENV
    threads: whole_machine(EXPERIMENT.threads)
    resources:
        **model_job(timing_work),
    params:
        code=code("measure_wallclock"),
        policies=policies("timed"),
        splits=splits("timed"),
        exits=exits,
        timing=EXPERIMENT.wallclock.model_dump(),
        max_new_tokens=max_new_tokens,
        rules=ANSWERING,
        runtime=decode_settings,
    script:
        "../scripts/measure_wallclock.py"
