"""What adaptive thresholds go by: confidences on the full model's answers to the calibration questions."""


rule adapt:
    input:
        data=f"{R}/data/{{dataset}}.parquet",
        manifest=f"{R}/backbones/{{backbone}}.json",
        heads=trained("heads.safetensors"),
        heads_manifest=trained("manifest.json"),
        full=f"{R}/runs/{{backbone}}/{{dataset}}/full/calibration.parquet",
        costs=f"{R}/costs/{{backbone}}.json",
        head_code=head_code,
    output:
        f"{R}/adaptive/{{backbone}}/{{dataset}}/{{policy}}.json",
    log:
        f"{R}/logs/adapt/{{backbone}}/{{dataset}}/{{policy}}.log",
    benchmark:
        f"{R}/benchmarks/adapt/{{backbone}}/{{dataset}}/{{policy}}.tsv"
    priority: 50
    conda:
        MODEL_ENV
    threads: config["threads"]
    resources:
        gpu=GPUS,
        mem_mb=memory_of("adapt"),
        runtime=time_of("adapt"),
    params:
        code=code("adapt"),
        policy=policy,
        exits=of("backbone", "exits"),
        max_new_tokens=of("dataset", "max_new_tokens"),
        overflow=config["generation"]["prompt_overflow"],
        runtime=torch_settings,
    script:
        "../scripts/adapt.py"
