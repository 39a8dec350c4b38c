"""Exit heads: training on text that is in no other split, and how good they are at their task."""


include: "inputs/heads.smk"


SEEDS = [EXPERIMENT.distillation.seed + k for k in range(EXPERIMENT.head_quality.seeds)]
MEASURED_HEADS = [{"backbone": backbone, "recipe": recipe} for backbone, recipe in runs.measured_heads(EXPERIMENT)]
RECIPES = {
    recipe: {head: EXPERIMENT.heads[head].kind for head in heads} for recipe, heads in EXPERIMENT.recipes.items()
}


rule train_heads:
    input:
        manifest=rules.fetch_backbone.output[0],
        corpus=rules.fetch_corpus.output[0],
        head_code=recipe_code,
    output:
        heads=f"{R}/heads/{{backbone}}/{{recipe}}/heads.safetensors",
        manifest=f"{R}/heads/{{backbone}}/{{recipe}}/manifest.json",
        training=f"{R}/heads/{{backbone}}/{{recipe}}/training.csv",
    log:
        f"{R}/logs/train_heads/{{backbone}}/{{recipe}}.log",
    benchmark:
        f"{R}/benchmarks/train_heads/{{backbone}}/{{recipe}}.tsv"
    priority: 100  # most runs wait for it
    conda:
        MODEL_ENV
    threads: EXPERIMENT.threads
    resources:
        **model_job(training_work),
    params:
        code=code("train_heads"),
        heads=recipe_heads,
        exits=exits,
        distillation=EXPERIMENT.distillation.settings(),
        max_tokens=EXPERIMENT.corpus.max_tokens,
        runtime=torch_settings,
    script:
        "../scripts/train_heads.py"


use rule train_heads as train_heads_seed with:
    output:
        heads=f"{R}/quality/{{backbone}}/{{recipe}}/{{seed}}/heads.safetensors",
        manifest=f"{R}/quality/{{backbone}}/{{recipe}}/{{seed}}/manifest.json",
        training=f"{R}/quality/{{backbone}}/{{recipe}}/{{seed}}/training.csv",
    log:
        f"{R}/logs/train_heads_seed/{{backbone}}/{{recipe}}/{{seed}}.log",
    benchmark:
        f"{R}/benchmarks/train_heads_seed/{{backbone}}/{{recipe}}/{{seed}}.tsv"
    params:
        distillation=seed_distillation,
        runtime=seed_settings,


rule measure_heads:
    input:
        manifest=rules.fetch_backbone.output[0],
        corpus=rules.fetch_corpus.output[0],
        heads=all_seeds("heads"),
        heads_manifests=all_seeds("manifest"),
        head_code=recipe_code,
    output:
        f"{R}/quality/{{backbone}}/{{recipe}}/confidences.parquet",
    log:
        f"{R}/logs/measure_heads/{{backbone}}/{{recipe}}.log",
    benchmark:
        f"{R}/benchmarks/measure_heads/{{backbone}}/{{recipe}}.tsv"
    conda:
        MODEL_ENV
    threads: EXPERIMENT.threads
    resources:
        **model_job(measuring_work),
    params:
        code=code("measure_heads"),
        heads=recipe_heads,
        exits=exits,
        label=EXPERIMENT.distillation.label,
        k=EXPERIMENT.distillation.k,
        batch_tokens=EXPERIMENT.distillation.batch_tokens,
        max_tokens=EXPERIMENT.corpus.max_tokens,
        runtime=torch_settings,
    script:
        "../scripts/measure_heads.py"


rule layer_costs:
    input:
        manifest=rules.fetch_backbone.output[0],
        head_code=user_files(EXPERIMENT.heads.values()),
        policy_code=user_files(EXPERIMENT.policies.values()),
    output:
        f"{R}/costs/{{backbone}}.json",
    log:
        f"{R}/logs/layer_costs/{{backbone}}.log",
    benchmark:
        f"{R}/benchmarks/layer_costs/{{backbone}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    params:
        code=code("layer_costs"),
        heads=designs(EXPERIMENT.heads),
        policies=sorted({one.kind for one in EXPERIMENT.policies.values() if user_code.is_external(one.kind)}),
    script:
        "../scripts/layer_costs.py"


rule head_tables:
    input:
        confidences=each(rules.measure_heads.output[0], MEASURED_HEADS),
        costs=each(
            rules.layer_costs.output,
            [{"backbone": name} for name in dict.fromkeys(head["backbone"] for head in MEASURED_HEADS)],
        ),
        disjoint=rules.check_disjoint.output[0],
    output:
        heads=report(
            f"{R}/tables/heads.csv",
            caption="../../report/heads.rst",
            category="3. Exit heads",
            labels={"table": "heads", "format": "csv"},
        ),
        differences=report(
            f"{R}/tables/head_differences.csv",
            caption="../../report/head_differences.rst",
            category="3. Exit heads",
            labels={"table": "head differences", "format": "csv"},
        ),
        reliability=f"{R}/tables/reliability.csv",
    log:
        f"{R}/logs/head_tables.log",
    benchmark:
        f"{R}/benchmarks/head_tables.tsv"
    conda:
        "../../envs/score.yaml"
    threads: 1
    params:
        code=code("head_tables"),
        measured=runs.measured_heads(EXPERIMENT),
        recipes=RECIPES,
        bootstrap=EXPERIMENT.bootstrap.model_dump(),
        seed=EXPERIMENT.seed,
    script:
        "../scripts/head_tables.py"
