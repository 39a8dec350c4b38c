"""What a job that generates depends on, by its run: functions of its wildcards."""

ANSWERING_BOTH = set(layout.answering_both(config))
SHARDS = config["generation"]["shards"]


def full_run(wildcards):
    """The full model's answers, from which the oracle tells where tokens could leave; nothing for other policies."""
    is_oracle = policy(wildcards)["kind"] == "oracle"
    return f"{R}/runs/{wildcards.backbone}/{wildcards.dataset}/full/test.parquet" if is_oracle else []


def plan(wildcards):
    """What an adaptive policy goes by; nothing for a policy that measures nothing."""
    run = f"{wildcards.backbone}/{wildcards.dataset}/{wildcards.policy}"
    return f"{R}/adaptive/{run}.json" if policy_kinds.is_planned(policy(wildcards)) else []


def matched_run(wildcards):
    """The run whose exits random ones are drawn from; nothing for other policies."""
    match = policy(wildcards).get("match")
    return f"{R}/runs/{wildcards.backbone}/{wildcards.dataset}/{match}/test.parquet" if match else []


def splits(wildcards):
    """The splits whose questions a run answers."""
    run = (wildcards.backbone, wildcards.dataset, wildcards.policy)
    return ["calibration", "test"] if run in ANSWERING_BOTH else ["test"]


def shards(split):
    """A function of wildcards: the parts of a run's answers to one split."""

    def paths(wildcards):
        run = f"{R}/runs/{wildcards.backbone}/{wildcards.dataset}/{wildcards.policy}"
        return [f"{run}/shards/{k}-of-{SHARDS}/{split}.parquet" for k in range(SHARDS)]

    return paths


def leaves_out_chosen(wildcards):
    """Whether a calibration run leaves out the examples that the policy's thresholds were chosen on."""
    return policy(wildcards).get("adapt") == "per-exit"


def block_scores(wildcards):
    """The scores by which a policy prunes; nothing for one that needs none."""
    measure = layout.MEASURES.get(policy(wildcards).get("by"))
    return f"{R}/pruning/{wildcards.backbone}/{measure}.csv" if measure else []
