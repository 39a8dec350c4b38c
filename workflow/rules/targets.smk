"""Targets to ask for by name: `fetch` gets all that comes from a hub, `status` says what is done, `estimate` what a run
takes."""


rule fetch:
    input:
        expand(f"{R}/backbones/{{backbone}}.json", backbone=config["backbones"]),
        expand(f"{R}/data/{{dataset}}.parquet", dataset=config["datasets"]),
        f"{R}/data/corpus.parquet",


# Nothing is its input, so that asking runs nothing; it has no output and no benchmark, so that it can be asked again.
rule status:
    log:
        f"{R}/logs/status.log",
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


rule estimate:
    log:
        f"{R}/logs/estimate.log",
    conda:
        "../../envs/score.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        lines=estimate_lines,
    script:
        "../scripts/estimate.py"
