"""Figures, the provenance page, and the report that holds them with the tables."""

from dataclasses import asdict

from early_exit.experiment import figures

FIGURES = figures.figures(config)


rule figures:
    input:
        tables=sorted(
            {f"{R}/tables/{table}.csv" for figure in FIGURES for table in figure.tables if table != "thresholds"}
        ),
        thresholds=[f"{R}/thresholds/{backbone}/{dataset}.json" for backbone, dataset in CALIBRATIONS],
    output:
        [
            report(
                f"{R}/figures/{figure.name}.{ending}",
                caption=f"../../report/{figure.kind}.rst",
                category=figure.category,
                subcategory=figure.group,
                labels={"figure": figure.label, "format": ending},
            )
            for figure in FIGURES
            for ending in ("svg", "png")
        ],
    log:
        f"{R}/logs/figures.log",
    benchmark:
        f"{R}/benchmarks/figures.tsv"
    conda:
        "../../envs/plot.yaml"
    threads: 1
    resources:
        mem_mb=each_try(2000),
        runtime=each_try(30),
    params:
        code=code("figures"),
        figures=[asdict(figure) for figure in FIGURES],
        paper_policies=[name for name, spec in config["policies"].items() if policy_kinds.is_plain(spec)],
    script:
        "../scripts/figures.py"


rule provenance:
    input:
        results=rules.tables.output.results,
        disjoint=f"{R}/data/disjoint.json",
        manifests=expand(f"{R}/backbones/{{backbone}}.json", backbone=config["backbones"]),
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
    resources:
        mem_mb=each_try(2000),
        runtime=each_try(30),
    params:
        code=code("provenance"),
        config=config,
        benchmarks=layout.benchmarks(config, R),
    script:
        "../scripts/provenance.py"


# Snakemake can draw its report only when all jobs are done, so this job calls it a second time. That call must not
# lock the folder, which is locked by the first, and gets the same config in a file.
rule report:
    input:
        rules.tables.output,
        rules.compare.output,
        rules.claims.output,
        rules.figures.output,
        rules.head_tables.output if MEASURED else [],
        rules.promise.output if CALIBRATIONS else [],
        rules.pruned_blocks.output if MEASURED_BLOCKS else [],
        rules.provenance.output,
    output:
        html=f"{R}/report.html",
        config=f"{R}/config.json",
    log:
        f"{R}/logs/report.log",
    benchmark:
        f"{R}/benchmarks/report.tsv"
    conda:
        "../../envs/snakemake.yaml"
    threads: 1
    resources:
        mem_mb=each_try(2000),
        runtime=each_try(30),
    params:
        python=sys.executable,
        snakefile=workflow.main_snakefile,
        config=USER_CONFIG,
        others=["head_tables"] * bool(MEASURED)
        + ["promise"] * bool(CALIBRATIONS)
        + ["pruned_blocks"] * bool(MEASURED_BLOCKS),
    shell:
        "(printf '%s' {params.config:q} > {output.config} &&"
        " {params.python:q} -m snakemake --snakefile {params.snakefile:q} --workflow-profile none --nolock"
        " --replace-workflow-config --configfile {output.config} --report {output.html}"
        " -- tables compare claims figures {params.others} provenance"
        ") > {log} 2>&1"
