"""Figures, the provenance page, and the report that holds them with the tables."""

PLOTS = layout.plots(config, R)
CATEGORIES = {
    **dict.fromkeys(("policies", "quality", "equal_compute"), "1. Quality against compute"),
    "exits": "2. Where tokens exit",
    "settle": "2. Where tokens exit",
    "training": "3. Exit heads",
}


rule figures:
    input:
        results=rules.tables.output.results,
        exits=rules.tables.output.exits,
        training=rules.tables.output.training,
        settle=rules.tables.output.settle,
        equal_compute=rules.compare.output.equal_compute,
        policies=rules.compare.output.policies,
    output:
        [
            report(
                plot[ending],
                caption=f"../../report/{plot['kind']}.rst",
                category=CATEGORIES[plot["kind"]],
                subcategory=plot["key"] or "all backbones",
                labels={"figure": plot["kind"], "format": ending},
            )
            for plot in PLOTS
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
        plots=PLOTS,
        plain=[name for name, spec in config["policies"].items() if policy_kinds.is_plain(spec)],
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
        rules.head_figures.output,
        rules.promise.output if CALIBRATIONS else [],
        rules.promise_figures.output,
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
        others=["head_tables", "head_figures"] * bool(MEASURED)
        + ["promise", "promise_figures"] * bool(CALIBRATIONS)
        + ["pruned_blocks"] * bool(MEASURED_BLOCKS),
    shell:
        "(printf '%s' {params.config:q} > {output.config} &&"
        " {params.python:q} -m snakemake --snakefile {params.snakefile:q} --workflow-profile none --nolock"
        " --replace-workflow-config --configfile {output.config} --report {output.html}"
        " -- tables compare claims figures {params.others} provenance"
        ") > {log} 2>&1"
