"""What answers cost and how good they are; thresholds that keep a promise; the tables of all runs.

The files of answers are named in answers.smk (`ANSWERS`, `RUN`).
"""


include: "inputs/evaluate.smk"


RUNS = runs.runs(EXPERIMENT)
CALIBRATED_RUNS = runs.calibrated_runs(EXPERIMENT)
CALIBRATIONS = runs.calibrations(EXPERIMENT)
POLICY_KINDS = {name: one.kind for name, one in EXPERIMENT.policies.items()}
HEAD_KINDS = {name: head.kind for name, head in EXPERIMENT.heads.items()}


rule count_flops:
    input:
        run=ANSWERS["test"],
        costs=rules.layer_costs.output[0],
    output:
        f"{R}/runs/{RUN}/flops.parquet",
    log:
        f"{R}/logs/count_flops/{RUN}.log",
    benchmark:
        f"{R}/benchmarks/count_flops/{RUN}.tsv"
    conda:
        "../../envs/score.yaml"
    threads: 1
    params:
        code=code("count_flops"),
        policy=policy,
        exits=exits,
    script:
        "../scripts/count_flops.py"


rule score:
    input:
        run=ANSWERS["test"],
        full=f"{R}/runs/{{backbone}}/{{dataset}}/full/test.parquet",
        data=rules.fetch_dataset.output[0],
    output:
        f"{R}/runs/{RUN}/scores.parquet",
    log:
        f"{R}/logs/score/{RUN}.log",
    benchmark:
        f"{R}/benchmarks/score/{RUN}.tsv"
    conda:
        "../../envs/score.yaml"
    threads: 1
    params:
        code=code("score"),
        kind=dataset_kind,
        rules=EXPERIMENT.scoring.rules,
    script:
        "../scripts/score.py"


rule calibrate:
    input:
        runs=calibration_answers,
        data=rules.fetch_dataset.output[0],
        costs=rules.layer_costs.output[0],
        schema=os.path.relpath(REPOSITORY / "workflow/schemas/thresholds.schema.yaml"),
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
    params:
        code=code("calibrate"),
        policies=calibrated_specs,
        prices=calibrated_prices,
        promises={name: one.model_dump() for name, one in EXPERIMENT.calibration.promises.items()},
        kind=dataset_kind,
        rules=EXPERIMENT.scoring.rules,
    script:
        "../scripts/calibrate.py"


RUN_FILES = list(map(run_files, RUNS))
PROMISED = [
    files
    for run, files in zip(RUNS, RUN_FILES)
    if (run.backbone, run.dataset) in CALIBRATIONS and (run.policy == "full" or run in CALIBRATED_RUNS)
]


rule promise:
    input:
        losses=each(rules.calibrate.output.losses, [dict(zip(("backbone", "dataset"), pair)) for pair in CALIBRATIONS]),
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
    params:
        code=code("promise"),
        settings=PROMISED,
        policies={run.policy: EXPERIMENT.policies[run.policy].model_dump() for run in CALIBRATED_RUNS},
        promises={name: one.model_dump() for name, one in EXPERIMENT.calibration.promises.items()},
        splits=EXPERIMENT.calibration.splits,
        seed=EXPERIMENT.seed,
    script:
        "../scripts/promise.py"


rule tables:
    input:
        runs=[run["run"] for run in RUN_FILES],
        scores=[run["scores"] for run in RUN_FILES],
        flops=[run["flops"] for run in RUN_FILES],
        thresholds=sorted({run["thresholds"] for run in RUN_FILES if run["thresholds"]}),
        seconds=[run["seconds"] for run in RUN_FILES if run["seconds"]],
        training=each(
            rules.train_heads.output.training,
            [dict(zip(("backbone", "recipe"), training)) for training in runs.trainings(EXPERIMENT)],
        ),
        settle=each(rules.settle.output[0], [{"backbone": name} for name in EXPERIMENT.backbones]),
        disjoint=rules.check_disjoint.output[0],
    output:
        results=report(
            f"{R}/tables/results.csv",
            caption="../../report/results.rst",
            category="5. All results",
            labels={"table": "results", "format": "csv"},
        ),
        exits=f"{R}/tables/exits.csv",
        training=f"{R}/tables/training.csv",
        settle=f"{R}/tables/settle.csv",
        tex=f"{R}/tables/results.tex",
    log:
        f"{R}/logs/tables.log",
    benchmark:
        f"{R}/benchmarks/tables.tsv"
    conda:
        "../../envs/score.yaml"
    threads: 1
    params:
        code=code("tables"),
        settings=RUN_FILES,
        preset=EXPERIMENT.preset,
        oracles=[name for name, kind in POLICY_KINDS.items() if kind == "oracle"],
        bootstrap=EXPERIMENT.bootstrap.model_dump(),
        seed=EXPERIMENT.seed,
    script:
        "../scripts/tables.py"


rule compare:
    input:
        scores=[run["scores"] for run in RUN_FILES],
        flops=[run["flops"] for run in RUN_FILES],
    output:
        equal_compute=report(
            f"{R}/tables/equal_compute.csv",
            caption="../../report/compare.rst",
            category="5. All results",
            labels={"table": "equal compute", "format": "csv"},
        ),
        differences=report(
            f"{R}/tables/differences.csv",
            caption="../../report/compare.rst",
            category="5. All results",
            labels={"table": "differences", "format": "csv"},
        ),
        policies=report(
            f"{R}/tables/policies.csv",
            caption="../../report/policies.rst",
            category="5. All results",
            labels={"table": "all policies at equal compute", "format": "csv"},
        ),
    log:
        f"{R}/logs/compare.log",
    benchmark:
        f"{R}/benchmarks/compare.tsv"
    conda:
        "../../envs/score.yaml"
    threads: 1
    params:
        code=code("compare"),
        settings=RUN_FILES,
        policies=POLICY_KINDS,
        heads=HEAD_KINDS,
        preset=EXPERIMENT.preset,
        bootstrap=EXPERIMENT.bootstrap.model_dump(),
        seed=EXPERIMENT.seed,
    script:
        "../scripts/compare.py"


rule claims:
    input:
        scores=[run["scores"] for run in RUN_FILES],
        flops=[run["flops"] for run in RUN_FILES],
        costs=each(rules.layer_costs.output[0], [{"backbone": name} for name in EXPERIMENT.backbones]),
        templates=templates("claims"),
    output:
        table=report(
            f"{R}/tables/claims.csv",
            caption="../../report/claims.rst",
            category="0. The paper's claims",
            labels={"page": "verdicts", "format": "csv"},
        ),
        html=report(
            f"{R}/claims.html",
            caption="../../report/claims.rst",
            category="0. The paper's claims",
            labels={"page": "verdicts", "format": "html"},
        ),
    log:
        f"{R}/logs/claims.log",
    benchmark:
        f"{R}/benchmarks/claims.tsv"
    conda:
        "../../envs/plot.yaml"
    threads: 1
    params:
        code=code("claims"),
        settings=RUN_FILES,
        policies=POLICY_KINDS,
        heads=HEAD_KINDS,
        name=EXPERIMENT.name,
        preset=EXPERIMENT.preset,
        bootstrap=EXPERIMENT.bootstrap.model_dump(),
        seed=EXPERIMENT.seed,
    script:
        "../scripts/claims.py"
