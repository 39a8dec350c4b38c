"""Answers: a policy on one backbone and one dataset, on both splits. All settings of a run are rows of one job.

With `generation.shards` above 1 a job answers a part of the questions, and `join_shards` puts the parts together.
"""

SHARDS = EXPERIMENT.generation.shards
# How many answers are saved at a time, and by how many jobs they are given, are no params: they change no result.
ANSWERING = {
    **EXPERIMENT.generation.model_dump(exclude={"checkpoint_rows", "shards"}),
    "degeneration": EXPERIMENT.degeneration.model_dump(),
}
RUN = "{backbone}/{dataset}/{policy}"
ANSWERS = {split: f"{R}/runs/{RUN}/{split}.parquet" for split in ("calibration", "test")}
PART = RUN if SHARDS == 1 else f"{RUN}/shards/{{shard}}"


def trained(part):
    """A function of wildcards: a file of the training of the policy's head; nothing for a policy without one."""

    def path(wildcards):
        if policy_of(wildcards).trained is None:
            return []
        recipe, _ = policy_of(wildcards).trained
        return fill(getattr(rules.train_heads.output, part), backbone=wildcards.backbone, recipe=recipe)

    return path


def policy_code(wildcards):
    """The files of a policy and of its head that are classes of the user's."""
    one = policy_of(wildcards)
    return user_files([one, *([EXPERIMENT.heads[one.trained[1]]] if one.trained else [])])


def settings(wildcards):
    """What a policy is run at."""
    return policy_of(wildcards).settings(exits(wildcards))


def splits(wildcards):
    return runs.splits(EXPERIMENT, run_of(wildcards))


def full_run(wildcards):
    """The full model's answers, from which the oracle tells where tokens could leave; nothing for other policies."""
    if policy_of(wildcards).kind != "oracle":
        return []
    return fill(ANSWERS["test"], **{**wildcards, "policy": "full"})


def plan(wildcards):
    """What an adaptive policy goes by; nothing for a policy that measures nothing."""
    return fill(rules.adapt.output[0], **wildcards) if policy_of(wildcards).is_planned else []


def matched_run(wildcards):
    """The run whose exits random ones are drawn from; nothing for other policies."""
    match = policy_of(wildcards).matched
    return fill(ANSWERS["test"], **{**wildcards, "policy": match}) if match else []


def block_scores(wildcards):
    """The scores by which a policy prunes; nothing for one that needs none."""
    pruned = runs.pruned_policies(EXPERIMENT).get(wildcards.policy)
    if pruned is None:
        return []
    return fill(rules.score_blocks.output[0], backbone=wildcards.backbone, measure=pruned.measure)


def leaves_out_chosen(wildcards):
    """Whether a calibration run leaves out the examples that the policy's thresholds were chosen on."""
    return policy_of(wildcards).fits_on_calibration


def shards(split):
    """A function of wildcards: the parts of a run's answers to one split."""

    def paths(wildcards):
        parts = [{**wildcards, "shard": f"{k}-of-{SHARDS}"} for k in range(SHARDS)]
        return each(getattr(rules.generate.output, split), parts)

    return paths


def adapting_work(wildcards):
    return work.adapt(EXPERIMENT, run_of(wildcards))


def generating_work(wildcards):
    return work.generate(EXPERIMENT, run_of(wildcards))


def timing_work(wildcards):
    return work.wallclock(EXPERIMENT, run_of(wildcards))


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
