"""Question sets, corpus and backbones as hand-over files; and the embedded default, made from its seed."""


rule fetch_dataset:
    input:
        source=dataset_files,
    output:
        f"{R}/data/{{dataset}}.parquet",
    log:
        f"{R}/logs/fetch_dataset/{{dataset}}.log",
    benchmark:
        f"{R}/benchmarks/fetch_dataset/{{dataset}}.tsv"
    priority: 100  # what check_disjoint waits for
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=each_try(4000),
        runtime=each_try(60),
    params:
        code=code("fetch_dataset"),
        name="{dataset}",
        spec=dataset_source,
        seed=config["seed"],
        root=ROOT,
    script:
        "../scripts/fetch_dataset.py"


rule fetch_corpus:
    input:
        source=layout.data_files(config["corpus"]),
    output:
        f"{R}/data/corpus.parquet",
    log:
        f"{R}/logs/fetch_corpus.log",
    benchmark:
        f"{R}/benchmarks/fetch_corpus.tsv"
    priority: 100  # what check_disjoint waits for
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=each_try(4000),
        runtime=each_try(120),
    params:
        code=code("fetch_corpus"),
        spec=source(config["corpus"], "max_tokens"),
        seed=config["seed"],
        root=ROOT,
    script:
        "../scripts/fetch_corpus.py"


rule fetch_backbone:
    input:
        source=model_files,
    output:
        f"{R}/backbones/{{backbone}}.json",
    log:
        f"{R}/logs/fetch_backbone/{{backbone}}.log",
    benchmark:
        f"{R}/benchmarks/fetch_backbone/{{backbone}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=each_try(4000),
        disk_mb=download_disk,
        runtime=download_time,
    params:
        code=code("fetch_backbone"),
        spec=backbone_source,
        local=is_local,
    script:
        "../scripts/fetch_backbone.py"


# `make pretrain` copies the folder to workflow/resources/tiny, which no rule writes.
rule pretrain_tiny:
    output:
        directory("results/pretrain_tiny/tiny"),
    log:
        "results/pretrain_tiny/pretrain_tiny.log",
    benchmark:
        "results/pretrain_tiny/pretrain_tiny.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=each_try(4000),
        runtime=each_try(600),
    params:
        code=code("pretrain_tiny"),
        world_seed=7,
        seed=1,
    script:
        "../scripts/pretrain_tiny.py"
