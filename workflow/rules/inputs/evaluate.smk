"""What the rules of evaluate.smk need to know of a job: functions of its wildcards."""


def calibrated_policies(wildcards):
    """The names of the policies that are calibrated on the job's backbone and dataset."""
    pair = wildcards.backbone, wildcards.dataset
    return [run.policy for run in CALIBRATED_RUNS if (run.backbone, run.dataset) == pair]


def calibrated_specs(wildcards):
    return {name: EXPERIMENT.policies[name].model_dump() for name in calibrated_policies(wildcards)}


def calibrated_prices(wildcards):
    """By policy what its tokens cost beside their blocks: of those calibrated, and of the full model."""
    return {
        name: EXPERIMENT.policies[name].price(exits(wildcards)) for name in ("full", *calibrated_policies(wildcards))
    }


def calibration_answers(wildcards):
    """Answers to the calibration questions: of the full model, and of every calibrated policy."""
    names = ("full", *calibrated_policies(wildcards))
    return each(ANSWERS["calibration"], [{**wildcards, "policy": name} for name in names])


def run_files(run):
    """What the tables say of a run, and its files."""
    place = vars(run)
    calibrated = fill(rules.calibrate.output.thresholds, **place) if run in CALIBRATED_RUNS else None
    timed = fill(rules.measure_wallclock.output[0], **place) if runs.is_timed(EXPERIMENT, run) else None
    return runs.labels(EXPERIMENT, run) | {
        "run": fill(ANSWERS["test"], **place),
        "scores": fill(rules.score.output[0], **place),
        "flops": fill(rules.count_flops.output[0], **place),
        "thresholds": calibrated,
        "seconds": timed,
    }
