"""What the rules of answers.smk need to know of a job: functions of its wildcards.

Many are made for a *part*, the policies that a job is for: `full` (the full model, and the oracle on its answers),
`matched` (those that draw exits as often as another policy leaves), `exits` (all others); and `planned` and `timed`,
those whose thresholds are planned, and whose seconds are measured.
"""


def pair_of(wildcards):
    return runs.Pair(wildcards.backbone, wildcards.dataset)


def names(part, wildcards):
    return runs.policies(EXPERIMENT, pair_of(wildcards), part)


def policies(part):
    """A function of wildcards: the policies of a part, as scripts read them."""

    def entries(wildcards):
        return {name: EXPERIMENT.policies[name].model_dump() for name in names(part, wildcards)}

    return entries


def splits(part):
    """A function of wildcards: the splits whose questions each policy answers."""

    def by_policy(wildcards):
        pair = vars(pair_of(wildcards))
        return {name: runs.splits(EXPERIMENT, runs.Run(**pair, policy=name)) for name in names(part, wildcards)}

    return by_policy


def trained(file, part):
    """A function of wildcards: a file of each training that the policies of a part need."""

    def paths(wildcards):
        recipes = runs.recipes(EXPERIMENT, names(part, wildcards))
        jobs = [{"backbone": wildcards.backbone, "recipe": name} for name in recipes]
        return each(getattr(rules.train_heads.output, file), jobs)

    return paths


def policy_code(part):
    """A function of wildcards: the files of a part's policies and heads that are classes of the user's."""

    def paths(wildcards):
        entries = [EXPERIMENT.policies[name] for name in names(part, wildcards)]
        return user_files([*entries, *(EXPERIMENT.heads[one.trained[1]] for one in entries if one.trained)])

    return paths


def answers(part, split):
    """A function of wildcards: the answers of all shards to one split; nothing of a part without policies."""

    def paths(wildcards):
        if not names(part, wildcards):
            return []
        files = getattr(getattr(rules, runs.ANSWERED_BY[part]).output, split)
        pair = vars(pair_of(wildcards))
        return each(files, [{**pair, "shard": shard} for shard in work.shards(EXPERIMENT, pair_of(wildcards), part)])

    return paths


def kept_pattern(part):
    """The pattern of the files in which the jobs of a part keep their answers."""
    return f"{R}/kept/{PAIR}/{part}{{shard}}.jsonl"


def kept(part):
    """A function of wildcards: the file in which a job keeps its answers."""

    def path(wildcards):
        return fill(kept_pattern(part), **wildcards)

    return path


def plan(wildcards):
    """The plans of adaptive policies; nothing where there is none."""
    return fill(rules.adapt.output[0], **vars(pair_of(wildcards))) if names("planned", wildcards) else []


def block_scores(wildcards):
    """The scores by which policies prune; nothing where none needs any."""
    entries = [EXPERIMENT.policies[name] for name in names("exits", wildcards)]
    measures = sorted({one.measure for one in entries if one.kind == "pruned"} - {None})
    jobs = [{"backbone": wildcards.backbone, "measure": measure} for measure in measures]
    return each(rules.score_blocks.output[0], jobs)


def adapting_work(wildcards):
    return work.adapt(EXPERIMENT, pair_of(wildcards))


def answering_work(part):
    """A function of wildcards: the work of one job of a part."""

    def of_job(wildcards):
        return work.answer(EXPERIMENT, pair_of(wildcards), part)

    return of_job


def timing_work(wildcards):
    return work.wallclock(EXPERIMENT, pair_of(wildcards))
