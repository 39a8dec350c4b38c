"""The tables of how good heads are."""

MEASURED = layout.measured_heads(config)
RECIPES = {
    recipe: {head: config["heads"][head]["kind"] for head in heads} for recipe, heads in config["recipes"].items()
}


rule head_tables:
    input:
        confidences=[f"{R}/quality/{backbone}/{recipe}/confidences.parquet" for backbone, recipe in MEASURED],
        costs=expand(f"{R}/costs/{{backbone}}.json", backbone=dict(MEASURED)),
        disjoint=f"{R}/data/disjoint.json",
    output:
        heads=report(
            f"{R}/tables/heads.csv",
            caption="../../report/heads.rst",
            category="3. Exit heads",
            labels={"table": "heads", "format": "csv"},
        ),
        differences=report(
            f"{R}/tables/head_differences.csv",
            caption="../../report/head_differences.rst",
            category="3. Exit heads",
            labels={"table": "head differences", "format": "csv"},
        ),
        reliability=f"{R}/tables/reliability.csv",
    log:
        f"{R}/logs/head_tables.log",
    benchmark:
        f"{R}/benchmarks/head_tables.tsv"
    conda:
        "../../envs/score.yaml"
    threads: 1
    resources:
        mem_mb=each_try(8000),
        runtime=each_try(120),
    params:
        code=code("head_tables"),
        measured=MEASURED,
        recipes=RECIPES,
        bootstrap=config["bootstrap"],
        seed=config["seed"],
    script:
        "../scripts/head_tables.py"
