"""What the rules of precision.smk need to know of a job: functions of its wildcards."""


def precision_work(wildcards):
    return work.precision(EXPERIMENT, pair_of(wildcards))


def measured_precision():
    """The files of all jobs that measure it."""
    return [path for pattern in rules.measure_precision.output for path in each(pattern, map(vars, PRECISE))]


def precision_files(pair):
    """What the table says of a backbone and dataset, and the files that it is made from."""
    place = vars(pair)
    return {
        **place,
        "family": EXPERIMENT.backbones[pair.backbone].family,
        "kind": EXPERIMENT.datasets[pair.dataset].kind,
        "exits": EXPERIMENT.backbones[pair.backbone].exits,
        "policies": policies("precise")(pair),
        "data": fill(rules.fetch_dataset.output[0], **place),
        "costs": fill(rules.layer_costs.output[0], **place),
        **{name: fill(path, **place) for name, path in rules.measure_precision.output.items()},
    }
