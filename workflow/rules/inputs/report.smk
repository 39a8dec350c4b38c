"""What the rules of report.smk need to know of a job: functions of its wildcards."""


def benchmarks():
    """The files in which Snakemake notes what each job that runs a model took, by rule."""
    backbones = [{"backbone": name} for name in EXPERIMENT.backbones]
    seeds = [{**head, "seed": seed} for head in MEASURED_HEADS for seed in SEEDS[1:]]
    answering = {}
    for part, name in runs.ANSWERED_BY.items():
        answered = [pair for pair in PAIRS if runs.policies(EXPERIMENT, pair, part)]
        answering[name] = [
            {**vars(pair), "shard": shard} for pair in answered for shard in work.shards(EXPERIMENT, pair, part)
        ]
    planned = dict.fromkeys(run.pair for run in runs.planned_runs(EXPERIMENT))
    jobs = {
        "fetch_backbone": backbones,
        "train_heads": [dict(zip(("backbone", "recipe"), pair)) for pair in runs.trainings(EXPERIMENT)],
        "train_heads_seed": seeds,
        "measure_heads": MEASURED_HEADS,
        "settle": backbones,
        "score_blocks": [dict(zip(("backbone", "measure"), pair)) for pair in runs.measured_blocks(EXPERIMENT)],
        "measure_precision": list(map(vars, PRECISE)),
        "adapt": list(map(vars, planned)),
        **answering,
    }
    return {name: each(getattr(rules, name).benchmark, wildcards) for name, wildcards in jobs.items()}
