"""Thresholds that keep a promise, and whether they kept it."""

PROMISED = [
    run
    for run in SETTINGS
    if (run["backbone"], run["dataset"]) in CALIBRATIONS and (run["policy"] == "full" or run["thresholds"])
]


rule calibrate:
    input:
        runs=calibration_runs,
        data=f"{R}/data/{{dataset}}.parquet",
        costs=f"{R}/costs/{{backbone}}.json",
        schema=os.path.relpath(f"{workflow.basedir}/workflow/schemas/thresholds.schema.yaml"),
    output:
        thresholds=f"{R}/thresholds/{{backbone}}/{{dataset}}.json",
        losses=f"{R}/losses/{{backbone}}/{{dataset}}.parquet",
    log:
        f"{R}/logs/calibrate/{{backbone}}/{{dataset}}.log",
    benchmark:
        f"{R}/benchmarks/calibrate/{{backbone}}/{{dataset}}.tsv"
    priority: 50  # before scores: the longest job waits for it
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=each_try(4000),
        runtime=each_try(120),
    params:
        code=code("calibrate"),
        policies=calibrated_policies,
        counted=counted_policies,
        promises=config["calibration"]["promises"],
        kind=of("dataset", "kind"),
        rules=config["scoring"]["rules"],
    script:
        "../scripts/calibrate.py"


rule promise:
    input:
        losses=[f"{R}/losses/{backbone}/{dataset}.parquet" for backbone, dataset in CALIBRATIONS],
        scores=[run["scores"] for run in PROMISED],
        flops=[run["flops"] for run in PROMISED],
    output:
        report(
            f"{R}/tables/promise.csv",
            caption="../../report/promise_table.rst",
            category="4. Promises",
            labels={"figure": "all promises", "format": "csv"},
        ),
    log:
        f"{R}/logs/promise.log",
    benchmark:
        f"{R}/benchmarks/promise.tsv"
    priority: 50
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=each_try(8000),
        runtime=each_try(120),
    params:
        code=code("promise"),
        settings=PROMISED,
        policies=CALIBRATED,
        promises=config["calibration"]["promises"],
        splits=config["calibration"]["splits"],
        seed=config["seed"],
    script:
        "../scripts/promise.py"
