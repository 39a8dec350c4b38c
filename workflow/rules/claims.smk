"""Policies at equal compute, settings against the full model, and the verdicts on the paper's claims."""

POLICY_KINDS = {name: policy["kind"] for name, policy in config["policies"].items()}
HEAD_KINDS = {name: head["kind"] for name, head in config["heads"].items()}


rule compare:
    input:
        scores=[run["scores"] for run in SETTINGS],
        flops=[run["flops"] for run in SETTINGS],
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
    resources:
        mem_mb=each_try(8000),
        runtime=each_try(120),
    params:
        code=code("compare"),
        settings=SETTINGS,
        policies=POLICY_KINDS,
        heads=HEAD_KINDS,
        preset=config["preset"],
        bootstrap=config["bootstrap"],
        seed=config["seed"],
    script:
        "../scripts/compare.py"


rule claims:
    input:
        scores=[run["scores"] for run in SETTINGS],
        flops=[run["flops"] for run in SETTINGS],
        costs=expand(f"{R}/costs/{{backbone}}.json", backbone=config["backbones"]),
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
    resources:
        mem_mb=each_try(8000),
        runtime=each_try(120),
    params:
        code=code("claims"),
        settings=SETTINGS,
        policies=POLICY_KINDS,
        heads=HEAD_KINDS,
        name=config["name"],
        preset=config["preset"],
        bootstrap=config["bootstrap"],
        seed=config["seed"],
    script:
        "../scripts/claims.py"
