"""How fast decoding is, with and without exits, beside the library's: `snakemake speed`; not part of the report's run.

Timings are no function of their inputs: what this makes is not the same twice, unlike all else here.
"""

from early_exit.speed import plan as speed_plan


include: "inputs/speed.smk"


try:
    TIMED = speed_plan.plan(EXPERIMENT, R)
except InputError as error:
    sys.exit(redaction.redact(f"Error: {error}"))
TIMED_THREADS = EXPERIMENT.speed.threads or EXPERIMENT.threads


rule measure_speed:
    input:
        manifest=rules.fetch_backbone.output[0],
        costs=rules.layer_costs.output[0],
        data=timed_data,
        heads=timed_heads,
        head_code=timed_head_code,
    output:
        f"{R}/speed/{{backbone}}.csv",
    log:
        f"{R}/logs/measure_speed/{{backbone}}.log",
    benchmark:
        f"{R}/benchmarks/measure_speed/{{backbone}}.tsv"
    conda:
        MODEL_ENV
    threads: whole_machine(TIMED_THREADS)
    resources:
        **model_job(speed_work),
    params:
        code=code("measure_speed"),
        plan=timed,
        exits=exits,
        settings=timed_settings,
        runtime=timed_runtime,
    script:
        "../scripts/measure_speed.py"


rule speed:
    input:
        measured=each(rules.measure_speed.output[0], [{"backbone": name} for name in TIMED]),
    output:
        table=report(
            f"{R}/tables/speed.csv",
            caption="../../report/speed.rst",
            category="7. Speed",
            labels={"figure": "measurements", "format": "csv"},
        ),
        svg=f"{R}/figures/speed.svg",
        png=report(
            f"{R}/figures/speed.png",
            caption="../../report/speed.rst",
            category="7. Speed",
            labels={"figure": "measured against implied", "format": EMBEDDED},
        ),
    log:
        f"{R}/logs/speed.log",
    benchmark:
        f"{R}/benchmarks/speed.tsv"
    conda:
        "../../envs/plot.yaml"
    threads: 1
    params:
        code=code("speed"),
    script:
        "../scripts/speed.py"
