"""What the rules of heads.smk need to know of a job: functions of its wildcards."""


def recipe_heads(wildcards):
    return designs(EXPERIMENT.recipes[wildcards.recipe])


def recipe_code(wildcards):
    """The files of a recipe's heads that are classes of the user's."""
    return user_files(EXPERIMENT.heads[head] for head in EXPERIMENT.recipes[wildcards.recipe])


def training_work(wildcards):
    return work.train(EXPERIMENT, wildcards.backbone, wildcards.recipe)


def measuring_work(wildcards):
    return work.measure_heads(EXPERIMENT, wildcards.backbone, wildcards.recipe)


def seed_distillation(wildcards):
    return {**EXPERIMENT.distillation.settings(), "seed": int(wildcards.seed)}


def seed_settings(wildcards):
    return {**torch_settings(wildcards), "seed": int(wildcards.seed)}


def all_seeds(part):
    """A function of wildcards: a file of the recipe's trainings from every seed, the run's own first."""

    def paths(wildcards):
        first = getattr(rules.train_heads.output, part)
        others = getattr(rules.train_heads_seed.output, part)
        return [fill(first, **wildcards), *each(others, ({**wildcards, "seed": seed} for seed in SEEDS[1:]))]

    return paths
