"""What a run cost, how good its answers are, and the tables of all runs."""

SETTINGS = layout.settings(config, R)


rule layer_costs:
    input:
        manifest=f"{R}/backbones/{{backbone}}.json",
        head_code=head_code,
    output:
        f"{R}/costs/{{backbone}}.json",
    log:
        f"{R}/logs/layer_costs/{{backbone}}.log",
    benchmark:
        f"{R}/benchmarks/layer_costs/{{backbone}}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=each_try(2000),
        runtime=each_try(30),
    params:
        code=code("layer_costs"),
        heads=config["heads"],
    script:
        "../scripts/layer_costs.py"


rule count_flops:
    input:
        run=f"{R}/runs/{{backbone}}/{{dataset}}/{{policy}}/test.parquet",
        costs=f"{R}/costs/{{backbone}}.json",
    output:
        f"{R}/runs/{{backbone}}/{{dataset}}/{{policy}}/flops.parquet",
    log:
        f"{R}/logs/count_flops/{{backbone}}/{{dataset}}/{{policy}}.log",
    benchmark:
        f"{R}/benchmarks/count_flops/{{backbone}}/{{dataset}}/{{policy}}.tsv"
    conda:
        "../../envs/score.yaml"
    threads: 1
    resources:
        mem_mb=each_try(2000),
        runtime=each_try(30),
    params:
        code=code("count_flops"),
        kind=of("policy", "kind"),
        counted=counted,
    script:
        "../scripts/count_flops.py"


rule score:
    input:
        run=f"{R}/runs/{{backbone}}/{{dataset}}/{{policy}}/test.parquet",
        full=f"{R}/runs/{{backbone}}/{{dataset}}/full/test.parquet",
        data=f"{R}/data/{{dataset}}.parquet",
    output:
        f"{R}/runs/{{backbone}}/{{dataset}}/{{policy}}/scores.parquet",
    log:
        f"{R}/logs/score/{{backbone}}/{{dataset}}/{{policy}}.log",
    benchmark:
        f"{R}/benchmarks/score/{{backbone}}/{{dataset}}/{{policy}}.tsv"
    conda:
        "../../envs/score.yaml"
    threads: 1
    resources:
        mem_mb=each_try(4000),
        runtime=each_try(120),
    params:
        code=code("score"),
        kind=of("dataset", "kind"),
        rules=config["scoring"]["rules"],
    script:
        "../scripts/score.py"


rule tables:
    input:
        runs=[run["run"] for run in SETTINGS],
        scores=[run["scores"] for run in SETTINGS],
        flops=[run["flops"] for run in SETTINGS],
        thresholds=sorted({run["thresholds"] for run in SETTINGS if run["thresholds"]}),
        seconds=[run["seconds"] for run in SETTINGS if run["seconds"]],
        training=[f"{R}/heads/{backbone}/{recipe}/training.csv" for backbone, recipe in layout.trainings(config)],
        settle=expand(f"{R}/settle/{{backbone}}.csv", backbone=config["backbones"]),
        disjoint=f"{R}/data/disjoint.json",
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
    resources:
        mem_mb=each_try(8000),
        runtime=each_try(120),
    params:
        code=code("tables"),
        settings=SETTINGS,
        preset=config["preset"],
        oracles=[name for name, spec in config["policies"].items() if spec["kind"] == "oracle"],
        bootstrap=config["bootstrap"],
        seed=config["seed"],
    script:
        "../scripts/tables.py"
