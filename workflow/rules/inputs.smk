"""Files and settings of a job that depend on what it is for: functions of its wildcards."""

# How often a training keeps its state is no param: it changes no result.
DISTILLATION = {key: value for key, value in config["distillation"].items() if key != "checkpoint_seconds"}
SEEDS = [config["distillation"]["seed"] + k for k in range(config["head_quality"]["seeds"])]


def trained(file):
    """A function of wildcards: a file of the recipe with the policy's head; nothing for a policy without one."""

    def path(wildcards):
        recipe = policy(wildcards).get("recipe")
        return f"{R}/heads/{wildcards.backbone}/{recipe}/{file}" if recipe else []

    return path


def model_files(wildcards):
    return layout.model_files(spec(wildcards, "backbone"))


def dataset_files(wildcards):
    return layout.data_files(spec(wildcards, "dataset"))


def head_code(wildcards):
    """The files of a job's heads that are not built in: of a recipe's, of the policy's one, or of all."""
    if hasattr(wildcards, "recipe"):
        heads = config["recipes"][wildcards.recipe]
    elif hasattr(wildcards, "policy"):
        heads = [head for head in [policy(wildcards).get("head")] if head]
    else:
        heads = config["heads"]
    return layout.head_files(config, heads)


def seed_distillation(wildcards):
    return {**DISTILLATION, "seed": int(wildcards.seed)}


def seed_settings(wildcards):
    return {**torch_settings(wildcards), "seed": int(wildcards.seed)}


def all_seeds(file):
    """A function of wildcards: a file of the recipe's trainings from every seed, the run's own first."""

    def paths(wildcards):
        recipe = f"{wildcards.backbone}/{wildcards.recipe}"
        return [f"{R}/heads/{recipe}/{file}", *(f"{R}/quality/{recipe}/{seed}/{file}" for seed in SEEDS[1:])]

    return paths


CALIBRATIONS = layout.calibrations(config)
CALIBRATED = {policy: config["policies"][policy] for _, _, policy in layout.calibrated_runs(config)}


def calibrated_policies(wildcards):
    """The policies that are calibrated on the job's backbone and dataset, {name: spec}."""
    pair = (wildcards.backbone, wildcards.dataset)
    return {policy: CALIBRATED[policy] for *of_run, policy in layout.calibrated_runs(config) if tuple(of_run) == pair}


def counted_policies(wildcards):
    """By policy what its tokens cost beside their blocks: of those calibrated, and of the full model."""
    policies = {"full": config["policies"]["full"], **calibrated_policies(wildcards)}
    exits = spec(wildcards, "backbone")["exits"]
    return {name: policy_kinds.counted(spec_of, exits) for name, spec_of in policies.items()}


def calibration_runs(wildcards):
    """Answers to the calibration questions: of the full model, and of every calibrated policy."""
    folder = f"{R}/runs/{wildcards.backbone}/{wildcards.dataset}"
    return [f"{folder}/{policy}/calibration.parquet" for policy in ("full", *calibrated_policies(wildcards))]


def counted(wildcards):
    """What a policy's tokens cost beside their blocks."""
    return policy_kinds.counted(policy(wildcards), spec(wildcards, "backbone")["exits"])


def blocks_gone(wildcards):
    """The most blocks that some policy leaves out one by one; only the measure of the loss looks at it."""
    drops = [spec["drop"] for spec in config["policies"].values() if spec.get("by") == "one-by-one"]
    return max(map(max, drops), default=0) if wildcards.measure == "loss" else None
