"""What coarser number formats change, where the config's `precision` names datasets."""


include: "inputs/precision.smk"


PRECISE = runs.precision_pairs(EXPERIMENT)


rule measure_precision:
    input:
        data=rules.fetch_dataset.output[0],
        manifest=rules.fetch_backbone.output[0],
        heads=trained("heads", "precise"),
        heads_manifest=trained("manifest", "precise"),
        head_code=policy_code("precise"),
    output:
        states=f"{R}/precision/{PAIR}/states.csv",
        predictions=f"{R}/precision/{PAIR}/predictions.csv",
        decisions=f"{R}/precision/{PAIR}/decisions.csv",
        changes=f"{R}/precision/{PAIR}/changes.csv",
        answers=f"{R}/precision/{PAIR}/answers.parquet",
    log:
        f"{R}/logs/measure_precision/{PAIR}.log",
    benchmark:
        f"{R}/benchmarks/measure_precision/{PAIR}.tsv"
    priority: 50
    conda:
        MODEL_ENV
    threads: EXPERIMENT.threads
    resources:
        **model_job(precision_work),
    params:
        code=code("measure_precision"),
        options=EXPERIMENT.precision.model_dump(include={"formats", "examples", "sizes", "draws"}),
        policies=policies("precise"),
        exits=exits,
        max_new_tokens=max_new_tokens,
        rules=ANSWERING,
        runtime=decode_settings,
    script:
        "../scripts/measure_precision.py"


rule precision:
    input:
        measured=measured_precision(),
        data=each(rules.fetch_dataset.output[0], map(vars, PRECISE)),
        costs=each(rules.layer_costs.output[0], map(vars, PRECISE)),
    output:
        table=report(
            f"{R}/tables/precision.csv",
            caption="../../report/precision.rst",
            category="8. Precision",
            labels={"figure": "all measurements", "format": "csv"},
        ),
        claims=f"{R}/precision/claims.csv",
    log:
        f"{R}/logs/precision.log",
    benchmark:
        f"{R}/benchmarks/precision.tsv"
    conda:
        "../../envs/score.yaml"
    threads: 1
    params:
        code=code("precision"),
        pairs=list(map(precision_files, PRECISE)),
        rules=EXPERIMENT.scoring.rules,
        name=EXPERIMENT.name,
        preset=EXPERIMENT.preset,
        resamples=EXPERIMENT.bootstrap.resamples,
        seed=EXPERIMENT.seed,
    script:
        "../scripts/precision.py"
