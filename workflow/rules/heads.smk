"""How good heads are at their task: further trainings, from other seeds, and what all of them say of held-out text."""


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
        manifest=f"{R}/backbones/{{backbone}}.json",
        corpus=f"{R}/data/corpus.parquet",
        heads=all_seeds("heads.safetensors"),
        heads_manifests=all_seeds("manifest.json"),
        head_code=head_code,
    output:
        f"{R}/quality/{{backbone}}/{{recipe}}/confidences.parquet",
    log:
        f"{R}/logs/measure_heads/{{backbone}}/{{recipe}}.log",
    benchmark:
        f"{R}/benchmarks/measure_heads/{{backbone}}/{{recipe}}.tsv"
    conda:
        MODEL_ENV
    threads: config["threads"]
    resources:
        gpu=GPUS,
        mem_mb=memory_of("measure_heads"),
        runtime=time_of("measure_heads"),
    params:
        code=code("measure_heads"),
        heads=recipe_heads,
        exits=of("backbone", "exits"),
        label=config["distillation"]["label"],
        k=config["distillation"]["k"],
        batch_tokens=config["distillation"]["batch_tokens"],
        max_tokens=config["corpus"]["max_tokens"],
        runtime=torch_settings,
    script:
        "../scripts/measure_heads.py"
