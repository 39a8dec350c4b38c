"""Targets to ask for by name: `fetch` gets all that comes from a hub, `status` says what is done."""


rule fetch:
    input:
        expand(f"{R}/backbones/{{backbone}}.json", backbone=config["backbones"]),
        expand(f"{R}/data/{{dataset}}.parquet", dataset=config["datasets"]),
        f"{R}/data/corpus.parquet",


# Nothing is its input, so that asking runs nothing; no output, so that it can be asked again.
rule status:
    log:
        f"{R}/logs/status.log",
    benchmark:
        f"{R}/benchmarks/status.tsv"
    conda:
        "../../envs/score.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        jobs=layout.outputs(config, R),
    script:
        "../scripts/status.py"
