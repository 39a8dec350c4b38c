"""What the rules of answers.smk need to know of a job: functions of its wildcards."""


def trained(part):
    """A function of wildcards: a file of the training of the policy's head; nothing for a policy without one."""

    def path(wildcards):
        if policy_of(wildcards).trained is None:
            return []
        recipe, _ = policy_of(wildcards).trained
        return fill(getattr(rules.train_heads.output, part), backbone=wildcards.backbone, recipe=recipe)

    return path


def policy_code(wildcards):
    """The files of a policy and of its head that are classes of the user's."""
    one = policy_of(wildcards)
    return user_files([one, *([EXPERIMENT.heads[one.trained[1]]] if one.trained else [])])


def settings(wildcards):
    """What a policy is run at."""
    return policy_of(wildcards).settings(exits(wildcards))


def splits(wildcards):
    return runs.splits(EXPERIMENT, run_of(wildcards))


def full_run(wildcards):
    """The full model's answers, from which the oracle tells where tokens could leave; nothing for other policies."""
    if policy_of(wildcards).kind != "oracle":
        return []
    return fill(ANSWERS["test"], **{**wildcards, "policy": "full"})


def plan(wildcards):
    """What an adaptive policy goes by; nothing for a policy that measures nothing."""
    return fill(rules.adapt.output[0], **wildcards) if policy_of(wildcards).is_planned else []


def matched_run(wildcards):
    """The run whose exits random ones are drawn from; nothing for other policies."""
    match = policy_of(wildcards).matched
    return fill(ANSWERS["test"], **{**wildcards, "policy": match}) if match else []


def block_scores(wildcards):
    """The scores by which a policy prunes; nothing for one that needs none."""
    pruned = runs.pruned_policies(EXPERIMENT).get(wildcards.policy)
    if pruned is None:
        return []
    return fill(rules.score_blocks.output[0], backbone=wildcards.backbone, measure=pruned.measure)


def leaves_out_chosen(wildcards):
    """Whether a calibration run leaves out the examples that the policy's thresholds were chosen on."""
    return policy_of(wildcards).fits_on_calibration


def shards(split):
    """A function of wildcards: the parts of a run's answers to one split."""

    def paths(wildcards):
        parts = [{**wildcards, "shard": f"{k}-of-{SHARDS}"} for k in range(SHARDS)]
        return each(getattr(rules.generate.output, split), parts)

    return paths


def adapting_work(wildcards):
    return work.adapt(EXPERIMENT, run_of(wildcards))


def generating_work(wildcards):
    return work.generate(EXPERIMENT, run_of(wildcards))


def timing_work(wildcards):
    return work.wallclock(EXPERIMENT, run_of(wildcards))
