"""What the measurement of speed needs to know: which backbones, datasets and heads are timed."""

from early_exit.speed import plan

try:
    SPEED = plan.plan(config, R)
except InputError as error:
    sys.exit(redaction.redact(f"Error: {error}"))


def timed(wildcards):
    return SPEED[wildcards.backbone]


def timed_data(wildcards):
    return [entry["data"] for entry in timed(wildcards)]


def timed_heads(wildcards):
    """Weights and manifests of the heads, and calibrated thresholds where no threshold is given."""
    heads = [head for entry in timed(wildcards) for head in entry["heads"]]
    files = [f"{head['folder']}/{file}" for head in heads for file in ("heads.safetensors", "manifest.json")]
    return sorted({*files, *(head["calibrated"] for head in heads if head["calibrated"])})


def timed_head_code(wildcards):
    return layout.head_files(config, [head["head"] for entry in timed(wildcards) for head in entry["heads"]])


def timed_runtime(wildcards):
    return {**torch_settings(wildcards), "threads": config["speed"]["threads"] or config["threads"]}


def whole_machine(wildcards):
    """All cores that this run has, so that no other job of it runs beside; on a cluster those that torch uses."""
    return workflow.resource_settings.cores or timed_runtime(wildcards)["threads"]
