"""Blocks of a backbone: where its predictions settle, what each block is worth, and which ones pruning leaves out."""


include: "inputs/blocks.smk"


rule settle:
    input:
        manifest=rules.fetch_backbone.output[0],
        corpus=rules.fetch_corpus.output[0],
    output:
        f"{R}/settle/{{backbone}}.csv",
    log:
        f"{R}/logs/settle/{{backbone}}.log",
    benchmark:
        f"{R}/benchmarks/settle/{{backbone}}.tsv"
    conda:
        MODEL_ENV
    threads: EXPERIMENT.threads
    resources:
        **model_job(settling_work),
    params:
        code=code("settle"),
        max_tokens=EXPERIMENT.corpus.max_tokens,
        batch_tokens=EXPERIMENT.distillation.batch_tokens,
        runtime=torch_settings,
    script:
        "../scripts/settle.py"


rule score_blocks:
    input:
        manifest=rules.fetch_backbone.output[0],
        corpus=rules.fetch_corpus.output[0],
    output:
        f"{R}/pruning/{{backbone}}/{{measure}}.csv",
    log:
        f"{R}/logs/score_blocks/{{backbone}}/{{measure}}.log",
    benchmark:
        f"{R}/benchmarks/score_blocks/{{backbone}}/{{measure}}.tsv"
    conda:
        MODEL_ENV
    threads: EXPERIMENT.threads
    resources:
        **model_job(scoring_work),
    params:
        code=code("score_blocks"),
        measure="{measure}",
        documents=EXPERIMENT.pruning.documents,
        most=most_blocks_dropped,
        max_tokens=EXPERIMENT.corpus.max_tokens,
        batch_tokens=EXPERIMENT.distillation.batch_tokens,
        runtime=torch_settings,
    script:
        "../scripts/score_blocks.py"


rule pruned_blocks:
    input:
        scores=each(
            rules.score_blocks.output,
            [{"backbone": name, "measure": measure} for name, measure in runs.measured_blocks(EXPERIMENT)],
        ),
        disjoint=rules.check_disjoint.output[0],
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
    params:
        code=code("pruned_blocks"),
        policies={name: one.model_dump() for name, one in EXPERIMENT.policies.items() if one.kind == "pruned"},
        depths={name: backbone.depth for name, backbone in EXPERIMENT.backbones.items()},
    script:
        "../scripts/pruned_blocks.py"
