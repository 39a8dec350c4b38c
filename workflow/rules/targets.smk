"""Targets to ask for by name: `fetch` brings all that comes from a hub, `estimate` says what a run takes."""


rule fetch:
    input:
        each(rules.fetch_backbone.output[0], [{"backbone": name} for name in EXPERIMENT.backbones]),
        each(rules.fetch_dataset.output[0], [{"dataset": name} for name in EXPERIMENT.datasets]),
        rules.fetch_corpus.output,
    localrule: True


# It has no input, so that asking runs nothing; no output and no benchmark, so that it can be asked again.
rule estimate:
    log:
        f"{R}/logs/estimate.log",
    localrule: True
    conda:
        "../../envs/snakemake.yaml"
    threads: 1
    params:
        config=USER_CONFIG,
    script:
        "../scripts/estimate.py"
