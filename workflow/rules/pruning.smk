"""Static pruning: what each block is worth on the corpus, and which ones the policies leave out."""

PRUNED = {name: policy for name, policy in config["policies"].items() if policy["kind"] == "pruned"}
MEASURED_BLOCKS = layout.measured_blocks(config)


rule score_blocks:
    input:
        manifest=f"{R}/backbones/{{backbone}}.json",
        corpus=f"{R}/data/corpus.parquet",
    output:
        f"{R}/pruning/{{backbone}}/{{measure}}.csv",
    log:
        f"{R}/logs/score_blocks/{{backbone}}/{{measure}}.log",
    benchmark:
        f"{R}/benchmarks/score_blocks/{{backbone}}/{{measure}}.tsv"
    conda:
        MODEL_ENV
    threads: config["threads"]
    resources:
        gpu=GPUS,
        mem_mb=memory_of("score_blocks"),
        runtime=time_of("score_blocks"),
    params:
        code=code("score_blocks"),
        measure="{measure}",
        documents=config["pruning"]["documents"],
        most=blocks_gone,
        max_tokens=config["corpus"]["max_tokens"],
        batch_tokens=config["distillation"]["batch_tokens"],
        runtime=torch_settings,
    script:
        "../scripts/score_blocks.py"


rule pruned_blocks:
    input:
        scores=[f"{R}/pruning/{backbone}/{measure}.csv" for backbone, measure in MEASURED_BLOCKS],
        disjoint=f"{R}/data/disjoint.json",
    output:
        scores=report(
            f"{R}/tables/block_scores.csv",
            caption="../../report/pruned_blocks.rst",
            category="2. Where tokens exit",
            subcategory="static pruning",
            labels={"table": "block scores", "format": "csv"},
        ),
        blocks=report(
            f"{R}/tables/pruned_blocks.csv",
            caption="../../report/pruned_blocks.rst",
            category="2. Where tokens exit",
            subcategory="static pruning",
            labels={"table": "pruned blocks", "format": "csv"},
        ),
    log:
        f"{R}/logs/pruned_blocks.log",
    benchmark:
        f"{R}/benchmarks/pruned_blocks.tsv"
    conda:
        "../../envs/score.yaml"
    threads: 1
    resources:
        mem_mb=each_try(2000),
        runtime=each_try(30),
    params:
        code=code("pruned_blocks"),
        policies=PRUNED,
        depths={name: backbone["depth"] for name, backbone in config["backbones"].items()},
    script:
        "../scripts/pruned_blocks.py"
