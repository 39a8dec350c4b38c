"""Exit heads, and where they would pay: training, on text that is in no other split, and the block at which a backbone's
predictions settle."""


# No table is made before this passes. It goes before all else, so that a run that cannot pass ends before it trains.
# As an input of the training it would train all heads again for each new dataset; and `ancient` would not do: Snakemake
# takes all jobs behind it as looked at, also those whose own params have changed.
rule check_disjoint:
    input:
        corpus=f"{R}/data/corpus.parquet",
        datasets=expand(f"{R}/data/{{dataset}}.parquet", dataset=config["datasets"]),
    output:
        f"{R}/data/disjoint.json",
    log:
        f"{R}/logs/check_disjoint.log",
    benchmark:
        f"{R}/benchmarks/check_disjoint.tsv"
    priority: 100
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=each_try(4000),
        runtime=each_try(60),
    params:
        code=code("check_disjoint"),
    script:
        "../scripts/check_disjoint.py"


rule train_heads:
    input:
        manifest=f"{R}/backbones/{{backbone}}.json",
        corpus=f"{R}/data/corpus.parquet",
        head_code=head_code,
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
    threads: config["threads"]
    resources:
        gpu=GPUS,
        mem_mb=memory_of("train_heads"),
        runtime=time_of("train_heads"),
    params:
        code=code("train_heads"),
        heads=recipe_heads,
        exits=of("backbone", "exits"),
        distillation=DISTILLATION,
        max_tokens=config["corpus"]["max_tokens"],
        runtime=torch_settings,
    script:
        "../scripts/train_heads.py"


rule settle:
    input:
        manifest=f"{R}/backbones/{{backbone}}.json",
        corpus=f"{R}/data/corpus.parquet",
    output:
        f"{R}/settle/{{backbone}}.csv",
    log:
        f"{R}/logs/settle/{{backbone}}.log",
    benchmark:
        f"{R}/benchmarks/settle/{{backbone}}.tsv"
    conda:
        MODEL_ENV
    threads: config["threads"]
    resources:
        gpu=GPUS,
        mem_mb=memory_of("settle"),
        runtime=time_of("settle"),
    params:
        code=code("settle"),
        max_tokens=config["corpus"]["max_tokens"],
        batch_tokens=config["distillation"]["batch_tokens"],
        runtime=torch_settings,
    script:
        "../scripts/settle.py"
