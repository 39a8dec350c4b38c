"""Figures, the provenance page, and the report that holds them with the tables."""

from dataclasses import asdict

from early_exit.experiment import figures


include: "inputs/report.smk"


FIGURES = figures.figures(EXPERIMENT)
HAS_PROMISES, HAS_SCORED_BLOCKS = bool(CALIBRATIONS), bool(runs.measured_blocks(EXPERIMENT))
EMBEDDED = "png (svg: figures/)"  # the page holds one format of each figure and says where the other one is
TABLES = ["tables", "compare", "claims", "figures", "provenance"]
TABLES += ["precision"] * bool(PRECISE)
TABLES += ["head_tables"] * bool(MEASURED_HEADS) + ["promise"] * HAS_PROMISES + ["pruned_blocks"] * HAS_SCORED_BLOCKS


rule figures:
    input:
        tables=sorted(
            {f"{R}/tables/{table}.csv" for figure in FIGURES for table in figure.tables if table != "thresholds"}
        ),
        thresholds=THRESHOLDS,
    output:
        svg=[f"{R}/figures/{figure.name}.svg" for figure in FIGURES],
        png=[
            report(
                f"{R}/figures/{figure.name}.png",
                caption=f"../../report/{figure.kind}.rst",
                category=figure.category,
                subcategory=figure.group,
                labels={"figure": figure.label, "format": EMBEDDED},
            )
            for figure in FIGURES
        ],
    log:
        f"{R}/logs/figures.log",
    benchmark:
        f"{R}/benchmarks/figures.tsv"
    conda:
        "../../envs/plot.yaml"
    threads: 2
    params:
        code=code("figures"),
        figures=[asdict(figure) for figure in FIGURES],
        paper_policies=[name for name, one in EXPERIMENT.policies.items() if one.is_plain],
    script:
        "../scripts/figures.py"


rule provenance:
    input:
        results=rules.tables.output.results,
        disjoint=rules.check_disjoint.output[0],
        manifests=each(rules.fetch_backbone.output[0], [{"backbone": name} for name in EXPERIMENT.backbones]),
        costs=each(rules.layer_costs.output[0], [{"backbone": name} for name in EXPERIMENT.backbones]),
        templates=templates("provenance"),
    output:
        html=report(
            f"{R}/provenance.html",
            caption="../../report/provenance.rst",
            category="6. Provenance",
            labels={"page": "provenance", "format": "html"},
        ),
    log:
        f"{R}/logs/provenance.log",
    benchmark:
        f"{R}/benchmarks/provenance.tsv"
    conda:
        "../../envs/plot.yaml"
    threads: 1
    params:
        code=code("provenance"),
        config=EXPERIMENT.model_dump(),
        benchmarks=benchmarks(),
    script:
        "../scripts/provenance.py"


rule report:
    input:
        [getattr(rules, name).output for name in TABLES],
    output:
        html=f"{R}/report.html",
        config=f"{R}/config.json",
    log:
        f"{R}/logs/report.log",
    benchmark:
        f"{R}/benchmarks/report.tsv"
    localrule: True
    conda:
        "../../envs/snakemake.yaml"
    threads: 1
    params:
        code=code("report"),
        config=USER_CONFIG,
        targets=TABLES,
    script:
        "../scripts/report.py"
