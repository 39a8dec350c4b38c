"""How fast decoding is, with and without exits, beside the library's: `snakemake speed`; not part of the report's run.

Timings are no function of their inputs: what this makes is not the same twice, unlike all else here.
"""


rule measure_speed:
    input:
        manifest=f"{R}/backbones/{{backbone}}.json",
        costs=f"{R}/costs/{{backbone}}.json",
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
    threads: whole_machine
    resources:
        gpu=GPUS,
        mem_mb=memory_of("measure_speed"),
        runtime=time_of("measure_speed"),
    params:
        code=code("measure_speed"),
        plan=timed,
        exits=of("backbone", "exits"),
        settings={**config["speed"], "seed": config["seed"], "slots": config["batch_size"]},
        runtime=timed_runtime,
    script:
        "../scripts/measure_speed.py"


rule speed:
    input:
        measured=expand(f"{R}/speed/{{backbone}}.csv", backbone=SPEED),
    output:
        table=report(
            f"{R}/tables/speed.csv",
            caption="../../report/speed.rst",
            category="7. Speed",
            labels={"figure": "measurements", "format": "csv"},
        ),
        svg=report(
            f"{R}/figures/speed.svg",
            caption="../../report/speed.rst",
            category="7. Speed",
            labels={"figure": "measured against implied", "format": "svg"},
        ),
        png=report(
            f"{R}/figures/speed.png",
            caption="../../report/speed.rst",
            category="7. Speed",
            labels={"figure": "measured against implied", "format": "png"},
        ),
    log:
        f"{R}/logs/speed.log",
    benchmark:
        f"{R}/benchmarks/speed.tsv"
    conda:
        "../../envs/plot.yaml"
    threads: 1
    resources:
        mem_mb=each_try(2000),
        runtime=each_try(30),
    params:
        code=code("speed"),
    script:
        "../scripts/speed.py"
