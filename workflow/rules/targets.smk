"""Targets to ask for by name.

`fetch` brings all that comes from a hub, `answers` makes all that a model computes, and the default makes the rest;
`estimate` says what a run takes, `clean_answers` drops answers that nothing needs.
"""


include: "inputs/targets.smk"


rule fetch:
    input:
        each(rules.fetch_backbone.output[0], [{"backbone": name} for name in EXPERIMENT.backbones]),
        each(rules.fetch_dataset.output[0], [{"dataset": name} for name in EXPERIMENT.datasets]),
        rules.fetch_corpus.output,
    localrule: True


rule answers:
    input:
        answered_files(),
        each(rules.measure_heads.output[0], MEASURED_HEADS),
        measured_precision(),
        each(rules.settle.output[0], [{"backbone": name} for name in EXPERIMENT.backbones]),
        each(
            rules.score_blocks.output[0],
            [{"backbone": name, "measure": measure} for name, measure in runs.measured_blocks(EXPERIMENT)],
        ),
        each(rules.measure_wallclock.output[0], map(vars, PAIRS)) if EXPERIMENT.wallclock.examples else [],
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


# As the one before: nothing is an input or an output of it.
rule clean_answers:
    log:
        f"{R}/logs/clean_answers.log",
    localrule: True
    conda:
        "../../envs/snakemake.yaml"
    threads: 1
    params:
        folder=f"{R}/kept",
        used=kept_files(),
    script:
        "../scripts/clean_answers.py"
