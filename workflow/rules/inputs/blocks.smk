"""What the rules of blocks.smk need to know of a job: functions of its wildcards."""


def settling_work(wildcards):
    return work.settle(EXPERIMENT, wildcards.backbone)


def scoring_work(wildcards):
    return work.score_blocks(EXPERIMENT, wildcards.backbone, wildcards.measure, most_blocks_dropped(wildcards) or 1)


def most_blocks_dropped(wildcards):
    """The most blocks that some policy leaves out one by one; only the measure of the loss depends on it."""
    drops = [max(one.drop) for one in runs.pruned_policies(EXPERIMENT).values() if one.measure == "loss"]
    return max(drops, default=0) if wildcards.measure == "loss" else None
