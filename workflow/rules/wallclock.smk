"""Seconds per token beside FLOPs per token, if `wallclock.examples` is set; timings are not the same twice."""


rule measure_wallclock:
    input:
        data=f"{R}/data/{{dataset}}.parquet",
        manifest=f"{R}/backbones/{{backbone}}.json",
        heads=trained("heads.safetensors"),
        heads_manifest=trained("manifest.json"),
        plan=plan,
        matched=matched_run,
        block_scores=block_scores,
        run=f"{R}/runs/{{backbone}}/{{dataset}}/{{policy}}/test.parquet",
        head_code=head_code,
    output:
        f"{R}/runs/{{backbone}}/{{dataset}}/{{policy}}/seconds.csv",
    log:
        f"{R}/logs/measure_wallclock/{{backbone}}/{{dataset}}/{{policy}}.log",
    benchmark:
        f"{R}/benchmarks/measure_wallclock/{{backbone}}/{{dataset}}/{{policy}}.tsv"
    conda:
        MODEL_ENV
    threads: whole_machine
    resources:
        gpu=GPUS,
        mem_mb=memory_of("measure_wallclock"),
        runtime=time_of("measure_wallclock"),
    params:
        code=code("measure_wallclock"),
        policy=policy,
        grid=grid,
        exits=of("backbone", "exits"),
        settings=config["wallclock"],
        max_new_tokens=of("dataset", "max_new_tokens"),
        rules=DECODING,
        runtime=decode_settings,
    script:
        "../scripts/measure_wallclock.py"
