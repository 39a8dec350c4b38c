"""What the rules of data.smk need to know of a job: functions of its wildcards."""


def backbone_files(wildcards):
    return EXPERIMENT.backbones[wildcards.backbone].files


def backbone_source(wildcards):
    """Where a backbone lies; its manifest does not depend on how it is used."""
    return EXPERIMENT.backbones[wildcards.backbone].model_dump(exclude={"exits", "dtype", "parameters", "batch_size"})


def backbone_is_local(wildcards):
    return EXPERIMENT.backbones[wildcards.backbone].path is not None


def download_minutes(wildcards, attempt):
    return attempt * work.minutes(EXPERIMENT, work.download(EXPERIMENT, wildcards.backbone).seconds)


def download_size(wildcards):
    return round(work.download(EXPERIMENT, wildcards.backbone).output_mb)


def dataset_files(wildcards):
    return EXPERIMENT.datasets[wildcards.dataset].files


def dataset_source(wildcards):
    return EXPERIMENT.datasets[wildcards.dataset].model_dump(exclude={"max_new_tokens"})
