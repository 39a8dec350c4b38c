"""What answers are worth and what they cost; thresholds that keep a promise; the tables of all runs."""


include: "inputs/evaluate.smk"


RUNS = runs.runs(EXPERIMENT)
PAIRS = runs.pairs(EXPERIMENT)
CALIBRATIONS = runs.calibrations(EXPERIMENT)
CALIBRATED_RUNS = runs.calibrated_runs(EXPERIMENT)
POLICY_KINDS = {name: one.kind for name, one in EXPERIMENT.policies.items()}
HEAD_KINDS = {name: head.kind for name, head in EXPERIMENT.heads.items()}


rule evaluate:
    input:
        answers=test_answers,
        costs=rules.layer_costs.output[0],
        data=rules.fetch_dataset.output[0],
    output:
        f"{R}/evaluated/{PAIR}.parquet",
    log:
        f"{R}/logs/evaluate/{PAIR}.log",
    benchmark:
        f"{R}/benchmarks/evaluate/{PAIR}.tsv"
    conda:
        "../../envs/score.yaml"
    threads: 1
    params:
        code=code("evaluate"),
        policies=policies("all"),
        exits=exits,
        kind=dataset_kind,
        rules=EXPERIMENT.scoring.rules,
    script:
        "../scripts/evaluate.py"


rule calibrate:
    input:
        answers=calibration_answers,
        data=rules.fetch_dataset.output[0],
        costs=rules.layer_costs.output[0],
        schema=os.path.relpath(REPOSITORY / "workflow/schemas/thresholds.schema.yaml"),
    output:
        thresholds=f"{R}/thresholds/{PAIR}.json",
        losses=f"{R}/losses/{PAIR}.parquet",
    log:
        f"{R}/logs/calibrate/{PAIR}.log",
    benchmark:
        f"{R}/benchmarks/calibrate/{PAIR}.tsv"
    priority: 50  # before scores: the longest job waits for it
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    params:
        code=code("calibrate"),
        policies=policies("calibrated"),
        exits=exits,
        promises={name: one.model_dump() for name, one in EXPERIMENT.calibration.promises.items()},
        kind=dataset_kind,
        rules=EXPERIMENT.scoring.rules,
    script:
        "../scripts/calibrate.py"


EVALUATED = each(rules.evaluate.output[0], map(vars, PAIRS))
THRESHOLDS = each(rules.calibrate.output.thresholds, map(vars, CALIBRATIONS))
SETTINGS = list(map(run_files, RUNS))
PROMISED = [
    entry
    for run, entry in zip(RUNS, SETTINGS)
    if run in CALIBRATED_RUNS or (run.policy == "full" and run.pair in CALIBRATIONS)
]


rule promise:
    input:
        losses=each(rules.calibrate.output.losses, map(vars, CALIBRATIONS)),
        evaluated=each(rules.evaluate.output[0], map(vars, CALIBRATIONS)),
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
        answers=[path for pair in PAIRS for path in test_answers(pair)],
        evaluated=EVALUATED,
        thresholds=THRESHOLDS,
        seconds=each(rules.measure_wallclock.output[0], map(vars, PAIRS)) if EXPERIMENT.wallclock.examples else [],
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
        settings=SETTINGS,
        preset=EXPERIMENT.preset,
        oracles=[name for name, kind in POLICY_KINDS.items() if kind == "oracle"],
        bootstrap=EXPERIMENT.bootstrap.model_dump(),
        seed=EXPERIMENT.seed,
    script:
        "../scripts/tables.py"


rule compare:
    input:
        evaluated=EVALUATED,
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
        settings=SETTINGS,
        policies=POLICY_KINDS,
        heads=HEAD_KINDS,
        preset=EXPERIMENT.preset,
        bootstrap=EXPERIMENT.bootstrap.model_dump(),
        seed=EXPERIMENT.seed,
    script:
        "../scripts/compare.py"


rule claims:
    input:
        evaluated=EVALUATED,
        costs=each(rules.layer_costs.output[0], [{"backbone": name} for name in EXPERIMENT.backbones]),
        second_paper=[rules.precision.output.claims] if PRECISE else [],
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
        settings=SETTINGS,
        policies=POLICY_KINDS,
        heads=HEAD_KINDS,
        name=EXPERIMENT.name,
        preset=EXPERIMENT.preset,
        bootstrap=EXPERIMENT.bootstrap.model_dump(),
        seed=EXPERIMENT.seed,
    script:
        "../scripts/claims.py"
