"""What the rules of speed.smk need to know of a job: functions of its wildcards."""


def timed(wildcards):
    return TIMED[wildcards.backbone]


def timed_data(wildcards):
    return [entry["data"] for entry in timed(wildcards)]


def timed_heads(wildcards):
    """Weights and manifests of the heads, and calibrated thresholds where no threshold is given."""
    heads = [head for entry in timed(wildcards) for head in entry["heads"]]
    paths = [f"{head['folder']}/{file}" for head in heads for file in ("heads.safetensors", "manifest.json")]
    return sorted({*paths, *(head["calibrated"] for head in heads if head["calibrated"])})


def timed_head_code(wildcards):
    return user_files(EXPERIMENT.heads[head["head"]] for entry in timed(wildcards) for head in entry["heads"])


def timed_runtime(wildcards):
    return {**torch_settings(wildcards), "threads": TIMED_THREADS}


def timed_settings(wildcards):
    slots = EXPERIMENT.backbones[wildcards.backbone].batch_size
    return {**EXPERIMENT.speed.model_dump(), "seed": EXPERIMENT.seed, "slots": slots}


def speed_work(wildcards):
    return work.speed(EXPERIMENT, wildcards.backbone)
