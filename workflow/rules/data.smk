"""Question sets, corpus and backbones as hand-over files; and the embedded default, made from its seed."""


include: "inputs/data.smk"


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
    params:
        code=code("fetch_dataset"),
        name="{dataset}",
        spec=dataset_source,
        seed=EXPERIMENT.seed,
    script:
        "../scripts/fetch_dataset.py"


rule fetch_corpus:
    input:
        source=EXPERIMENT.corpus.files,
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
        output_mb=round(work.corpus(EXPERIMENT).output_mb),
    params:
        code=code("fetch_corpus"),
        spec=EXPERIMENT.corpus.model_dump(exclude={"max_tokens"}),
        seed=EXPERIMENT.seed,
    script:
        "../scripts/fetch_corpus.py"


rule fetch_backbone:
    input:
        source=backbone_files,
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
        runtime=download_minutes,
        output_mb=download_size,
    params:
        code=code("fetch_backbone"),
        spec=backbone_source,
        local=backbone_is_local,
    script:
        "../scripts/fetch_backbone.py"


# No table is made before this passes. It goes before all else, so that a run that cannot pass ends before it trains.
# As an input of the training it would train all heads again for each new dataset; and `ancient` would not do: Snakemake
# takes all jobs behind it as looked at, also those whose own params have changed.
rule check_disjoint:
    input:
        corpus=rules.fetch_corpus.output[0],
        datasets=each(rules.fetch_dataset.output[0], [{"dataset": name} for name in EXPERIMENT.datasets]),
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
    params:
        code=code("check_disjoint"),
    script:
        "../scripts/check_disjoint.py"


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
        runtime=600,
    params:
        code=code("pretrain_tiny"),
        world_seed=7,
        seed=1,
    script:
        "../scripts/pretrain_tiny.py"
